"""Models whose base weights are stored in few bits: scored, masked, tuned and cut."""

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import graphprune as gp
from graphprune.errors import CaptureError, RewriteError, ScoreError, TrainingError
from graphprune.passes.slice_parameters import is_zero_where_masked, zero_masked
from graphprune.quantised import dense_copy, quantised_weight, quantised_weights, require_groups
from graphprune.training.masking import masks_of, removed_slices, zero

from .models import tiny_llama
from .tiny import save_tiny_llama
from .training.tiny import plain_trainer

IDS = torch.arange(26).reshape(2, 13) % 61
FORMATS = ["int8", "nf4", "fp4 nested", "torchao int8", "torchao int4"]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """bitsandbytes and torchao log what this machine lacks."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Widths are whole blocks of 64."""
    sizes = {"vocab_size": 61, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    return save_tiny_llama(tmp_path_factory.mktemp("base") / "base", **sizes)


def settings(name: str) -> Any:
    pytest.importorskip("torchao" if name.startswith("torchao") else "bitsandbytes")
    from transformers import BitsAndBytesConfig, TorchAoConfig

    four_bits = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
    match name:
        case "int8":
            return BitsAndBytesConfig(load_in_8bit=True)
        case "nf4":
            return BitsAndBytesConfig(**four_bits, bnb_4bit_quant_type="nf4")
        case "fp4 nested":
            return BitsAndBytesConfig(**four_bits, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True)
        case "torchao int8":
            from torchao.quantization import Int8WeightOnlyConfig

            return TorchAoConfig(quant_type=Int8WeightOnlyConfig())
        case _:
            from torchao.quantization import IntxWeightOnlyConfig
            from torchao.quantization.granularity import PerGroup

            kind = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))
            return TorchAoConfig(quant_type=kind)


def quantised(directory: Path, name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        directory, quantization_config=settings(name), device_map="cpu", dtype=torch.float32
    )


