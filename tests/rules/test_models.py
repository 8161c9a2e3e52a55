"""The rules together: every value in whole models, masked against compact."""

from __future__ import annotations

import pytest

import graphprune as gp
from tests.lockstep import check_lockstep, random_plan
from tests.models import tiny


@pytest.mark.parametrize("family", ["llama", "llama with adapters", "gpt2", "bert", "t5", "mixtral"])
def test_every_value_of_a_model(family: str) -> None:
    model, inputs = tiny(family)
    traced = gp.trace(model, kwargs=inputs)
    assert len(traced.groups.prunable) >= 4
    for slots in (True, False):
        assert check_lockstep(traced, random_plan(traced, slots=slots), tolerance=1e-5) > 20
