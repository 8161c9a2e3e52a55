"""Biases in place of removed units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.errors import RewriteError
from graphprune.passes.slice_parameters import parameter_masks
from tests.models import tiny, tiny_llama, tokens
from tests.tiny import save_tiny_llama

BATCHES = [{"input_ids": tokens(2, 16, seed=seed)} for seed in range(3)]


def outputs(module: nn.Module, path: str) -> Tensor:
    """What a layer gives on all batches, ``[tokens, features]``."""
    caught: list[Tensor] = []
    handle = module.get_submodule(path).register_forward_hook(lambda _, args, out: caught.append(out.flatten(0, -2)))
    with torch.no_grad():
        for batch in BATCHES:
            module.eval()(**batch)
    handle.remove()
    return torch.cat(caught)


@pytest.mark.parametrize(
    ("family", "path"), [("llama", "model.layers.1.mlp.down_proj"), ("gpt2", "transformer.h.1.mlp.c_proj")]
)
def test_a_layer_keeps_the_mean_of_what_it_gives(family: str, path: str) -> None:
    model, example = tiny(family)
    traced = gp.trace(model, kwargs=example)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores = gp.score(traced, "flap", data=BATCHES)
    plan = gp.select(traced, scores, ratio=0.05, only=path.rpartition(".")[0])
    dense, plain = outputs(model, path), outputs(gp.rewrite(traced, plan).module, path)
    other, carried = gp.compensate(traced, plan, BATCHES)
    compact = gp.rewrite(other, carried)
    assert compact.report is not None
    assert compact.report.module_error is not None
    found = outputs(compact.module, path)
    assert (found.mean(0) - dense.mean(0)).norm() < 1e-3 * (plain.mean(0) - dense.mean(0)).norm()
    assert (found - dense).norm() < (plain - dense).norm()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert model.state_dict().keys() == before.keys()


@pytest.mark.parametrize("peft", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_bias_is_that_of_flap(bias: bool, peft: bool) -> None:
    """``output_bias = (mean_inp * ~mask) @ W.T`` of CASIA-IVA-Lab/FLAP, added to the bias that is there."""
    traced = gp.trace(tiny_llama(attention_bias=bias, mlp_bias=bias, peft=peft, tied=not peft), kwargs=BATCHES[0])
    model: Any = traced.module
    inside = ("base_model.model.", ".base_layer") if peft else ("", "")
    fixed = {"model.layers.0.self_attn:heads": 1, "model.layers.1.mlp:channels": 50}
    constraints = gp.Constraints(fixed={f"{inside[0]}{name}": units for name, units in fixed.items()})
    scores = gp.score(traced, "flap", data=BATCHES)
    plan = gp.select(traced, scores, ratio=0.3, form="module", constraints=constraints)
    other, carried = gp.compensate(traced, plan, BATCHES)
    masks = parameter_masks(traced.inference, plan.keep(traced))
    for path in ("model.layers.0.self_attn.o_proj", "model.layers.1.mlp.down_proj"):
        layer = model.get_submodule(f"{inside[0]}{path}")
        caught: list[Tensor] = []
        handle = layer.register_forward_pre_hook(lambda _, args, into=caught: into.append(args[0].flatten(0, -2)))
        with torch.no_grad():
            for batch in BATCHES:
                model.eval()(**batch)
        handle.remove()
        base = model.get_submodule(f"{inside[0]}{path}{inside[1]}")
        mask = masks[f"{inside[0]}{path}{inside[1]}.weight"][1]
        assert mask is not None
        weight = base.weight.detach() + (layer.get_delta_weight("default").detach() if peft else 0)
        expected = (torch.cat(caught).mean(0) * ~mask) @ weight.T + (base.bias.detach() if bias else 0)
        added: Any = other.module.get_submodule(f"{inside[0]}{path}{inside[1]}")
        assert torch.allclose(added.bias, expected, rtol=1e-4, atol=1e-6), path
    report = gp.rewrite(other, carried).report
    assert report is not None
    assert report.module_error is not None


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 12, 1, groups=2, bias=False),
        nn.ReLU(),
        nn.Conv2d(12, 5, 1, bias=False),
    )


def test_convolutions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = convolutions()
    x = torch.randn(4, 3, 6, 6)
    traced = gp.trace(model, x)
    plan = gp.select(traced, gp.score(traced, "flap", data=[x]), ratio=0.2, only=["2", "4"])
    compact = gp.rewrite(*gp.compensate(traced, plan, [x]))
    assert compact.report is not None
    plain = gp.rewrite(traced, plan)
    with torch.no_grad():
        dense, found, lost = (each(x).mean((0, 2, 3)) for each in (model, compact.module, plain.module))
    assert (found - dense).norm() < 1e-3 * (lost - dense).norm()
    gp.save(compact, tmp_path / "out")
    loaded = gp.load(tmp_path / "out", model=convolutions())
    assert torch.equal(loaded(x), compact.module(x))


@pytest.mark.slow
def test_a_compensated_model_loads_again(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(save_tiny_llama(tmp_path / "tiny"))
    traced = gp.trace(model)
    for form in ("module", "graph"):
        kinds = None if form == "module" else ["head_dims"]
        plan = gp.select(traced, gp.score(traced, "flap", data=BATCHES), ratio=0.1, form=form, kinds=kinds)
        compact = gp.rewrite(*gp.compensate(traced, plan, BATCHES))
        assert (compact.module_error is None) == (form == "module")
        report = gp.save(compact, tmp_path / form)
        assert report.form == ("remote-code" if form == "module" else "graph")
        assert report.difference is not None
        assert report.difference < 1e-5


def test_what_has_no_bias() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 6), nn.Parameter(torch.randn(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x).relu() @ self.down

    traced = gp.trace(Plain(), torch.randn(8, 4))
    plan = gp.select(traced, gp.score(traced, "magnitude"), ratio=0.3)
    with pytest.raises(RewriteError) as error:
        gp.compensate(traced, plan, [torch.randn(8, 4)])
    assert str(error.value) == (
        "down takes in removed units and is not the weight of a layer whose bias could make up for them: leave its "
        "groups whole, with gp.select(..., ignore=…), or don't compensate"
    )