def adapted(directory: Path, name: str) -> Any:
    """With LoRA whose factors matter, the same for every format."""
    from peft import LoraConfig, get_peft_model

    model: Any = get_peft_model(quantised(directory, name), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    torch.manual_seed(0)
    for parameter in (each for name, each in model.named_parameters() if "lora_" in name):
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits  # type: ignore[no-any-return]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


# bitsandbytes' int8 layers round their inputs to 8 bits too
ROUNDING = {"int8": 0.02}


@pytest.mark.parametrize("name", FORMATS)
def test_the_values_are_those_of_the_library(directory: Path, name: str) -> None:
    layer = quantised(directory, name).model.layers[0].mlp.down_proj
    weight = quantised_weight(layer)
    assert weight is not None
    assert weight.shape == (64, 128)
    if name.startswith("torchao"):
        expected = layer.weight.dequantize()
    elif name == "int8":
        from bitsandbytes.functional import int8_vectorwise_dequant

        expected = int8_vectorwise_dequant(layer.weight.data, layer.weight.SCB)
    else:
        from bitsandbytes.functional import dequantize_4bit

        expected = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    torch.testing.assert_close(weight.rows(slice(None)), expected.float(), rtol=1e-6, atol=0)
    assert torch.equal(weight.rows(slice(5, 12)), weight.rows(slice(None))[5:12])


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_change_nothing_else(directory: Path, name: str) -> None:
    model = quantised(directory, name)
    layer = model.model.layers[0].mlp.down_proj
    weight = quantised_weight(layer)
    assert weight is not None
    rows, columns = torch.tensor([0, 3, 63]), torch.tensor([1, 64, 127])
    expected = weight.rows(slice(None)).index_fill(0, rows, 0).index_fill(1, columns, 0)
    weight.zero(0, rows)
    weight.zero(1, columns)
    assert torch.equal(weight.rows(slice(None)), expected)
    assert expected.any()
    inputs = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert error(layer(inputs), inputs @ expected.T) < ROUNDING.get(name, 1e-5)
        assert not layer(inputs)[:, rows].any()


@pytest.mark.parametrize("name", FORMATS)
def test_the_dense_copy_computes_the_same(directory: Path, name: str) -> None:
    model = adapted(directory, name)
    dense = dense_copy(model)
    assert not quantised_weights(dense)
    assert error(logits(model), logits(dense)) < ROUNDING.get(name, 1e-5)
    assert not hasattr(dense.config, "quantization_config")
    assert hasattr(model.config, "quantization_config")
    assert (
        dense.get_submodule("base_model.model.lm_head").weight is model.get_submodule("base_model.model.lm_head").weight
    )


@pytest.mark.parametrize("name", FORMATS)
def test_scores_and_plan_are_those_of_the_dense_copy(directory: Path, name: str) -> None:
    model = adapted(directory, name)
    traced, dense = (gp.trace(each, kwargs={"input_ids": IDS}) for each in (model, dense_copy(model)))
    assert traced.module is model
    assert traced.fingerprint == dense.fingerprint
    assert all(parameter.is_meta for parameter in traced.program.module.parameters())
    for criterion in ("magnitude", "lora", "random", "fisher"):
        found, expected = (gp.score(each, criterion, data=[{"input_ids": IDS}]) for each in (traced, dense))
        rounding = 10 * ROUNDING.get(name, 1e-5) if criterion in ("lora", "fisher") else 1e-5
        for group, values in expected.items():
            assert error(found.by_group[group], values) < rounding
    plans = [gp.select(each, expected, ratio=0.3, of="base", homogeneous=True) for each in (traced, dense)]
    # values in few bits are not those of the checkpoint, so the plan does not say which revision it was made on
    assert plans[0].weights is None
    assert plans[0] == dataclasses.replace(plans[1], weights=None)


@pytest.mark.parametrize("adapters", ["keep", "merge"])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_cut_equals_what_is_masked(directory: Path, tmp_path: Path, name: str, adapters: Any) -> None:
    model = adapted(directory, name)
    traced = gp.trace(model, kwargs={"input_ids": IDS})
    # runs of 32 columns share a scale, so the widths that are left must be whole runs to be stored so again
    runs: dict[str, Any] = {"kinds": ["channels"], "multiple_of": 32} if name == "torchao int4" else {}
    plan = gp.select(traced, gp.score(traced, "magnitude"), ratio=0.3, of="base", homogeneous=True, **runs)
    masks = masks_of(traced, plan)
    before = {name: weight.rows(slice(None)) for name, weight in quantised_weights(model).items()}
    for trainable in (False, True):
        zero(removed_slices(traced, masks, {}, trainable=trainable))
    assert masks.keys() & before.keys()
    for each, weight in quantised_weights(model).items():
        assert torch.equal(weight.rows(slice(None)), zero_masked(before[each], masks.get(each, ())))
    compact = gp.rewrite(traced, plan, adapters=adapters)
    assert compact.module_error is None
    assert compact.ratio == pytest.approx(0.3, abs=0.1)
    assert error(logits(model), logits(compact.module)) < ROUNDING.get(name, 1e-5)
    assert gp.save(compact, tmp_path / "out").form == "transformers"
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", quantization_config=settings(name), device_map="cpu", dtype=torch.float32
    )
    assert quantised_weights(again)


@pytest.mark.parametrize("name", FORMATS)
def test_pruned_while_tuned(directory: Path, tmp_path: Path, name: str) -> None:
    model = adapted(directory, name)
    if name == "torchao int4":  # the Trainer refuses it
        pruner = gp.Pruner(gp.trace(model), gp.PruneConfig(ratio=0.3, interval=2, homogeneous=True), 10)
        optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-3)
        for number in range(1, 11):
            model(input_ids=IDS, labels=IDS).loss.backward()
            with pruner.step(number):
                optimizer.step()
            optimizer.zero_grad()
    else:
        callback = gp.LoRAPruneCallback(ratio=0.3, interval=2, homogeneous=True)
        plain_trainer(model, tmp_path / "run", callback, max_steps=10, save_strategy="no", learning_rate=1e-3).train()
        pruner = callback.pruner
    masks = pruner.plan.masks(pruner.traced)
    assert pruner.removed == pytest.approx(0.3, abs=0.05)
    for each, weight in quantised_weights(model).items():
        assert is_zero_where_masked(weight.rows(slice(None)), masks[each])
    compact = pruner.compact(adapters="merge")
    assert compact.module_error is None
    assert error(logits(model.eval()), logits(compact.module)) < ROUNDING.get(name, 1e-5)


