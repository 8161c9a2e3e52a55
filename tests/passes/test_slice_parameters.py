"""Slices of tensors, and tensors of which a slice is gone."""

import torch
from torch import Tensor

from graphprune.passes.slice_parameters import masks_within, slice_tensor, widen, zero_masked


def mask(text: str) -> Tensor:
    """``x.x`` keeps the first and the last."""
    return torch.tensor([letter == "x" for letter in text])


def test_widen_is_the_inverse_of_slicing() -> None:
    tensor = torch.arange(1.0, 25.0).reshape(2, 3, 4)
    masks = [None, mask("x.x"), mask(".xx.")]
    assert torch.equal(widen(slice_tensor(tensor, masks), masks), zero_masked(tensor, masks))


def test_two_slices_are_one() -> None:
    tensor = torch.arange(20.0).reshape(4, 5)
    first = {"weight": [mask("xx.x"), None]}
    both = {"weight": [mask("x..x"), mask("xxx.x")]}
    then = masks_within(both, first)
    assert [row.tolist() for row in then["weight"] if row is not None] == [
        [True, False, True],
        [True, True, True, False, True],
    ]
    twice = slice_tensor(slice_tensor(tensor, first["weight"]), then["weight"])
    assert torch.equal(twice, slice_tensor(tensor, both["weight"]))


def test_nothing_is_left_to_slice() -> None:
    both = {"weight": [mask("x..x"), None], "bias": [mask("x.")]}
    assert masks_within(both, both) == {}
    assert masks_within({"weight": both["weight"]}, {"bias": both["bias"]}).keys() == {"weight"}
