"""A model that is cut while it is trained: nothing but its size and its speed changes."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
)

import graphprune as gp
from graphprune.errors import RewriteError, TrainingError, TrainingInterrupted, VerificationError
from graphprune.passes import cut_in_place
from graphprune.passes.slice_parameters import masks_within, parameter_masks, slice_tensor, widen
from graphprune.training import compaction
from graphprune.training.callback import LoRAPruneCallback
from graphprune.training.compaction import check_optimizer
from graphprune.training.config import PruneConfig
from graphprune.training.finetune import TuneProgress, TuneResult, prune_while_tuning

from .tiny import VOCABULARY, plain_trainer, random_windows, tiny_llama, tiny_with_adapters

ROUNDING = {torch.float32: 2e-6, torch.float64: 1e-14}
"""Relative difference of a loss that is computed in another order."""

SHORT: dict[str, Any] = {"max_steps": 12, "max_grad_norm": 0.0}
"""Without clipping: a norm counts gradients of what is masked, and of what is cut there are none."""

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3}


def tiny_gpt2() -> nn.Module:
    """With transformers' Conv1D, whose weights are [in, out]."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=16, n_embd=24, n_layer=2, n_head=4, resid_pdrop=0, embd_pdrop=0,
            attn_pdrop=0, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    return get_peft_model(model, lora)  # type: ignore[arg-type]


