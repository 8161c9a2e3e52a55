"""Pruning at once."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.training.config import PruneConfig
from graphprune.training.oneshot import plan_at_once

from .tiny import random_windows, tiny_llama

CALIBRATION = random_windows(32)


@pytest.mark.parametrize(("make_up", "criterion"), [("bias", "magnitude"), ("weights", "lora")])
def test_something_makes_up_for_removed_units(make_up: Literal["bias", "weights"], criterion: str) -> None:
    def at_once(**more: Any) -> nn.Module:
        settings: dict[str, Any] = {"criterion": criterion, "ratio": 0.2, "kinds": ("channels",), **more}
        traced, plan, _ = plan_at_once(tiny_llama(tied=False), CALIBRATION, PruneConfig(**settings))
        plans.append(plan)
        return gp.rewrite(traced, plan, adapters="merge").module

    plans: list[Any] = []
    left, made_up = at_once(), at_once(make_up=make_up)
    assert plans[0].groups == plans[1].groups
    assert plans[1].about["compensated" if make_up == "bias" else "reconstructed"]
    assert error_of(made_up, plans[0]) < error_of(left, plans[0])


def error_of(compact: nn.Module, plan: gp.PruningPlan) -> float:
    """How far the outputs of a layer that takes in removed channels are from those of the whole layer."""
    kept = next(group.mask() for name, group in plan.groups.items() if "layers.0.mlp" in name)
    seen: list[tuple[Tensor, Tensor]] = []
    dense = tiny_llama(tied=False)
    layer = dense.get_submodule("model.layers.0.mlp.down_proj")
    layer.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    with torch.no_grad():
        dense(CALIBRATION)
        found = compact.get_submodule("model.layers.0.mlp.down_proj")(seen[0][0][..., kept])
    return float((found - seen[0][1]).square().mean())
