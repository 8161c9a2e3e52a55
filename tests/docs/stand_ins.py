"""What stands in, on each page of the documentation, for the reader's models and data: the same things, tiny.

A name on the Hugging Face hub is a directory of that name, which ``from_pretrained`` prefers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune as gp

from ..tiny import save_tiny_llama

SLOW = {
    "README.md",
    "docs/command-line.md",
    "docs/compaction.md",
    "docs/criteria.md",
    "docs/evaluation.md",
    "docs/onnx.md",
    "docs/training.md",
    "docs/quantised.md",
    "docs/report.md",
    "docs/start.md",
    "prune_while_training",
    *(f"docs/recipes/{name}.md" for name in ("accelerate", "llama-lora", "qlora", "resume", "vit")),
}
"""Pages and examples that take long, or need an extra that the fast tests do without."""

TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on\n" * 60


def stand_ins(page: str, directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the blocks of a page find, and in the directory the files: ``MODEL`` and texts on every page."""
    patch.setenv("HF_HUB_OFFLINE", "1")
    save_tiny_llama(directory / "MODEL", max_position_embeddings=2048)
    for name in ("tune.txt", "test.txt"):
        (directory / name).write_text(TEXT, encoding="utf-8")
    prepare = PAGES.get(page)
    names = {} if prepare is None else prepare(directory, patch)
    return {"__name__": "__main__", "gp": gp, "torch": torch, "Path": Path, **names}


def split_as_gpt2(directory: Path) -> None:
    """Let the tokenizer of a model split text as GPT-2's does, which GGUF has a name for."""
    file = directory / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    tokenizer["pre_tokenizer"]["use_regex"] = True
    file.write_text(json.dumps(tokenizer), encoding="utf-8")


