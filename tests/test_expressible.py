"""What the module form can express is found in a few runs, however many layers there are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune import expressible
from graphprune.expressible import module_cuts


class Chain(nn.Module):
    """Layers of many widths; the code holds the width of one of them, and asks whether that of another is even."""

    def __init__(self, *widths: int, fixed: int | None = None, even: int | None = None):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip((4, *widths), (*widths, 2), strict=True))
        self.fixed, self.even = fixed, even

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x).tanh()
            if index == self.fixed:
                x = x.reshape(-1, 12)
            if index == self.even and x.shape[-1] % 2:
                x = x + 1
        return x


def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that grows with each comparison of the two forms."""
    found: list[Any] = []
    compare = expressible.same_values
    monkeypatch.setattr(expressible, "same_values", lambda *arguments: found.append(arguments) or compare(*arguments))
    return found


def left_whole(module: nn.Module, x: Tensor) -> list[str]:
    """A parameter of each group that can be cut, and not in module form."""
    traced = gp.trace(module, x)
    found = module_cuts(traced, traced.groups.prunable).counts
    return [group.members[0].parameter for group in traced.groups.prunable if group.family not in found]


WIDTHS = (8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 8, 8)


def test_layers_that_can_all_be_cut_take_one_run_for_some_of_one_width(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = gp.trace(Chain(*WIDTHS), (torch.randn(3, 4),))
    seen = runs(monkeypatch)
    found = module_cuts(traced, traced.groups.prunable)
    assert found.counts == {group.family: tuple(range(group.units - 1, 0, -1)) for group in traced.groups.prunable}
    assert len(found.counts) == len(WIDTHS)
    assert len(seen) <= 3  # with nothing cut, and with everything in loud and in quiet numbers


def test_a_layer_that_cannot_be_cut_is_found_by_halving(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = gp.trace(Chain(*WIDTHS, fixed=4), (torch.randn(3, 4),))
    seen = runs(monkeypatch)
    whole = {group.family for group in traced.groups.prunable} - set(module_cuts(traced, traced.groups.prunable).counts)
    assert whole == {group.family for group in traced.groups.prunable if group.units == 12}
    assert len(seen) <= 13


def test_no_number_stands_for_all_that_divides_better_than_others() -> None:
    traced = gp.trace(Chain(12, 12, 12, even=2), (torch.randn(3, 4),))
    third = next(group for group in traced.groups if any("layers.3" in member.parameter for member in group.members))
    numbers = module_cuts(traced, traced.groups.prunable).counts
    assert numbers.pop(third.family) == (8,)  # the only multiple of eight, of which kernels like rows to be
    assert set(numbers.values()) == {tuple(range(11, 0, -1))}


def test_one_position_stands_for_no_others() -> None:
    """Positions that are made from their number are right for the first alone, and other layers have other numbers."""

    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = (
                nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 5), nn.Softmax(-1)) for _ in range(3)
            )
            self.up, self.down, self.features = nn.Linear(5, 8), nn.Linear(8, 3), 8

        def forward(self, x: Tensor) -> Tensor:
            places = torch.arange(self.features) / self.features
            return self.down((self.up(self.three(self.two(self.one(x)))) + places).relu())  # type: ignore[no-any-return]

    assert left_whole(Placed(), torch.randn(4, 5)) == ["up.weight"]


def test_attention_that_random_numbers_decide_is_seen_to_divide_by_its_size() -> None:
    """Without norms values grow from layer to layer, and attention to one position does not tell by what it divides."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            attended = nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
            return x + attended

    class Block(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return x + super().forward(x)  # type: ignore[no-any-return]

    def block(width: int) -> Block:
        return Block(nn.Linear(16, width), nn.GELU(), nn.Linear(width, 16))

    model = nn.Sequential(*map(block, range(17, 41)), Attention(), block(16), nn.Linear(16, 3))
    assert left_whole(model, torch.randn(2, 6, 16)) == ["24.query.weight"]


def test_parts_that_are_cut_equally_are_not_told_by_one_position() -> None:
    """Of four and three `chunk` makes four and three again, and of four and two three and three."""

    class Latent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(5, 8), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            mean, _ = self.encode(x).chunk(2, -1)
            return self.decode(mean.tanh())  # type: ignore[no-any-return]

    traced = gp.trace(Latent(), torch.randn(3, 5))
    groups = traced.groups.prunable
    assert len(groups) == 2
    assert module_cuts(traced, groups).ties == (tuple(groups),)


def test_one_that_cannot_be_cut_does_not_spoil_the_tie_of_the_others() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.channels, self.up, self.out = 16, nn.Linear(16, 32), nn.Linear(16, 32)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            gate, value = self.up(x).split([self.channels] * 2, -1)
            rest, skipped = self.out(gate.sigmoid() * value.tanh()).split([self.channels] * 2, -1)
            return x + rest, skipped

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(2))
            self.into, self.out = nn.Linear(4, 16), nn.Linear(16, 3)
            self.odd, self.odder = nn.Linear(4, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            h = self.into(x) + self.odder(self.odd(x).view(-1, 4, 4).flatten(1).relu())
            total = torch.zeros_like(h)
            for block in self.blocks:
                h, skipped = block(h)
                total = total + skipped
            return self.out(total.relu())  # type: ignore[no-any-return]

    assert left_whole(Gated(), torch.randn(3, 4)) == ["odd.weight"] * 2


def test_a_parameter_that_is_viewed_in_another_shape() -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.up, self.down = nn.Parameter(torch.randn(2, 3, 4)), nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.up(x + self.table.view(6, 4)).relu())  # type: ignore[no-any-return]

    assert left_whole(Viewed(), torch.randn(3, 6, 4)) == []


def test_dims_that_must_be_an_even_number_beside_rotated_ones() -> None:
    """Pairs that are taken for complex numbers must begin at even places, and one number counts two kinds of dims."""

    class Rotated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head_dim, self.query, self.key, self.value = 8, nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(16, 16)
            self.out = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            q, k = (layer(x).unflatten(-1, (2, self.head_dim + 4)).transpose(1, 2) for layer in (self.query, self.key))
            turned = [torch.view_as_complex(each[..., self.head_dim :].unflatten(-1, (2, 2))) for each in (q, k)]
            scores = q[..., : self.head_dim] @ k[..., : self.head_dim].mT + (turned[0] @ turned[1].conj().mT).real
            value = self.value(x).unflatten(-1, (2, self.head_dim)).transpose(1, 2)
            return x + self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    traced = gp.trace(Rotated(), torch.randn(2, 5, 16))
    found = module_cuts(traced, traced.groups.prunable)
    assert [{found.counts[group.family] for group in tie} for tie in found.ties] == [{(6, 4, 2)}]