def tiny_vit() -> nn.Module:
    """A model of images, which is traced with a batch of its training set."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes))
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))  # type: ignore[arg-type]


def random_images() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"pixel_values": torch.randn(3, 8, 8, generator=generator), "labels": torch.tensor(number % 3)}
        for number in range(40)
    ]


def language_batch(model: nn.Module) -> dict[str, Tensor]:
    return {"input_ids": random_windows()[:4], "labels": random_windows()[:4]}


def image_batch(model: nn.Module) -> dict[str, Tensor]:
    batch = random_images()[:4]
    kind = next(model.parameters()).dtype
    pixels = torch.stack([each["pixel_values"] for each in batch]).to(kind)
    return {"pixel_values": pixels, "labels": torch.stack([each["labels"] for each in batch])}


class Cut:
    """What a model was just before and just after a cut."""

    def __init__(self, model: nn.Module, optimizer: Any, batch: dict[str, Tensor]):
        self.parameters = dict(model.named_parameters())
        self.values = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.states = {
            name: {key: value.clone() for key, value in optimizer.state[parameter].items()}
            for name, parameter in self.parameters.items()
            if parameter in optimizer.state
        }
        loss = model(**batch).loss
        loss.backward()
        self.loss = float(loss.detach())
        self.gradients = {name: p.grad.clone() for name, p in self.parameters.items() if p.grad is not None}
        model.zero_grad()


class Before(TrainerCallback):
    """Stands before the callback that cuts, and notes what there is at the end of each step."""

    def __init__(self, callback: LoRAPruneCallback, batch: Callable[[nn.Module], dict[str, Tensor]]):
        self.callback, self.batch = callback, batch
        self.noted: Cut | None = None
        self.there: dict[str, Any] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.noted = None
        if self.callback.pruner.is_cut_due():
            assert self.callback.pruner.compaction is not None
            self.there = dict(self.callback.pruner.compaction.there)
            self.noted = Cut(kwargs["model"], kwargs["optimizer"], self.batch(kwargs["model"]))


class After(TrainerCallback):
    """Stands behind it, and compares."""

    def __init__(self, before: Before):
        self.before, self.cuts = before, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        old = self.before.noted
        if old is None:
            return
        self.cuts += 1
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        assert self.before.callback.pruner.compaction is not None
        masks = masks_within(self.before.callback.pruner.compaction.there, self.before.there)
        assert masks
        new = Cut(model, optimizer, self.before.batch(model))

        rounding = ROUNDING[next(model.parameters()).dtype]
        assert new.loss == pytest.approx(old.loss, rel=rounding)
        assert new.parameters == old.parameters, "the parameters are other objects"
        assert new.gradients.keys() == old.gradients.keys()
        assert new.states.keys() == old.states.keys() != set()
        for name, value in new.values.items():
            rows = masks.get(name, [None] * value.ndim)
            assert torch.equal(value, slice_tensor(old.values[name], rows)), name
            for key, state in new.states.get(name, {}).items():
                expected = old.states[name][key]
                assert torch.equal(state, slice_tensor(expected, rows) if expected.ndim else expected), (name, key)
            if name in new.gradients:
                expected = slice_tensor(old.gradients[name], rows)
                assert torch.allclose(new.gradients[name], expected, rtol=1e-3, atol=100 * rounding), name


def trained(
    model: nn.Module, directory: Path, settings: dict[str, Any], **arguments: Any
) -> tuple[LoRAPruneCallback, list[float], int]:
    """The callback of a training, the losses of its steps, and how many cuts were compared."""
    callback = LoRAPruneCallback(**{"ratio": 0.5, "interval": 2, **settings})
    images = hasattr(getattr(model, "config", None), "image_size")
    before = Before(callback, image_batch if images else language_batch)
    after = After(before)
    given = {"save_strategy": "no", "logging_steps": 1, **SHORT, **arguments}
    trainer = plain_trainer(model, directory, before, callback, after, **given)
    if images:
        trainer.train_dataset = random_images()  # type: ignore[assignment]
    trainer.train()
    return callback, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], after.cuts


def assert_cut_alike(masked: LoRAPruneCallback, cut: LoRAPruneCallback, rounding: float) -> None:
    """Whether what is left of the parameters of a masked model are those of one that was cut."""
    assert cut.plan.groups == masked.plan.groups
    masks = parameter_masks(masked.traced.inference, masked.plan.keep(masked.traced))
    parameters = dict(cut.traced.module.named_parameters())
    for name, value in masked.traced.module.named_parameters():
        expected = slice_tensor(value.detach(), masks.get(name, [None] * value.ndim))
        assert parameters[name].shape == expected.shape, name
        assert torch.allclose(parameters[name], expected, rtol=rounding, atol=rounding), name
    assert masked.scores is not None
    assert cut.scores is not None
    for name, scores in masked.scores.items():
        largest = float(scores.abs().max())
        assert torch.allclose(cut.scores[name], scores, rtol=0, atol=largest * max(rounding, 1e-5)), name


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "llama, slots": (lambda: tiny_with_adapters(queries=4), {}),
    "llama, at random": (lambda: tiny_with_adapters(queries=4), {"criterion": "random"}),
    "llama, homogeneous": (tiny_with_adapters, {"homogeneous": True}),
    "gpt2": (tiny_gpt2, {}),
    "vit": (tiny_vit, {}),
}


@pytest.mark.parametrize(
    "name", [name if name == "llama, slots" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_a_training_goes_on_as_if_nothing_was_cut(name: str, tmp_path: Path) -> None:
    """In double precision, where rounding does not grow: each cut, and the two trainings as a whole."""
    make, settings = MODELS[name]
    masked, expected, _ = trained(make().double(), tmp_path, settings)
    cut, losses, cuts = trained(make().double(), tmp_path, {**settings, "compaction": 0.1})
    assert cuts >= 3
    assert losses == pytest.approx(expected, rel=1e-6)  # they are logged in single precision
    assert_cut_alike(masked, cut, 1e-9)
    if name == "llama, slots":
        assert any(group.has_slots for group in cut.plan.groups.values())


@pytest.mark.slow
def test_in_single_precision_with_gradient_checkpointing(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}
    _, expected, _ = trained(tiny_with_adapters(), tmp_path, {}, **arguments)
    cut, losses, cuts = trained(tiny_with_adapters(), tmp_path, {"compaction": 0.1}, **arguments)
    assert cuts >= 3
    assert losses == pytest.approx(expected, rel=1e-5)
    assert cut.traced.module.get_submodule("base_model.model.model").gradient_checkpointing


def test_all_parameters_are_trained(tmp_path: Path) -> None:
    """Tied embeddings, another optimiser, and mixed precision."""
    settings = {"criterion": "magnitude", "of": "parameters", "ratio": 0.3}
    arguments: dict[str, Any] = {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.1}
    masked, expected, _ = trained(tiny_llama().double(), tmp_path, settings, **arguments)
    cut, losses, cuts = trained(tiny_llama().double(), tmp_path, {**settings, "compaction": 0.05}, **arguments)
    assert cuts >= 3
    assert losses == pytest.approx(expected, rel=1e-6)
    assert_cut_alike(masked, cut, 1e-9)


@pytest.mark.slow
def test_mixed_precision(tmp_path: Path) -> None:
    callback, _, cuts = trained(tiny_with_adapters(), tmp_path, {"compaction": 0.2}, bf16=True, bf16_full_eval=True)
    assert cuts == 2
    assert "_original_forward" not in vars(callback.compact().module)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoRAPruneCallback, Path]:
    """A training with cuts that was not interrupted, and its directory, with all its checkpoints."""
    directory = tmp_path_factory.mktemp("whole")
    callback, _, _ = trained(tiny_with_adapters(), directory, {"compaction": 0.2}, **SAVING)
    return callback, directory


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> LoRAPruneCallback:
    """The same training with masks."""
    return trained(tiny_with_adapters(), tmp_path_factory.mktemp("masked"), {})[0]


@pytest.mark.parametrize("step", [3, 6, 9])
def test_a_resumed_training_gives_the_same(step: int, whole: tuple[LoRAPruneCallback, Path], tmp_path: Path) -> None:
    expected, directory = whole
    resumed = LoRAPruneCallback(ratio=0.5, interval=2, compaction=0.2)
    trainer = plain_trainer(tiny_with_adapters(), tmp_path, resumed, **SHORT)
    resumed.resume_from = directory / f"checkpoint-{step}"
    trainer.train(resume_from_checkpoint=str(resumed.resume_from))
    assert resumed.plan == expected.plan
    left = resumed.traced.module.named_parameters()
    for (name, value), other in zip(left, expected.traced.module.parameters(), strict=True):
        assert torch.equal(value, other), name
    assert resumed.scores is not None
    assert expected.scores is not None
    assert all(torch.equal(resumed.scores[name], scores) for name, scores in expected.scores.items())


def test_a_training_that_was_cut_goes_on_without_cuts(whole: tuple[LoRAPruneCallback, Path], tmp_path: Path) -> None:
    """A checkpoint is that of the whole model."""
    expected, directory = whole
    resumed = LoRAPruneCallback(ratio=0.5, interval=2, resume_from=directory / "checkpoint-6")
    trainer = plain_trainer(tiny_with_adapters(), tmp_path, resumed, **SHORT)
    trainer.train(resume_from_checkpoint=str(directory / "checkpoint-6"))
    assert_cut_alike(resumed, expected, 1e-4)


def test_the_adapters_of_a_checkpoint_fit_the_model_that_they_were_made_for(
    whole: tuple[LoRAPruneCallback, Path],
) -> None:
    expected, directory = whole
    loaded = dict(PeftModel.from_pretrained(tiny_llama(), directory / "checkpoint-12").named_parameters())
    assert expected.pruner.compaction is not None
    there = expected.pruner.compaction.there
    cut = [name for name, value in expected.traced.module.named_parameters() if ".lora_" in name and name in there]
    assert cut
    for name, value in expected.traced.module.named_parameters():
        if ".lora_" in name:
            assert torch.equal(loaded[name], widen(value.detach(), there.get(name, [None, None]))), name


class BestFirst(TrainerCallback):
    """Stands in for an evaluation in which the first checkpoint is the best."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 4:
            state.best_model_checkpoint = str(Path(args.output_dir) / "checkpoint-4")


