"""From a module to a verified compact model, over the variants of LLaMA."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphprune as gp
from graphprune.errors import RewriteError
from tests.lockstep import random_plan
from tests.models import tiny_llama, tokens

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("peft", [False, True], ids=["plain", "adapters"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("kv", "rep"), [(2, 3), (6, 1), (1, 4)], ids=["grouped", "one for one", "one for all"])
def test_half_of_every_group(peft: bool, tied: bool, kv: int, rep: int) -> None:
    model = tiny_llama(peft=peft, tied=tied, kv=kv, rep=rep)
    traced = gp.trace(model, kwargs={"input_ids": tokens()})
    compact = gp.rewrite(traced, random_plan(traced, half=True))
    assert compact.report is not None
    assert compact.report.graph_error is not None
    assert max(compact.report.graph_error, compact.report.module_error or 0) < 1e-10
    assert compact.parameter_count == sum(parameter.numel() for parameter in compact.module.parameters())
    assert 0.3 < compact.ratio < 0.6
    with torch.no_grad():
        found = compact(input_ids=tokens(2, 7), use_cache=False).logits
    assert found.shape == (2, 7, 97)


def test_ties_stay_ties() -> None:
    traced = gp.trace(tiny_llama(), kwargs={"input_ids": tokens()})
    module: Any = gp.rewrite(traced, random_plan(traced, half=True)).module
    assert module.lm_head.weight is module.model.embed_tokens.weight


def test_the_module_form_generates_with_its_cache() -> None:
    traced = gp.trace(tiny_llama(), kwargs={"input_ids": tokens()})
    module: Any = gp.rewrite(traced, random_plan(traced, half=True)).module
    cached, plain = (
        module.generate(tokens(1, 5), max_new_tokens=6, do_sample=False, use_cache=each) for each in (True, False)
    )
    assert torch.equal(cached, plain)
    assert module.config.intermediate_size == 40


def test_all_in_one_call() -> None:
    compact = gp.prune(tiny_llama(), kwargs={"input_ids": tokens()}, ratio=0.2)
    assert abs(compact.ratio - 0.2) <= 0.02


def test_where_there_is_no_module_form() -> None:
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = torch.nn.Linear(3, 8), torch.nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down(self.up(x).view(4, 2, 4).flatten(1))

    traced = gp.trace(Fixed(), X)
    compact = gp.rewrite(traced, random_plan(traced))
    assert compact(X).shape == (4, 2)
    assert compact.report is not None
    assert compact.report.module_error is None
    with pytest.raises(RewriteError) as caught:
        _ = compact.module
    assert str(caught.value).startswith("there is no module form of this model: the module form does not run: ")
    assert str(caught.value).endswith("; use its graph form (.graph)")
    with pytest.raises(RewriteError, match="it was not asked for"):
        _ = gp.rewrite(traced, random_plan(traced), module_form=False).module


def test_a_part_of_a_model_is_pruned_alone() -> None:
    model: Any = tiny_llama()
    mlp = model.model.layers[0].mlp
    compact = gp.prune(mlp, torch.randn(2, 5, 48), ratio=0.5)
    assert compact.module.down_proj.in_features == 40  # type: ignore[union-attr]
    assert mlp.down_proj.in_features == 80
