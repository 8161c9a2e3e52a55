"""The callback in an unmodified Trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, default_data_collator

import graphprune as gp
from graphprune.errors import BudgetError, TrainingError
from graphprune.training.callback import LoRAPruneCallback

from .tiny import plain_trainer, random_windows, tiny_llama, tiny_with_adapters, unmasked


class Watch(TrainerCallback):
    """Notes the plan and what is not masked after each step of the optimiser."""

    def __init__(self, callback: LoRAPruneCallback):
        self.callback = callback
        self.plans: list[gp.PruningPlan] = []
        self.unmasked: list[str] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.plans.append(self.callback.plan)
        self.unmasked += unmasked(kwargs["model"], self.callback.traced, self.callback.plan)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"tied": False},
        {"kv_heads": 4, "queries": 1},
        {"kv_heads": 1, "queries": 4, "tied": False},
    ],
    ids=str,
)
def test_a_model_is_pruned_in_an_unmodified_trainer(sizes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_with_adapters(**sizes)
    callback = gp.LoRAPruneCallback(ratio=0.3, interval=3)
    watch = Watch(callback)
    plain_trainer(model, tmp_path, callback, watch, save_strategy="no").train()

    assert watch.unmasked == []
    assert len({plan.to_json() for plan in watch.plans}) > 3
    for before, after in zip(watch.plans, watch.plans[1:], strict=False):
        for name, group in before.groups.items():
            assert not (after.groups[name].mask() & ~group.mask()).any(), f"{name} got units back"

    assert callback.pruner.removed == pytest.approx(0.3, abs=0.01)
    compact = callback.compact(adapters="merge")
    assert compact.ratio == pytest.approx(callback.pruner.removed)
    assert compact.report is not None
    assert compact.module_error is None
    kept = callback.compact()
    ids = random_windows()[:2]
    assert torch.allclose(kept.module(input_ids=ids).logits, model.eval()(input_ids=ids).logits, atol=1e-5)


def test_the_plan_says_how_it_came_to_be(tmp_path: Path) -> None:
    callback = LoRAPruneCallback(ratio=0.2, interval=50)
    plain_trainer(tiny_with_adapters(), tmp_path, callback, save_strategy="no").train()
    assert callback.plan.about["ratio"] == 0.2
    # the interval is longer than the training: all goes where cool-down begins
    assert callback.plan.about["step"] == 18
    assert callback.scores is not None
    assert callback.scores.criterion == "lora"


def test_no_parameter_gets_a_gradient_but_the_adapters(tmp_path: Path) -> None:
    model = tiny_with_adapters()

    class Check(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for name, parameter in kwargs["model"].named_parameters():
                assert (parameter.grad is not None) == (".lora_" in name)

    callback = LoRAPruneCallback(ratio=0.2, interval=3)
    plain_trainer(model, tmp_path, callback, Check(), save_strategy="no").train()


@pytest.mark.slow
def test_gradients_are_accumulated_before_they_are_scored(tmp_path: Path) -> None:
    """4 batches of 1 and 1 batch of 4 are the same, but for rounding."""
    scores = []
    for size, accumulation in ((4, 1), (1, 4)):
        callback = LoRAPruneCallback(ratio=0.2, interval=2)
        plain_trainer(
            tiny_with_adapters(),
            tmp_path,
            callback,
            save_strategy="no",
            max_steps=3,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
        ).train()
        scores.append(callback.scores)
    assert scores[0] is not None
    assert scores[1] is not None
    for name, expected in scores[0].items():
        assert torch.allclose(scores[1][name], expected, rtol=1e-3), name


@pytest.mark.parametrize("arguments", [{"bf16": True}, {"gradient_checkpointing": True}], ids=str)
def test_mixed_precision_and_gradient_checkpointing(arguments: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_with_adapters()
    callback = LoRAPruneCallback(ratio=0.3, interval=3)
    plain_trainer(model, tmp_path, callback, save_strategy="no", **arguments).train()
    compact = callback.compact(adapters="merge")
    assert compact.ratio == pytest.approx(0.3, abs=0.01)
    assert compact.module is not None
    assert not {"forward", "_original_forward"} & vars(compact.module).keys()


def test_other_criteria_and_full_tuning(tmp_path: Path) -> None:
    model = tiny_llama()
    callback = LoRAPruneCallback(ratio=0.3, criterion="magnitude", schedule="linear", interval=3, of="parameters")
    plain_trainer(model, tmp_path, callback, save_strategy="no").train()
    assert unmasked(model, callback.traced, callback.plan) == []
    assert callback.compact().ratio == pytest.approx(0.3, abs=0.01)


def test_a_model_of_images_is_traced_with_a_batch_of_the_training_set() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes))
    examples = [{"pixel_values": torch.rand(3, 8, 8), "labels": torch.tensor(number % 3)} for number in range(5)]
    callback = LoRAPruneCallback(ratio=0.2, criterion="magnitude", form="graph")
    callback.begin(model, 10, torch.utils.data.DataLoader(examples, collate_fn=default_data_collator))  # type: ignore[arg-type]
    assert {name: list(value.shape) for name, value in callback.traced.kwargs.items()} == {"pixel_values": [2, 3, 8, 8]}
    with pytest.raises(
        TrainingError, match=r"^the training set gives no example to trace ViTForImageClassification with"
    ):
        callback.begin(model, 10)


@pytest.mark.slow
def test_a_resumed_training_gives_the_same(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"ratio": 0.3, "interval": 3}
    whole = LoRAPruneCallback(**settings)
    first = tiny_with_adapters()
    plain_trainer(first, tmp_path / "whole", whole).train()
    # the base of a model that is loaded anew has no zeros, and the checkpoint of adapters does not hold it
    second = tiny_with_adapters()
    resumed = LoRAPruneCallback(**settings)
    trainer = plain_trainer(second, tmp_path / "whole", resumed)
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-14"))
    assert resumed.plan == whole.plan
    for (name, expected), value in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(value, expected), name


def test_flat_parameters_are_refused_before_training(tmp_path: Path) -> None:
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    arguments.fsdp, arguments.fsdp_config = True, {"version": 1}  # accelerate itself wants an accelerator for it
    with pytest.raises(TrainingError) as error:
        LoRAPruneCallback(ratio=0.3).on_init_end(
            arguments, TrainerState(), TrainerControl(), model=tiny_with_adapters()
        )
    assert str(error.value) == (
        'FSDP of version 1 makes flat parameters of all others, which can\'t be pruned: use fsdp_config={"version": 2}'
    )


@pytest.mark.slow
def test_resuming_without_a_state_of_pruning(tmp_path: Path) -> None:
    plain_trainer(tiny_with_adapters(), tmp_path, max_steps=7).train()
    trainer = plain_trainer(tiny_with_adapters(), tmp_path, LoRAPruneCallback(ratio=0.3))
    with pytest.raises(TrainingError) as error:
        trainer.train(resume_from_checkpoint=True)
    assert str(error.value) == (
        f"there is no state of pruning in {tmp_path / 'checkpoint-7'}: go on from a checkpoint that was saved with "
        "this callback, or say where it is with LoRAPruneCallback(resume_from=…)"
    )


@pytest.mark.slow
def test_resuming_with_other_settings(tmp_path: Path) -> None:
    plain_trainer(tiny_with_adapters(), tmp_path, LoRAPruneCallback(ratio=0.3), max_steps=7).train()
    trainer = plain_trainer(tiny_with_adapters(), tmp_path, LoRAPruneCallback(ratio=0.2))
    with pytest.raises(TrainingError) as error:
        trainer.train(resume_from_checkpoint=True)
    assert str(error.value) == (
        f"{tmp_path / 'checkpoint-7'} is of a run with ratio=0.3 and not 0.2: go on with the same settings, or start a "
        "new run"
    )


def test_a_model_without_adapters(tmp_path: Path) -> None:
    trainer = plain_trainer(tiny_llama(), tmp_path, LoRAPruneCallback(ratio=0.3))
    with pytest.raises(TrainingError) as error:
        trainer.train()
    assert str(error.value) == (
        "the criterion 'lora' needs LoRA adapters, and LlamaForCausalLM has none: wrap it with "
        "peft.get_peft_model(model, peft.LoraConfig(target_modules='all-linear')) first"
    )


def test_a_ratio_that_cannot_be_met_shows_before_training(tmp_path: Path) -> None:
    trainer = plain_trainer(tiny_with_adapters(), tmp_path, LoRAPruneCallback(ratio=0.99))
    with pytest.raises(BudgetError, match=r"^a share of 99\.0% can't be removed: the most is "):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_loss_that_is_not_a_number(tmp_path: Path) -> None:
    model = tiny_with_adapters()
    with torch.no_grad():
        model.get_submodule("base_model.model.model.norm").weight[0] = torch.nan  # type: ignore[index]
    adapters = {name: value.clone() for name, value in model.named_parameters() if ".lora_" in name}
    with pytest.raises(TrainingError) as error:
        plain_trainer(model, tmp_path, LoRAPruneCallback(ratio=0.3)).train()
    assert str(error.value) == (
        "the loss or its gradients are not finite at step 1: lower the learning rate, or check the data and the "
        "weights for NaN"
    )
    assert all(torch.equal(adapters[name], value) for name, value in model.named_parameters() if name in adapters)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "say how much to prune: ratio=0.5 removes half of the parameters"),
        ({"ratio": 0.5, "intervall": 3}, "there is no setting 'intervall'; there are ratio, of, "),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError) as error:
        LoRAPruneCallback(**settings)
    assert str(error.value).startswith(message)


def test_nothing_to_show_before_training() -> None:
    with pytest.raises(TrainingError, match=r"^nothing is pruned yet: train with this callback first$"):
        LoRAPruneCallback(ratio=0.5).compact()
