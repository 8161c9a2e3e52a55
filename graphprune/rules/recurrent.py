"""Recurrent layers and cells.

A hidden unit of a masked LSTM, GRU or plain RNN stays zero if it starts at zero: its gates are at their middle and its
candidate is ``tanh(0)``. All layers and directions of one call share the dim of the initial state, so they share units.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from ..axes import Axis, concat
from .registry import Call, Dims, Result, axis_rule

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@axis_rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(call: Call) -> Result:
    """``b s i, (g h) i, (g h) h -> b s (h + h)``; layers after the first read the outputs of the one before.

    A packed sequence is ``n i``, all steps of all sequences.
    """
    is_packed = "data" in call.arguments
    x = call.tensor("data" if is_packed else "input")
    kind = str(call.node.target).split(".")[1]
    states = [dims for dims in map(call.dims_of, listed(call["hx"])) if dims is not None]
    parameters = [dims for dims in map(call.dims_of, call["params"]) if dims is not None]
    directions = 2 if call["bidirectional"] else 1
    per_cell = len(parameters) // (call["num_layers"] * directions)
    hidden = states[0].axes[-1]  # with a projection the output, and a state of the cell besides
    projected = kind == "lstm" and states[1].axes[-1].size != hidden.size
    cell = states[1].axes[-1] if projected else hidden
    if projected:
        call.freeze(cell, "torch sees a projection where a cell is larger than the output, so it must stay larger")
    for dims in states:
        call.freeze(dims.axes[0], "it counts layers and directions")
        for each in dims.axes[1:-1]:  # none where there is no batch
            if is_packed:
                call.freeze(each, "a packed sequence says how many go on at each step")
            else:
                call.unify(each, x.axes[0 if call["batch_first"] else 1])
    if kind == "lstm" and not projected:
        call.unify(hidden, states[1].axes[-1])
    zero = all(dims.zero[-1] for dims in states) and all(dims.zero[0] for dims in parameters)
    reads = x.axes[-1]
    reads_zero = x.zero[-1]
    for layer in range(call["num_layers"]):
        for direction in range(directions):
            at = (layer * directions + direction) * per_cell
            into, recur, *rest = parameters[at : at + per_cell]
            rows = concat(*[cell] * GATES[kind])
            for dims in (into, recur, *(each for each in rest if len(each) == 1)):
                call.unify(dims.axes[0], rows)
            call.unify(into.axes[1], reads)
            call.summed(reads, reads_zero or into.zero[1], "a recurrent layer")
            call.unify(recur.axes[1], hidden)
            call.summed(hidden, recur.zero[1], "a recurrent layer")
            for weight in (each for each in rest if len(each) == 2):  # the projection
                call.unify(weight.axes[0], hidden)
                call.unify(weight.axes[1], cell)
                call.summed(cell, weight.zero[1], "a recurrent layer")
        reads, reads_zero = concat(*[hidden] * directions), zero
    output = Dims((*x.axes[:-1], call.resolve(reads)), (*(False,) * (len(x) - 1), zero))
    return (output, *(Dims(dims.axes, (*(False,) * (len(dims) - 1), zero)) for dims in states))


@axis_rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(call: Call) -> Result:
    """``b i, b h, (g h) i, (g h) h -> b h``"""
    x, into, recur = call.tensor("input"), call.tensor("w_ih"), call.tensor("w_hh")
    kind = str(call.node.target).split(".")[1].removesuffix("_cell")
    states = [dims for dims in map(call.dims_of, listed(call["hx"])) if dims is not None]
    biases = [dims for dims in (call.dims("b_ih"), call.dims("b_hh")) if dims is not None]
    hidden = states[0].axes[-1]
    for state in states:
        for axis, batch in zip(state.axes[:-1], x.axes[:-1], strict=True):
            call.unify(axis, batch)
        call.unify(hidden, state.axes[-1])
    rows: Axis = concat(*[hidden] * GATES[kind])
    for dims in (into, recur, *biases):
        call.unify(dims.axes[0], rows)
    call.unify(into.axes[1], x.axes[-1])
    call.unify(recur.axes[1], hidden)
    call.summed(x.axes[-1], x.zero[-1] or into.zero[1], "a recurrent cell")
    call.summed(hidden, recur.zero[1], "a recurrent cell")
    zero = all(dims.zero[-1] for dims in states) and all(dims.zero[0] for dims in (into, recur, *biases))
    result = Dims((*x.axes[:-1], call.resolve(hidden)), (*(False,) * (len(x) - 1), zero))
    return (result,) * len(states) if isinstance(call.node.meta["val"], (tuple, list)) else result


def listed(value: fx.Node | Sequence[fx.Node]) -> Sequence[fx.Node]:
    """A list of nodes, also where there is just one."""
    return [value] if isinstance(value, fx.Node) else value
