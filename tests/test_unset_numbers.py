"""Numbers of a config that are None, since they follow from others, until what they count is cut."""

import pytest
import torch

import graphprune as gp
from graphprune.expressible import config_cuts, misfit

from .zoo.language import LANGUAGE


@pytest.mark.parametrize("units", [192, 2048])
def test_width_that_follows_from_another_is_said_once_it_is_cut(units: int) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=97, n_embd=units // 4, n_layer=2, n_head=4, n_positions=64)
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    traced = gp.trace(model.eval(), (), {"input_ids": torch.zeros(2, 7, dtype=torch.long, device="meta")})
    channels = [group for group in traced.groups.prunable if group.kind == "channels"]
    counts = config_cuts(traced, traced.groups.prunable).counts[channels[0].family]
    assert counts == tuple(range(units - 1, 0, -1))
    plans = {group.name: gp.GroupPlan(units, tuple(range(100))) for group in channels}
    compact = gp.rewrite(traced, gp.PruningPlan(traced.fingerprint, plans)).module
    assert (config.n_inner, compact.config.n_inner) == (None, 100)
    assert misfit(compact) is None


def test_what_is_whole_stays_unset() -> None:
    model, inputs = LANGUAGE["gpt2"]()
    traced = gp.trace(model, (), inputs)
    heads = {
        g.name: gp.GroupPlan(g.units, tuple(range(g.units - 1))) for g in traced.groups.prunable if g.kind == "heads"
    }
    compact = gp.rewrite(traced, gp.PruningPlan(traced.fingerprint, heads)).module
    assert compact.config.n_inner is None