def test_the_best_checkpoint_is_loaded_into_the_cut_model(tmp_path: Path) -> None:
    model = tiny_with_adapters()
    callback = LoRAPruneCallback(ratio=0.5, interval=2, compaction=0.1)
    trainer = plain_trainer(model, tmp_path, callback, BestFirst(), save_steps=4, **SHORT)
    trainer.args.load_best_model_at_end = True
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    best = dict(PeftModel.from_pretrained(tiny_llama(), tmp_path / "checkpoint-4").named_parameters())
    masks = parameter_masks(callback.traced.inference, callback.plan.keep(callback.traced))
    for name, value in model.named_parameters():
        if ".lora_" in name:
            assert torch.equal(value, slice_tensor(best[name], masks.get(name, [None, None]))), name


KILLED = """
import os, signal, sys, torch
from transformers import TrainerCallback
import graphprune as gp
from tests.training.tiny import plain_trainer, tiny_with_adapters

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 8:
            os.kill(os.getpid(), signal.SIGKILL)

callback = gp.LoRAPruneCallback(ratio=0.5, interval=2, compaction=0.2)
model = tiny_with_adapters()
plain_trainer(model, sys.argv[1], callback, Kill(), save_steps=3, max_steps=12, max_grad_norm=0.0).train()
"""


