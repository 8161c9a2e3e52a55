"""Tensors that are cut within their own memory, and what of it is given back."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from graphprune.passes import cut_in_place
from graphprune.passes.cut_in_place import cut_tensor_
from graphprune.passes.slice_parameters import DimMasks, slice_tensor

TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn]

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is given back on Linux only")


@st.composite
def tensors_and_masks(draw: st.DrawFn) -> tuple[Tensor, DimMasks]:
    shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape).to(draw(st.sampled_from(TYPES)))
    masks = [
        draw(st.none() | st.lists(st.booleans(), min_size=size, max_size=size).map(torch.tensor)) for size in shape
    ]
    return tensor, masks


@given(tensors_and_masks(), st.integers(1, 40))
def test_what_is_cut_within_its_memory_is_the_kept_slice(given: tuple[Tensor, DimMasks], block: int) -> None:
    tensor, masks = given
    expected = slice_tensor(tensor, masks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut_in_place, "LEAST", 0)
        patch.setattr(cut_in_place, "BLOCK", block)
        cut_tensor_(tensor, masks)
    assert tensor.shape == expected.shape
    assert torch.equal(tensor.view(torch.uint8), expected.view(torch.uint8))
    assert tensor.untyped_storage().nbytes() == tensor.nbytes


def half_of_the_rows(tensor: Tensor) -> DimMasks:
    return [torch.arange(len(tensor)) % 2 == 0, *[None] * (tensor.ndim - 1)]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@linux
@pytest.mark.parametrize("cut_again", [False, True])
def test_the_rest_of_a_large_tensor_is_given_back(cut_again: bool) -> None:
    parameter = nn.Parameter(torch.ones(4096, 4096))
    before, place = resident(), parameter.data_ptr()
    for left in (2048, 1024) if cut_again else (2048,):
        cut_tensor_(parameter, half_of_the_rows(parameter))
        assert parameter.shape == (left, 4096)
        assert parameter.data_ptr() == place
        assert before - resident() == pytest.approx((4096 - left) * 4096 * 4, rel=0.1)
    assert torch.equal(parameter, torch.ones_like(parameter))


@linux
def test_where_nothing_is_taken_back_what_is_kept_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut_in_place, "LEAST", 0)
    monkeypatch.setattr(cut_in_place, "_released", lambda start, end: False)
    tensor = torch.arange(12.0).reshape(6, 2)
    place = tensor.data_ptr()
    cut_tensor_(tensor, half_of_the_rows(tensor))
    assert torch.equal(tensor, torch.tensor([[0.0, 1], [4, 5], [8, 9]]))
    assert tensor.data_ptr() != place


@pytest.mark.parametrize(
    "part_of",
    [lambda whole: whole[1:], lambda whole: whole[:2], lambda whole: whole[:, :2], lambda whole: whole.T],
    ids=["its end", "its begin", "its columns", "transposed"],
)
def test_the_memory_of_others_stays_as_it_is(
    part_of: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut_in_place, "LEAST", 0)
    whole = torch.arange(12.0).reshape(4, 3)
    expected = whole.clone()
    part = part_of(whole)
    masks = half_of_the_rows(part)
    sliced = slice_tensor(part, masks)
    cut_tensor_(part, masks)
    assert torch.equal(part, sliced)
    assert torch.equal(whole, expected)


def test_a_cut_parameter_goes_on_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut_in_place, "LEAST", 0)
    layer = nn.Linear(4, 6, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 4)).sum().backward()
    cut_tensor_(layer.weight, half_of_the_rows(layer.weight))
    before = layer.weight.detach().clone()
    assert layer.weight.grad is not None
    assert layer.weight.grad.shape == (3, 4)
    optimizer.zero_grad()
    layer(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert torch.allclose(layer.weight, before - 0.1)