def test_the_order_for_the_cpu_is_taken_back(directory: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import _convert_weight_packed_for_cpu

    layer = quantised(directory, "nf4").model.layers[0].mlp.gate_proj
    weight = quantised_weight(layer)
    assert weight is not None
    before = weight.rows(slice(None))
    layer.weight.data, layer.weight.quant_state = _convert_weight_packed_for_cpu(
        layer.weight.data, layer.weight.quant_state
    )
    after = quantised_weight(layer)
    assert after is not None
    # its scales were rounded to bfloat16
    torch.testing.assert_close(after.rows(slice(None)), before, rtol=1e-2, atol=0)


def test_a_zero_point_is_refused(directory: Path) -> None:
    model = quantised(directory, "torchao int4")
    layer = model.model.layers[0].mlp.gate_proj
    layer.weight.zero_point.fill_(3)
    with pytest.raises(CaptureError) as caught:
        gp.trace(model)
    assert str(caught.value) == (
        f"torchao's {type(layer.weight).__name__} with a zero point has no exact zero for what is pruned: what can be "
        "pruned is bitsandbytes in 8 and 4 bits, and torchao's integers with symmetric scales"
    )


def test_another_format_is_refused(directory: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(directory)
    model.quantization_method = "gptq"
    assert quantised_weights(model) == {}  # it may have been unpacked
    model.model.layers[0].mlp.register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int32))
    with pytest.raises(CaptureError) as caught:
        gp.trace(model)
    assert str(caught.value) == (
        "a model that is quantised by gptq can't be pruned: what can is bitsandbytes in 8 and 4 bits, and torchao's "
        "integers with symmetric scales"
    )


@pytest.mark.parametrize(("criterion", "what"), [("taylor", "dense gradients"), ("wanda_sp", "activations")])
def test_other_criteria_are_refused(directory: Path, criterion: str, what: str) -> None:
    traced = gp.trace(adapted(directory, "int8"), kwargs={"input_ids": IDS})
    with pytest.raises(ScoreError) as caught:
        gp.score(traced, criterion, data=[{"input_ids": IDS}])
    assert str(caught.value) == (
        f"the criterion {criterion!r} needs {what}, which are not taken of weights in few bits: use 'lora' or "
        "'magnitude'"
    )


def test_what_is_not_supported_is_said_before_training(directory: Path) -> None:
    traced = gp.trace(adapted(directory, "int8"), kwargs={"input_ids": IDS})
    with pytest.raises(TrainingError, match=r"^compaction can't cut .*, which is a Int8Params: use compaction=None$"):
        gp.Pruner(traced, gp.PruneConfig(ratio=0.3, compaction=0.1), 10)


def test_widths_that_runs_of_columns_do_not_divide() -> None:
    """They do where the widths that stay were asked to be multiples."""
    model = tiny_llama(tied=False, num_hidden_layers=1, intermediate_size=64)
    traced = gp.trace(model, kwargs={"input_ids": IDS})
    scores = gp.score(traced, "magnitude")
    odd, whole = (
        gp.rewrite(traced, gp.select(traced, scores, ratio=0.1, only=["*.mlp*"], multiple_of=size)).module
        for size in (1, 16)
    )
    with pytest.raises(RewriteError) as caught:
        require_groups(odd, 16)
    width = odd.model.layers[0].mlp.down_proj.in_features
    assert str(caught.value) == (
        f"model.layers.0.mlp.down_proj has {width} inputs, which runs of 16 that share a scale do not divide: cut the "
        "model anew with multiple_of=16, or leave this layer as it is"
    )
    require_groups(odd, 16, ignore=["model.layers.0.mlp.down_proj"])
    require_groups(whole, 16)
    assert whole.model.layers[0].mlp.down_proj.in_features == 48
