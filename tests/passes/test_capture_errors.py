"""What is said of a module that can't be captured: where, why, and what to do."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.errors import CaptureError, VerificationError

PART = "or trace a part of the model that does without it, gp.trace(model.part, …)"
EXAMPLE = "or capture the way that these inputs take, gp.trace(…, by_example=True), "
WITHOUT_FAKE = torch.library.Library("graphprune_tests", "DEF")
WITHOUT_FAKE.define("copy(Tensor x) -> Tensor")
WITHOUT_FAKE.impl("copy", lambda x: x.clone(), "CPU")


class Gate(nn.Module):
    """``function(x)`` deep inside a model."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Net(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.up, self.gates = nn.Linear(3, 4), nn.ModuleList([nn.Identity(), Gate(function)])

    def forward(self, x: Tensor) -> Any:
        return self.gates[1](self.gates[0](self.up(x)))


class Box:
    def __init__(self, x: Tensor) -> None:
        self.x = x


def branch(x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x
    return -x


def sign_of_rows(x: Tensor) -> Tensor:
    return x.relu() if x.shape[0] and (x * 0).sum() == 0 else -x


def loop(x: Tensor) -> Tensor:
    while x.norm() > 1:
        x = x / 2
    return x


def size(x: Tensor) -> Tensor:
    return torch.ones(int(x.abs().sum()))


def bound(x: Tensor) -> Tensor:
    return x[:, : int(x.argmax().item())]


def rows(x: Tensor) -> Tensor:
    return torch.stack([x[row].sum() for row in x[:, 0].nonzero()])


def array(x: Tensor) -> Tensor:
    return torch.from_numpy(np.tanh(x.numpy()))


def address(x: Tensor) -> Tensor:
    return x * x.data_ptr()


def operator(x: Tensor) -> Tensor:
    return torch.ops.graphprune_tests.copy(x)  # type: ignore[no-any-return]


def wrong_shape(x: Tensor) -> Tensor:
    return x.view(5, 7)


def unknown_size(x: Tensor) -> Tensor:
    return x * {2: 3}[x.shape[0]]


BRANCHES = f"branches on the value of a tensor; write the choice with torch.where or torch.cond, {EXAMPLE}{PART}"
NUMBER = (
    "computes in Python with a number out of a tensor (item, int, float, tolist); keep it a tensor, or give it to the "
    f"model as a Python number, {EXAMPLE}{PART}"
)
CASES: list[tuple[Callable[[Tensor], Any], int, str]] = [
    (branch, 1, BRANCHES),
    (loop, 1, BRANCHES),
    (size, 1, NUMBER),
    (bound, 1, NUMBER),
    (
        rows,
        1,
        "needs to know a size that depends on the values of a tensor; keep all positions and mask them where some are "
        "chosen (nonzero, unique, boolean indices), or say what holds of the size with torch._check, " + EXAMPLE + PART,
    ),
    (
        array,
        1,
        "takes the values of a tensor out of torch (numpy, data_ptr); write it with operators of torch, or as an "
        f"operator of your own with torch.library.custom_op, {EXAMPLE}{PART}",
    ),
    (
        operator,
        1,
        "calls an operator that can't tell the shape of its result; register a function that makes it, with "
        f"torch.library.register_fake, {PART}",
    ),
]
X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


def line_of(function: Callable[..., Any], offset: int) -> str:
    lines, first = inspect.getsourcelines(function)
    assert offset < len(lines)
    return f"{Path(__file__).name}:{first + offset}"


def refusal(module: nn.Module, *args: Any, **options: Any) -> str:
    with pytest.raises(CaptureError) as caught:
        gp.trace(module, args, **options)
    return str(caught.value)


@pytest.mark.parametrize(("function", "offset", "message"), CASES, ids=[case[0].__name__ for case in CASES])
def test_where_and_why_and_what_to_do(
    function: Callable[[Tensor], Any], offset: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    place = f"gates.1 (Gate, {line_of(function, offset)})"
    assert refusal(Net(function), X) == f"Net can't be captured: {place} {message}"
    assert capfd.readouterr() == ("", "")


class Ends(nn.Module):
    """``down(function(up(x)))``, wide enough to be cut."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.gate, self.down = nn.Linear(3, 8), Gate(function), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gate(self.up(x)))  # type: ignore[no-any-return]


def halve(x: Tensor) -> Tensor:
    return x[: int((x * 0).sum().exp()) + 1].relu()


def chosen(x: Tensor) -> Tensor:
    return torch.stack([x[row].sum(0) for row in ((x * 0).sum(1) + 1).nonzero()])


def positive(x: Tensor) -> Tensor:
    found = x[x.sum(1) < 9]
    return found * 2 if found.shape[0] > 0 else found


def by_turns(x: Tensor) -> Tensor:
    """Each row is seen by one of three experts, as a mixture written as a loop does it."""
    experts = torch.nn.functional.one_hot((x.sum(1) > 0).long(), 3).T
    y = torch.zeros_like(x)
    for expert in experts.sum(1).nonzero():
        (rows,) = torch.where(experts[expert[0]])
        y.index_add_(0, rows, x[rows] * (int(expert.item()) + 1))
    return y


def looked_up(x: Tensor) -> Tensor:
    [rows] = (x.sum(1, keepdim=True) * 0).exp().sum(0).long().tolist()
    return x * {2: 2.0, 3: 3.0}[rows]


def the_most(x: Tensor) -> Tensor:
    best = x.sum(1).topk(int((x.sum(1) * 0).exp().sum()) - 1).values
    return x * best


def repeated(x: Tensor) -> Tensor:
    times = (x.sum(1) * 0).exp().sum().long().item()
    return x.repeat(times, 1) * (2 if times > 1 else 3)


def written(x: Tensor) -> Tensor:
    """Through a view, which takes torch's own pass over the graph."""
    first, y = (x.sum(1) * 0).exp().sum().long().item() - 1, x.clone()
    y[:first] *= 2
    return y + 1 if first > 0 else y


def numbered(x: Tensor) -> Tensor:
    """A tensor of tensors, as the positions of images are made."""
    sums = torch.tensor([row.sum() for row in x], dtype=x.dtype)
    return x * sums[:, None] if sums.exp().sum() > 0 else x


WAYS = [sign_of_rows, halve, chosen, positive, by_turns, looked_up, the_most, repeated, written, numbered]


@pytest.mark.parametrize("function", WAYS)
def test_the_way_that_the_inputs_take(function: Callable[[Tensor], Tensor]) -> None:
    module = Ends(function)
    refusal(module, X)
    traced = gp.trace(module, X, by_example=True)
    assert traced.by_example
    assert [group.units for group in traced.groups.prunable] == [8]
    assert gp.prune(module, X, ratio=0.4, by_example=True).report is not None


def test_a_recurrent_layer_after_a_size_that_depends_on_data() -> None:
    """EnCodec pads by what tensors say, and an LSTM goes on from there."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("stride", torch.tensor(4))
            self.up, self.lstm, self.down = nn.Conv1d(3, 8, 4, 4), nn.LSTM(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            missing = (torch.ceil(x.shape[-1] / self.stride) * self.stride).long() - x.shape[-1]
            y = self.up(nn.functional.pad(x, (0, missing))).permute(2, 0, 1)  # type: ignore[arg-type]
            return self.down(self.lstm(y)[0] + y)  # type: ignore[no-any-return]

    compact = gp.prune(Padded().eval(), torch.randn(2, 3, 10), ratio=0.4, by_example=True)
    assert compact.report is not None
    assert compact.module_error is None


def test_the_way_that_the_weights_take() -> None:
    class Signed(Ends):
        def __init__(self) -> None:
            super().__init__(torch.relu)
            self.signs = nn.ParameterList(torch.full((1000,), sign * 3.0) for sign in (1, -1, 1))

        def forward(self, x: Tensor) -> Tensor:
            for sign in self.signs:
                x = 2 * x if sign.sum() == 3000 else x - 1
            return super().forward(x)

    module = Signed()
    traced = gp.trace(module, X, by_example=True)
    torch.testing.assert_close(traced.graph(X), module(X))


def test_inputs_that_are_expanded() -> None:
    x = X[:1].expand(2, 3)
    traced = gp.trace(Ends(sign_of_rows), x, by_example=True)
    torch.testing.assert_close(traced.graph(x), traced.module(x))


def test_inputs_that_would_go_another_way_are_refused() -> None:
    class Marked(Ends):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if (x > 9).any() else super().forward(-x)

    traced = gp.trace(Marked(torch.relu), X, by_example=True)
    torch.testing.assert_close(traced.graph(X), traced.module(X))
    with pytest.raises(RuntimeError, match="Runtime assertion failed"):
        traced.graph(X + 10)


def test_a_way_that_what_is_pruned_changes_is_refused() -> None:
    class Turning(Ends):
        """Goes another way where its units are smaller together than they are at first."""

        def forward(self, x: Tensor) -> Tensor:
            y = self.up(x).abs()
            return self.down(y if (y.sum(1) > 2).all() else -y)  # type: ignore[no-any-return]

    traced = gp.trace(Turning(torch.relu), X, by_example=True)
    [group] = traced.groups.prunable
    plan = gp.PruningPlan(traced.fingerprint, {group.name: gp.GroupPlan(8, (0, 1, 2))})
    with pytest.raises(VerificationError, match=r"with zeros in place of the pruned units .* trace a part of it"):
        gp.rewrite(traced, plan)


def test_what_can_not_be_captured_by_example_either() -> None:
    place = f"gates.1 (Gate, {line_of(address, 1)})"
    message = CASES[[case[0] for case in CASES].index(array)][2].replace(EXAMPLE, "")
    assert refusal(Net(address), X, by_example=True) == f"Net can't be captured: {place} {message}"
    meta = refusal(Net(branch).to("meta"), X.to("meta"), by_example=True)
    assert "says 'Tensor.item() cannot be called on meta tensors'" in meta


def test_the_model_itself_is_the_place() -> None:
    assert refusal(Gate(branch), X) == f"Gate can't be captured: its forward ({line_of(branch, 1)}) {BRANCHES}"


def test_a_result_that_is_no_tensor() -> None:
    assert refusal(Gate(Box), X) == (
        "Gate can't be captured: it returns an object whose tensors can't be found; return tensors in tuples, lists or "
        "dicts, from a module around it if need be, or register its class, if it is a dataclass, with "
        "torch.export.register_dataclass"
    )


class WeightsWritten(nn.Linear):
    """Changes its weight in each forward pass, as masked layers are often written."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= 0.5
        return super().forward(x)


def test_values_that_are_written() -> None:
    with pytest.raises(CaptureError) as raised:
        gp.trace(nn.Sequential(nn.Linear(3, 3), WeightsWritten(3, 3)), torch.ones(2, 3))
    place = f"1 (WeightsWritten, {line_of(WeightsWritten.forward, 1)})"
    said = f"Sequential can't be captured: {place} writes into the values of a weight (its .data)"
    assert str(raised.value).startswith(said)


def test_torchscript() -> None:
    assert refusal(torch.jit.trace(nn.Linear(3, 4), X), X) == (
        "TopLevelTracedModule can't be captured: it is TorchScript, which has no Python code to follow; trace the "
        "nn.Module that it was made from"
    )


def test_an_argument_that_is_made_only_outside_a_capture() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask: Tensor | None = None, other: Tensor | None = None) -> Tensor:
            if mask is None and not torch.compiler.is_compiling():
                mask = torch.ones(x.shape)
            return x * mask[:, :1]  # type: ignore[index]

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Masked()

        def forward(self, x: Tensor, mask: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
            return self.inner(x, mask)  # type: ignore[no-any-return]

    assert "; give it mask, which it makes itself only outside a capture, or trace a part" in refusal(Outer(), X)
    assert gp.trace(Outer(), X, kwargs={"mask": torch.ones(2, 3)})


GIVE = "give inputs that its forward takes, gp.trace(model, args=(…,), kwargs={…})"


def test_inputs_that_do_not_fit() -> None:
    place = f"gates.1 (Gate, {line_of(wrong_shape, 1)})"
    assert refusal(Net(wrong_shape), X) == (
        f"Net can't be captured, since it does not run on the example inputs: {place} says \"shape '[5, 7]' is invalid "
        f'for input of size 8"; {GIVE}'
    )
    message = refusal(Net(branch), X[:, :2])
    assert re.fullmatch(
        r"Net can't be captured, since it does not run on the example inputs: "
        r"up \(Linear, test_capture_errors\.py:\d+\) "
        rf"says 'mat1 and mat2 shapes cannot be multiplied \(2x2 and 3x4\)'; {re.escape(GIVE)}",
        message,
    )
    assert refusal(Net(branch), X, X) == (
        "Net can't be captured, since it does not run on the example inputs: it says 'Net.forward() takes 2 positional "
        f"arguments but 3 were given'; {GIVE}"
    )


def test_sizes_that_can_not_stay_open() -> None:
    gp.trace(Net(unknown_size), X)
    assert refusal(Net(unknown_size), X, dynamic=True) == (
        f"Net can't be captured with open sizes: gates.1 (Gate, {line_of(unknown_size, 1)}) needs fixed ones "
        "(unhashable type: non-nested SymInt); trace it with dynamic=False"
    )


def test_what_only_capturing_stumbles_over() -> None:
    def real(x: Tensor) -> Tensor:
        if type(x) is not Tensor:
            raise TypeError("not a plain tensor")
        return x

    assert refusal(Net(real), X) == (
        f"Net can't be captured: torch.export says 'not a plain tensor' of gates.1 (Gate, {line_of(real, 2)}); change "
        f"that, {PART}"
    )