@pytest.mark.slow
def test_a_training_that_was_killed(whole: tuple[LoRAPruneCallback, Path], tmp_path: Path) -> None:
    expected, _ = whole
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    resumed = LoRAPruneCallback(ratio=0.5, interval=2, compaction=0.2)
    trainer = plain_trainer(tiny_with_adapters(), tmp_path, resumed, **SHORT, **SAVING)
    trainer.train(resume_from_checkpoint=True)
    assert trainer._initial_global_step == 6
    left = resumed.traced.module.named_parameters()
    for (name, value), other in zip(left, expected.traced.module.parameters(), strict=True):
        assert torch.equal(value, other), name


def press_ctrl_c(now: TuneProgress) -> None:
    if now.step == 9:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_a_run_of_its_own(tmp_path: Path) -> None:
    """It is interrupted, goes on to its end, and there is nothing to do when it is resumed once more."""
    config = PruneConfig(ratio=0.5, steps=12, interval=2, lora_rank=4, compaction=0.2, save_steps=20)

    def run(name: str, **options: Any) -> TuneResult:
        return prune_while_tuning(tiny_llama(), None, random_windows(), config, tmp_path / name, **options)

    expected = run("whole")
    with pytest.raises(TrainingInterrupted):
        run("interrupted", progress=press_ctrl_c)
    for result in (run("interrupted", resume=True), run("interrupted", resume=True)):
        assert result.plan == expected.plan
        assert result.losses == expected.losses
        assert sum(value.numel() for value in result.traced.module.parameters()) == expected.compact().parameter_count
        left = result.traced.module.named_parameters()
        for (name, value), other in zip(left, expected.traced.module.parameters(), strict=True):
            assert torch.equal(value, other), name
        assert result.traced.module.state_dict()[name].shape == value.shape
    compact = result.compact(adapters="merge")
    assert compact.ratio == pytest.approx(0.5, abs=0.01)
    assert compact.plan == expected.compact(adapters="merge").plan


@pytest.mark.parametrize("adapters", ["keep", "merge"])
def test_the_compact_model_is_that_of_a_masked_training(
    adapters: str, masked: LoRAPruneCallback, whole: tuple[LoRAPruneCallback, Path]
) -> None:
    expected, found = masked.compact(adapters=adapters), whole[0].compact(adapters=adapters)
    assert found.plan == expected.plan
    assert found.ratio == expected.ratio
    assert found.dense_parameters == expected.dense_parameters
    assert found.origin is not None
    assert expected.origin is not None
    assert (found.origin.sizes, found.origin.config_sizes) == (expected.origin.sizes, expected.origin.config_sizes)
    assert found.report is not None
    assert found.report.dtype == "float64"
    assert found.report.effect > 0.01
    ids = random_windows()[:2]
    outputs = [compact.module(input_ids=ids).logits for compact in (expected, found)]
    assert torch.allclose(*outputs, atol=1e-5)
    assert {name: list(value.shape) for name, value in found.module.state_dict().items()} == {
        name: list(value.shape) for name, value in expected.module.state_dict().items()
    }


