"""Every architecture of the zoo: half of what can be cut is cut, and the result is verified."""

from __future__ import annotations

import pytest

from .language import LANGUAGE, Entry
from .plain import PLAIN
from .study import study
from .vision import VISION

ZOO: dict[str, Entry] = {**LANGUAGE, **VISION, **PLAIN}

FAST = (
    "llama",
    "gpt2",
    "mixtral",
    "bert",
    "bart",
    "vit",
    "convnext",
    "unet",
    "lstm_two_way",
    "einsum_attention",
    "mixture_of_experts",
)
"""Those of the fast suite, each of another kind."""

NOT_PRUNED: dict[str, str] = {
    # a statistic over the channels of every MLP (GRN) and of the residual
    "convnextv2": "nothing of it is cut unless asked for",
}
"""How the reason begins why nothing of an architecture is cut."""


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ZOO])
def test_half_of_an_architecture(name: str) -> None:
    row = study(name, ZOO[name])
    if name in NOT_PRUNED:
        assert row.problem is not None, f"{name} is pruned now: strike it off the list"
        assert row.problem.startswith(NOT_PRUNED[name])
        return
    assert row.problem is None
    assert row.graph_error is not None
    assert row.graph_error <= 1e-4
    assert row.after == row.planned < row.before
    assert row.module_error is None or row.module_error <= 1e-4
    assert (row.module_problem is None) == (row.module_groups > 0)


def test_every_exception_is_in_the_zoo() -> None:
    assert NOT_PRUNED.keys() | set(FAST) <= ZOO.keys()
