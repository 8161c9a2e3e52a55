"""Control flow: conditions, loops and scans, whose graphs are walked with the dims that enter them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import fx

from .registry import Call, Dims, Result

Run = Callable[[fx.Node, Sequence[Dims | None]], list[Dims | None]]
"""Walk over the graph that a node names, with the dims of its inputs; gives the dims of its outputs."""

ControlRule = Callable[[Call, Run], Result]


def known(call: Call, values: Sequence[object]) -> list[Dims | None]:
    """The dims of a list of operands."""
    return [call.dims_of(value) for value in values]


def meet(call: Call, first: Sequence[Dims | None], second: Sequence[Dims | None]) -> list[Dims | None]:
    """What holds of values that come from either of two places: the same axes, and zero where both are."""
    met: list[Dims | None] = []
    for a, b in zip(first, second, strict=True):
        if a is None or b is None:
            met.append(None)
            continue
        for one, other in zip(a.axes, b.axes, strict=True):
            call.unify(one, other)
        met.append(Dims(a.axes, tuple(x and y for x, y in zip(a.zero, b.zero, strict=True))))
    return met


def carried(dims: Sequence[Dims | None]) -> list[Dims | None]:
    """Values that a loop changes: nothing is known of their zeros."""
    return [None if each is None else Dims(each.axes, (False,) * len(each)) for each in dims]


def condition(call: Call, run: Run) -> Result:
    """Either branch may run, on the same operands: their results are the same axes."""
    _, true_graph, false_graph, operands = call.node.args
    inputs = known(call, operands)  # type: ignore[arg-type]
    return tuple(meet(call, run(true_graph, inputs), run(false_graph, inputs)))  # type: ignore[arg-type]


def while_loop(call: Call, run: Run) -> Result:
    """What the body gives is what it takes."""
    test, body, state, others = call.node.args
    start = carried(known(call, state))  # type: ignore[arg-type]
    constants = known(call, others)  # type: ignore[arg-type]
    run(test, [*start, *constants])  # type: ignore[arg-type]
    return tuple(meet(call, start, run(body, [*start, *constants])))  # type: ignore[arg-type]


def scan(call: Call, run: Run) -> Result:
    """The state that the body gives is what it takes; it reads slices of a frozen dim and stacks its results."""
    body, initial, read, others = call.node.args
    start = carried(known(call, initial))  # type: ignore[arg-type]
    slices: list[Dims | None] = []
    steps = None
    for dims in known(call, read):  # type: ignore[arg-type]
        if dims is not None:
            call.freeze(dims.axes[0], "a scan runs along it")
            steps = dims.axes[0]
        slices.append(None if dims is None else dims.take(range(1, len(dims))))
    results = run(body, [*start, *slices, *known(call, others)])  # type: ignore[arg-type]
    state = meet(call, start, results[: len(start)])
    stacked = [
        None if each is None or steps is None else Dims((steps, *each.axes), (False, *each.zero))
        for each in results[len(start) :]
    ]
    return (*state, *stacked)


control_rules: dict[str, ControlRule] = {
    "higher_order::cond": condition,
    "higher_order::while_loop": while_loop,
    "higher_order::scan": scan,
}
"""Rules for operators that run graphs."""