def readme(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    split_as_gpt2(directory / "MODEL")
    return {"model": language_model(), "ids": ids(), **adapted_training()}


def big_checkpoints(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    plan = halved(gp.trace(AutoModelForCausalLM.from_pretrained(directory / "MODEL")))
    plan.save(directory / "PLAN")
    return {"plan": plan}


def command_line(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    split_as_gpt2(directory / "MODEL")
    save_tiny_llama(directory / "HuggingFaceTB" / "SmolLM2-135M-Instruct", num_hidden_layers=8)
    return {}


def compaction(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return adapted_training()


def concepts(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    tower = CLIPVisionModel(CLIPVisionConfig(image_size=8, patch_size=4, **sizes)).eval()
    model = SimpleNamespace(vision_tower=tower, config=SimpleNamespace(vision_config=tower.config))
    traced = gp.trace(language_model(layers=1))
    return {"model": model, "pixels": torch.randn(1, 3, 8, 8), "traced": traced}


def criteria(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    traced = gp.trace(language_model(layers=8, intermediate_size=640))
    batches = [{"input_ids": ids(4, 16, seed=seed)} for seed in range(12)]
    return {"traced": traced, "plan": halved(traced), "batches": batches, "scores": gp.score(traced, "magnitude")}


def deploy(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    import huggingface_hub
    from transformers import AutoTokenizer

    hub = SimpleNamespace(
        create_repo=lambda name, **options: SimpleNamespace(repo_id=name),
        upload_folder=lambda **options: SimpleNamespace(commit_url="https://huggingface.co/me/smaller/commit/1"),
    )
    patch.setattr(huggingface_hub, "HfApi", lambda **options: hub)
    traced = gp.trace(language_model())
    compact = gp.rewrite(traced, halved(traced))
    gp.save(compact, directory / "out")
    tokenizer = AutoTokenizer.from_pretrained(directory / "MODEL")
    scores = gp.score(traced, "magnitude")
    return {"traced": traced, "scores": scores, "compact": compact, "tokenizer": tokenizer}


def evaluation(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_tiny_llama(directory / "DENSE", max_position_embeddings=2048)
    save_tiny_llama(directory / "PRUNED", max_position_embeddings=2048)
    traced = gp.trace(AutoModelForCausalLM.from_pretrained(directory / "MODEL"))
    tokenizer = AutoTokenizer.from_pretrained(directory / "MODEL")
    gp.save(gp.rewrite(traced, halved(traced)), directory / "OUT", tokenizer)
    (directory / "tasks").mkdir()
    rows = [{"question": "After a comes", "choices": [" q", " b"], "answer": 1}] * 3
    (directory / "tasks" / "letters.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return {"text": TEXT}


def inspect(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"model": language_model(), "inputs": {"input_ids": ids()}}


def onnx(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    save_tiny_llama(directory / "OUT")
    traced = gp.trace(language_model())
    compact = gp.rewrite(traced, halved(traced), module_form=False)
    gp.save(compact, directory / "out")
    return {"ids": traced.kwargs["input_ids"]}


def quantised(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, bos_token_id=None, eos_token_id=None, **sizes)).save_pretrained("NAME")
    training = adapted_training()
    traced = gp.trace(LlamaForCausalLM.from_pretrained("NAME"))
    scores = gp.score(traced, "magnitude")
    compact = gp.rewrite(traced, gp.select(traced, scores, ratio=0.2, multiple_of=32, kinds=["channels"]))
    return {"NAME": "NAME", "args": training["arguments"], "data": training["examples"], "compact": compact}


def llama_lora(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    save_tiny_llama(directory / "meta-llama" / "Llama-3.2-1B")
    return {}


def qlora(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    save_tiny_llama(directory / "meta-llama" / "Llama-3.1-8B", hidden_size=64, intermediate_size=128, head_dim=16)
    return {}


def resume(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"examples": adapted_training()["examples"]}


def cnn(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """timm's own ResNet without pretrained weights, where timm is installed, or else a small one in its place."""
    try:
        import timm
    except ImportError:
        patch.setitem(sys.modules, "timm", SimpleNamespace(create_model=lambda name, pretrained: residual_network()))
    else:
        make = timm.create_model
        patch.setattr(timm, "create_model", lambda name, pretrained: make(name, pretrained=False))
    batch = (torch.randn(2, 3, 224, 224), torch.tensor([0, 1]))
    return {"loader": [batch]}


def experts(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    from transformers import AutoTokenizer, Qwen2MoeConfig, Qwen2MoeForCausalLM

    name = directory / "Qwen" / "Qwen1.5-MoE-A2.7B"
    tokenizer = AutoTokenizer.from_pretrained(directory / "MODEL")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    inner = {"intermediate_size": 48, "moe_intermediate_size": 40, "shared_expert_intermediate_size": 40}
    config = Qwen2MoeConfig(vocab_size=len(tokenizer), num_experts=6, num_experts_per_tok=2, **sizes, **inner)
    Qwen2MoeForCausalLM(config).save_pretrained(name)
    tokenizer.save_pretrained(name)
    return {}


def vit(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = ViTConfig(image_size=16, patch_size=4, num_labels=2, **sizes)
    ViTForImageClassification(config).save_pretrained(directory / "google" / "vit-base-patch16-224")
    return {}


def training(directory: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    from torch import distributed
    from torch.distributed import fsdp
    from typer.testing import CliRunner

    from graphprune.cli import app

    fully_shard = fsdp.fully_shard

    def shard(module: nn.Module) -> None:
        """As a training of one process does."""
        if not distributed.is_initialized():
            distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        fully_shard(module, mesh=distributed.init_device_mesh("cpu", (1,)))

    patch.setattr(fsdp, "fully_shard", shard)
    config = gp.PruneConfig(ratio=0.2, steps=2, window=16, interval=1)

    words = ["prune", "MODEL", "--ratio", "0.2", "-o", "OUT", "--text", "tune.txt", "--no-tune"]
    short = ["--criterion", "magnitude", "--steps", "3", "--interval", "1", "--window", "16"]
    assert CliRunner().invoke(app, [*words, *short]).exit_code == 0
    return {"config": config, "total_steps": 6}


PAGES = {
    "README.md": readme,
    "docs/big-checkpoints.md": big_checkpoints,
    "docs/command-line.md": command_line,
    "docs/compaction.md": compaction,
    "docs/concepts.md": concepts,
    "docs/criteria.md": criteria,
    "docs/deploy.md": deploy,
    "docs/evaluation.md": evaluation,
    "docs/inspect.md": inspect,
    "docs/onnx.md": onnx,
    "docs/quantised.md": quantised,
    "docs/recipes/accelerate.md": llama_lora,
    "docs/recipes/cnn-onnx.md": cnn,
    "docs/recipes/experts.md": experts,
    "docs/recipes/llama-lora.md": llama_lora,
    "docs/recipes/qlora.md": qlora,
    "docs/recipes/resume.md": resume,
    "docs/recipes/vit.md": vit,
    "docs/training.md": training,
}


def language_model(layers: int = 2, **changes: Any) -> Any:
    """A LLaMA of width 32 with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(bos_token_id=None, eos_token_id=None, **{**sizes, **heads, **changes})
    return LlamaForCausalLM(config).eval()


def residual_network() -> nn.Module:
    """A convolution, one with a shortcut around it, and a head."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 16, 7, stride=8, padding=3), nn.BatchNorm2d(16)
            self.inner, self.outer = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)
            self.head = nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.stem(x)).relu()
            return self.head((x + self.outer(self.inner(x).relu())).mean((2, 3)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    return Network()


def ids(rows: int = 2, length: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(0, 64, (rows, length), generator=torch.Generator().manual_seed(seed))


def halved(traced: gp.TracedModel) -> gp.PruningPlan:
    return gp.select(traced, gp.score(traced, "magnitude"), ratio=0.1, target="hf")


def adapted_training() -> dict[str, Any]:
    """A model with adapters, examples, and the arguments of a Trainer for three steps."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    model = get_peft_model(language_model(), LoraConfig(r=4, target_modules="all-linear"))
    arguments = TrainingArguments("run", max_steps=4, per_device_train_batch_size=2, report_to="none", use_cpu=True)
    examples = [{"input_ids": row, "labels": row} for row in ids(8)]
    return {"Trainer": Trainer, "peft_model": model, "arguments": arguments, "examples": examples}
