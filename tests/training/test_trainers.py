"""The callback in subclasses of the Trainer, as trainers for instructions and preferences are."""

from functools import wraps
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

import graphprune as gp

from .tiny import plain_trainer, random_windows, tiny_llama, tiny_with_adapters, unmasked

ARGUMENTS: dict[str, Any] = {
    "max_steps": 20,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}


def assert_pruned(callback: gp.LoRAPruneCallback, model: nn.Module) -> None:
    assert unmasked(model, callback.traced, callback.plan) == []
    compact = callback.compact(adapters="merge")
    assert compact.report is not None
    assert compact.module is not None
    assert compact.ratio == pytest.approx(0.3, abs=0.01)


class AnswersOnly(Trainer):
    """Learns the answers and not the prompts, with a loss and a step of its own."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        chosen = inputs["answer_mask"][:, 1:]
        loss = cross_entropy(outputs.logits[:, :-1][chosen], inputs["input_ids"][:, 1:][chosen])
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        model.train()
        loss: Tensor = self.compute_loss(model, self._prepare_inputs(inputs))
        self.accelerator.backward(loss)
        return loss.detach()


def padded(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of the length of its longest example."""
    length = max(len(each["input_ids"]) for each in examples)
    rows = [each["input_ids"] + [0] * (length - len(each["input_ids"])) for each in examples]
    positions = torch.arange(length)
    ends = torch.tensor([[len(each["input_ids"])] for each in examples])
    prompts = torch.tensor([[each["prompt"]] for each in examples])
    return {
        "input_ids": torch.tensor(rows),
        "attention_mask": (positions < ends).long(),
        "answer_mask": (positions >= prompts) & (positions < ends),
    }


def test_a_trainer_with_a_loss_a_step_and_batches_of_its_own(tmp_path: Path) -> None:
    model = tiny_with_adapters()
    examples = [
        {"input_ids": window[: 6 + number % 7].tolist(), "prompt": 3} for number, window in enumerate(random_windows())
    ]
    callback = gp.LoRAPruneCallback(ratio=0.3, interval=3)
    AnswersOnly(
        model=model,
        args=TrainingArguments(str(tmp_path), remove_unused_columns=False, **ARGUMENTS),
        train_dataset=examples,  # type: ignore[arg-type]
        data_collator=padded,
        callbacks=[callback],
    ).train()
    assert_pruned(callback, model)


def test_what_a_trainer_puts_around_forward_stays_with_the_model_that_is_trained(tmp_path: Path) -> None:
    """A copy of the module would run the original: TRL adds a loss in this way."""
    model: Any = tiny_with_adapters()
    base = model.get_base_model()
    original, calls = base.forward, []

    @wraps(type(base).forward)
    def noted(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        calls.append(self)
        return original(*args, **kwargs)

    base.forward = MethodType(noted, base)
    callback = gp.LoRAPruneCallback(ratio=0.3, interval=3)
    plain_trainer(model, tmp_path, callback, save_strategy="no").train()
    assert calls == [base] * 20
    assert_pruned(callback, model)
    assert calls == [base] * 20
    assert vars(base)["forward"].__func__ is noted


@pytest.mark.slow
def test_trl(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="needs trl")
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(61)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    texts = [" ".join(f"w{number}" for number in window) for window in random_windows().tolist()]
    callback = gp.LoRAPruneCallback(ratio=0.3, interval=3)
    trainer = trl.SFTTrainer(
        model=tiny_llama(),
        args=trl.SFTConfig(str(tmp_path), **ARGUMENTS, bf16=False, gradient_checkpointing=True),
        train_dataset=Dataset.from_dict({"text": texts}),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", eos_token="w1"),
        peft_config=LoraConfig(r=4, target_modules="all-linear"),
        callbacks=[callback],
    )
    trainer.train()
    assert_pruned(callback, trainer.model)


@pytest.mark.parametrize("adapters", [torch.float32, torch.bfloat16], ids=str)
def test_a_base_in_half_precision(adapters: torch.dtype, tmp_path: Path) -> None:
    base: Any = tiny_llama().to(torch.bfloat16)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    model = get_peft_model(base, config, autocast_adapter_dtype=adapters == torch.float32)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {adapters}
    callback = gp.LoRAPruneCallback(ratio=0.3, interval=3)
    plain_trainer(model, tmp_path, callback, save_strategy="no", bf16=True).train()
    assert_pruned(callback, model)


@pytest.mark.slow
def test_scores_are_those_of_clipped_gradients(tmp_path: Path) -> None:
    """While the adapters are zero, the importance is a square of what the gradients are multiplied with."""
    scores = []
    for limit in (0.0, 1e-3):
        callback = gp.LoRAPruneCallback(ratio=0.3, interval=1)
        trainer = plain_trainer(
            tiny_with_adapters(),
            tmp_path,
            callback,
            save_strategy="no",
            max_steps=1,
            max_grad_norm=limit,
            logging_steps=1,
        )
        trainer.train()
        assert callback.scores is not None
        scores.append(callback.scores)
    norm = trainer.state.log_history[0]["grad_norm"]
    for name, whole in scores[0].items():
        assert torch.allclose(scores[1][name], whole * (1e-3 / norm) ** 2, rtol=1e-3), name
