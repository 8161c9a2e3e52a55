"""Adapters that were trained elsewhere: pruned with the model that they are on, and loaded again by peft alone."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import graphprune as gp
from graphprune.adapters import adapter_layers
from graphprune.errors import FileFormatError, SourceError
from graphprune.sources import load_adapted

from ..tiny import save_adapter, save_byte_tokenizer, save_tiny_llama

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.arange(26).reshape(2, 13)

WITHOUT_GRAPHPRUNE = """
import sys, torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

for base, adapter, expected in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3]):
    expected = load_file(expected)
    model = AutoModelForCausalLM.from_pretrained(base)
    model = (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()
    with torch.no_grad():
        logits = model(input_ids=expected["ids"]).logits
    torch.testing.assert_close(logits, expected["logits"], rtol=1e-4, atol=1e-5, msg=lambda text: f"{base}: {text}")
assert not any(name.startswith("graphprune") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return save_adapter(base.parent / "adapter", base, target_modules=PROJECTIONS)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits  # type: ignore[no-any-return]


def test_the_model_is_that_of_peft(base: Path, adapter: Path) -> None:
    from peft import PeftModel

    model, tokenizer = load_adapted(adapter)
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    assert torch.equal(logits(model), logits(expected))
    assert not torch.allclose(logits(model), logits(AutoModelForCausalLM.from_pretrained(base)), atol=1e-2)
    assert {name.split(".")[-3] for name, each in model.named_parameters() if each.requires_grad} == {
        "lora_A",
        "lora_B",
    }
    assert not model.training
    assert tokenizer("ab")["input_ids"] == [65, 66]


def test_a_base_that_is_named_is_taken_and_the_adapters_own_tokenizer(base: Path, tmp_path: Path) -> None:
    other = save_tiny_llama(tmp_path / "other", rope_theta=100.0)
    adapter = save_adapter(tmp_path / "adapter", base)
    save_byte_tokenizer(adapter)
    (other / "tokenizer.json").unlink()
    (other / "tokenizer_config.json").unlink()
    model, _ = load_adapted(adapter, other)
    assert model.config.rope_parameters["rope_theta"] == 100.0


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two projections": {"target_modules": ["q_proj", "v_proj"]},
    "norms": {"modules_to_save": ["input_layernorm"]},
    "pissa": {"init_lora_weights": "pissa"},
    "rslora": {"use_rslora": True, "rank_pattern": {"q_proj": 2}},
}


@pytest.mark.slow
def test_peft_alone_loads_what_is_left(base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_GRAPHPRUNE]
    for name, settings in SETTINGS.items():
        for adapters in ("keep", "merge"):
            model, tokenizer = load_adapted(save_adapter(tmp_path / f"{name} {adapters}", base, **settings))
            traced = gp.trace(model, kwargs={"input_ids": IDS})
            plan = gp.select(traced, gp.score(traced, "magnitude"), ratio=0.2, of="base", homogeneous=True)
            compact = gp.rewrite(traced, plan, adapters=adapters)  # type: ignore[arg-type]
            out = tmp_path / f"{name} {adapters} pruned"
            gp.save(compact, out, tokenizer)
            save_file({"ids": IDS, "logits": logits(compact.module)}, tmp_path / f"{name} {adapters} expected")
            kept = out / "adapter" if adapters == "keep" else ""
            command += [str(out), str(kept), str(tmp_path / f"{name} {adapters} expected")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_what_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        load_adapted(tmp_path)
    assert str(caught.value) == f"There is no adapter_config.json in {tmp_path}: name a directory that peft wrote."


@pytest.mark.parametrize("name", [None, ""])
def test_an_adapter_that_does_not_name_its_model(base: Path, tmp_path: Path, name: str | None) -> None:
    adapter = save_adapter(tmp_path / "adapter", base)
    change(adapter, base_model_name_or_path=name)
    with pytest.raises(SourceError) as caught:
        load_adapted(adapter)
    assert str(caught.value) == (
        f"{adapter / 'adapter_config.json'} does not say which model the adapter is for: name the model, and "
        f"--adapter {adapter}."
    )
    assert adapter_layers(load_adapted(adapter, base)[0])


def test_an_adapter_of_a_model_that_has_moved(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base)
    change(adapter, base_model_name_or_path="/no/such")
    with pytest.raises(SourceError) as caught:
        load_adapted(adapter)
    assert str(caught.value) == (
        f"The adapter in {adapter} was trained on /no/such, which can't be found (There is no directory /no/such: "
        f"check the path): name the place of that model, and --adapter {adapter}."
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2}, ": Error(s) in loading state_dict"),
        (
            {"num_hidden_layers": 3},
            ": it has no base_model.model.model.layers.2.mlp.down_proj.lora_A.weight, so it was",
        ),
        (
            {"num_hidden_layers": 1},
            ": there is no place for its base_model.model.model.layers.1.mlp.down_proj.lora_A.weight, so it was",
        ),
    ],
)
def test_an_adapter_of_another_model(adapter: Path, tmp_path: Path, changes: dict[str, int], says: str) -> None:
    other = save_tiny_llama(tmp_path / "other", **changes)
    with pytest.raises(SourceError) as caught:
        load_adapted(adapter, other)
    expected = f"The adapter in {adapter} can't be put on this LlamaForCausalLM{says}"
    assert str(caught.value)[: len(expected)] == expected


@pytest.mark.parametrize("damage", ["config", "weights", "no weights"])
def test_a_damaged_adapter(base: Path, tmp_path: Path, damage: str) -> None:
    adapter = save_adapter(tmp_path / "adapter", base)
    weights = adapter / "adapter_model.safetensors"
    match damage:
        case "config":
            (adapter / "adapter_config.json").write_text("[]")
        case "weights":
            weights.write_bytes(weights.read_bytes()[:-7])
        case "no weights":
            weights.unlink()
    with pytest.raises(FileFormatError if damage == "config" else SourceError, match=str(adapter)):
        load_adapted(adapter)


def test_the_adapter_that_is_left_is_the_one_that_was_trained(adapter: Path, tmp_path: Path) -> None:
    model, _ = load_adapted(adapter)
    traced = gp.trace(model, kwargs={"input_ids": IDS})
    plan = gp.select(traced, gp.score(traced, "magnitude"), ratio=0.2, of="base", homogeneous=True)
    gp.save(gp.rewrite(traced, plan), tmp_path / "out")
    before, after = (load_file(path / "adapter_model.safetensors") for path in (adapter, tmp_path / "out" / "adapter"))
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    assert torch.equal(after[name.format("A")], before[name.format("A")])
    kept = plan.groups["base_model.model.model.layers.0.mlp:channels"].kept
    assert torch.equal(after[name.format("B")], before[name.format("B")][list(kept)])
    assert len(after[name.format("B")]) < len(before[name.format("B")])


def change(adapter: Path, **changes: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
