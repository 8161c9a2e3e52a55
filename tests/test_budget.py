"""Multiply-accumulates are those of the products in the graph, whatever operator makes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.budget import mac_cost
from tests.zoo.language import LANGUAGE


class Products(nn.Module):
    """Two layers, the second one as an einsum or as a matmul."""

    def __init__(self, as_einsum: bool):
        super().__init__()
        self.up, self.down, self.as_einsum = nn.Linear(3, 8), nn.Parameter(torch.randn(5, 8)), as_einsum

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        return torch.einsum("...i,oi->...o", hidden, self.down) if self.as_einsum else hidden @ self.down.T


@pytest.mark.parametrize("as_einsum", [False, True])
def test_an_einsum_counts_as_a_matrix_product(as_einsum: bool) -> None:
    traced = gp.trace(Products(as_einsum), (torch.randn(2, 7, 3),))
    cost = mac_cost(traced.inference)
    (group,) = traced.groups.prunable
    assert cost({}) == 2 * 7 * (3 * 8 + 8 * 5)
    assert cost({group.atom.id: 6}) == 2 * 7 * (3 * 6 + 6 * 5)


def test_experts_count_with_the_rows_that_are_sent_to_them() -> None:
    model, inputs = LANGUAGE["mixtral"]()
    traced = gp.trace(model.eval(), (), inputs)
    cost = mac_cost(traced.inference)
    group = next(group for group in traced.groups if group.name == "model.layers.0.mlp.experts:channels")
    tokens, chosen, width = inputs["input_ids"].numel(), 2, model.config.hidden_size
    # a channel of an expert is a row of the gate and one of the up projection, and a column of the down projection
    assert cost({}) - cost({group.atom.id: group.units - 1}) == tokens * chosen * width * 3