@pytest.mark.slow
def test_the_plan_cuts_the_model_that_training_began_with(tmp_path: Path) -> None:
    callback, _, _ = trained(tiny_with_adapters(), tmp_path, {"compaction": 0.1, "homogeneous": True})
    compact = callback.compact(adapters="merge")
    gp.save(compact, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = random_windows()[:2]
    assert torch.allclose(loaded(ids).logits, compact.module(input_ids=ids).logits, atol=1e-6)
    other = gp.rewrite(gp.trace(tiny_llama()), gp.PruningPlan.load(tmp_path / "out" / "plan.json"))
    assert other.parameter_count == compact.parameter_count


class Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 8


@pytest.mark.slow
def test_a_training_that_stops_between_two_cuts(tmp_path: Path) -> None:
    model = tiny_with_adapters()
    callback = LoRAPruneCallback(ratio=0.5, interval=2, compaction=0.3)
    plain_trainer(model, tmp_path, callback, Stop(), save_strategy="no", **SHORT).train()
    assert callback.pruner.compaction is not None
    assert callback.pruner.compaction.plan.groups != callback.plan.groups
    size = sum(parameter.numel() for parameter in model.parameters())
    compact = callback.compact()
    assert sum(parameter.numel() for parameter in model.parameters()) == size
    assert compact.parameter_count < size
    ids = random_windows()[:2]
    assert torch.allclose(compact.module(input_ids=ids).logits, model.eval()(input_ids=ids).logits, atol=1e-5)


def test_a_loop_without_a_trainer() -> None:
    """Convolutions with the running statistics of their norms, and SGD with momentum."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 4 * 4, 5),
    ).double()  # fmt: skip
    images = torch.randn(10, 4, 3, 8, 8, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    objects = [*model.parameters(), *model.buffers()]
    config = gp.PruneConfig(ratio=0.5, criterion="magnitude", of="parameters", interval=2, compaction=0)
    pruner = gp.Pruner(gp.trace(model, images[0]), config, len(images))
    sizes = []
    for number, batch in enumerate(images, start=1):
        model(batch).square().mean().backward()
        with pruner.step(number):
            optimizer.step()
        expected = model.eval()(batch)
        pruner.cut_if_due(optimizer)  # with the gradients still there
        assert torch.allclose(model(batch), expected, rtol=1e-12, atol=1e-12)
        model.train()
        for parameter in model.parameters():
            assert parameter.grad is not None
            assert parameter.grad.shape == optimizer.state[parameter]["momentum_buffer"].shape == parameter.shape
        optimizer.zero_grad()
        sizes.append(sum(parameter.numel() for parameter in model.parameters()))
    assert len(set(sizes)) >= 4
    assert [id(each) for each in (*model.parameters(), *model.buffers())] == [id(each) for each in objects]
    assert pruner.compact().ratio == pytest.approx(0.5, abs=0.05)


def test_a_state_dict_is_that_of_the_whole_model_while_it_is_trained(tmp_path: Path) -> None:
    model = tiny_llama()
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    seen: list[int] = []

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            whole = model.state_dict()
            assert {name: value.shape for name, value in whole.items()} == shapes
            assert whole["lm_head.weight"].data_ptr() == whole["model.embed_tokens.weight"].data_ptr()
            before = {name: value.detach().clone() for name, value in model.named_parameters()}
            seen.append(sum(value.numel() for value in before.values()))
            if state.global_step == 8:
                compact = callback.compact()
                assert {name: value.shape for name, value in compact.module.state_dict().items()} != shapes
                assert compact.parameter_count == seen[-1]
                assert {name: value.shape for name, value in model.state_dict().items()} == shapes
            assert model.load_state_dict(whole) == ([], [])
            assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
            optimizer = kwargs["optimizer"]
            states = optimizer.state_dict()
            optimizer.load_state_dict(states)
            assert all(
                value.shape == parameter.shape
                for parameter, state in optimizer.state.items()
                for key, value in state.items()
                if key != "step"
            )

    settings: dict[str, Any] = {"criterion": "magnitude", "of": "parameters", "compaction": 0}
    callback = LoRAPruneCallback(ratio=0.3, interval=2, **settings)
    plain_trainer(model, tmp_path, callback, Look(), save_strategy="no", **SHORT).train()
    assert len(set(seen)) >= 3
    # afterwards it is the compact model's
    assert sum(value.numel() for value in model.parameters()) == seen[-1]
    assert {name: value.shape for name, value in model.state_dict().items()} != shapes


def test_a_wrong_cut_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = compaction.slice_tensor

    def wrong(tensor: Tensor, masks: Any) -> Tensor:
        """The right number of units, but the first."""
        moved = [None if mask is None else mask.sort(descending=True).values for mask in masks]
        return right(tensor, moved if tensor.shape[0] == 48 and tensor.ndim == 2 else masks)

    monkeypatch.setattr(cut_in_place, "slice_tensor", wrong)
    monkeypatch.setattr(compaction, "slice_tensor", wrong)
    with pytest.raises(VerificationError) as error:
        trained(tiny_with_adapters(), tmp_path, {"compaction": 0.1})
    assert str(error.value).startswith("the model differs by ")
    assert str(error.value).endswith(" once it is cut: go on from the last checkpoint with compaction=None")


def test_an_optimizer_whose_state_has_another_shape(tmp_path: Path) -> None:
    trainer = plain_trainer(
        tiny_with_adapters(), tmp_path, LoRAPruneCallback(ratio=0.3, compaction=0.1), optim="adafactor"
    )
    with pytest.raises(TrainingError) as error:
        trainer.train()
    assert str(error.value) == (
        "Adafactor keeps a state 'exp_avg_sq_row' (Tensor [4]) of a parameter [4, 32], which can't be cut with it: use "
        "an optimiser like AdamW, or compaction=None"
    )
    assert trainer.state.global_step == 1


def test_a_state_that_is_no_plain_tensor() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(3))])
    optimizer.state[optimizer.param_groups[0]["params"][0]] = {"step": torch.zeros(()), "history": [torch.zeros(3)]}
    with pytest.raises(TrainingError, match=r"^SGD keeps a state 'history' \(Tensor \[3\]\) of a parameter \[3\], "):
        check_optimizer(optimizer)


def test_a_module_that_cannot_be_copied() -> None:
    model = tiny_with_adapters()
    pruner = gp.Pruner(gp.trace(model), PruneConfig(ratio=0.3, criterion="magnitude", compaction=0.1, interval=1), 2)
    model.lock = threading.Lock()  # type: ignore[assignment]
    model(input_ids=random_windows()[:2]).logits.sum().backward()
    pruner.before_step(2)
    with pytest.raises(TrainingError) as error:
        pruner.cut_if_due()
    assert str(error.value) == ("PeftModel can't be copied (cannot pickle '_thread.lock' object): use compaction=None")


def test_an_optimizer_of_other_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """As DeepSpeed has them, where several processes train a model."""
    monkeypatch.setattr(compaction, "has_others", lambda: True)
    monkeypatch.setattr(compaction, "check_wrappers", lambda module: None)
    model = tiny_with_adapters()
    pruner = gp.Pruner(gp.trace(model), PruneConfig(ratio=0.3, compaction=0.1), 20)
    with pytest.raises(TrainingError) as error:
        pruner.cut_if_due(torch.optim.SGD([nn.Parameter(torch.zeros(3))]))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert str(error.value) == (
        f"the optimiser does not have {name} itself, so it can't be cut with it: use compaction=None"
    )


class Packed(nn.Parameter):
    """A parameter as libraries for quantised weights make them."""


def test_a_parameter_that_is_no_plain_one() -> None:
    model = tiny_llama()
    model.get_submodule("model.norm").weight = Packed(torch.ones(32))
    callback = LoRAPruneCallback(ratio=0.3, criterion="magnitude", compaction=0.1)
    with pytest.raises(TrainingError) as error:
        callback.begin(model, 20)
    assert str(error.value) == "compaction can't cut model.norm.weight, which is a Packed: use compaction=None"


def test_rewriting_what_was_cut_already(whole: tuple[LoRAPruneCallback, Path]) -> None:
    callback, _ = whole
    with pytest.raises(RewriteError) as error:
        gp.rewrite(callback.traced, callback.plan)
    assert str(error.value) == (
        "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight has another shape than when the model was "
        "traced: trace it again, or call compact() of what cut it while it was trained"
    )
