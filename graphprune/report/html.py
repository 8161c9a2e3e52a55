"""The groups of a traced model as one page: a picture of the dataflow with the groups in it, in a file of its own.

::

    page(traced)  ->  page_data(traced)  ->  inspect.html with the data in it    one string, nothing loaded from outside

Everything that the page shows is in its data, which is what ``graphprune inspect --json`` prints and in addition the
graph; the page's script only draws it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import fx

from ..axes import Atom, Axis, Product, atoms, parts
from ..program import module_path, source_line
from ..rules import Dims, Result
from ..rules.registry import operator_name
from ..traced import TracedModel
from .description import describe
from .palette import fill

TEMPLATE = Path(__file__).with_name("inspect.html")
MOST_TO_EXPLAIN = 2000
"""Of more groups than this the page has the reasons, and not the calls that lead there."""


def page(traced: TracedModel, title: str) -> str:
    """The page for a model: HTML that needs no other file and no network."""
    # No "</script>" and no "<!--" can end the script that the data stands in.
    data = json.dumps(page_data(traced), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return fill(TEMPLATE, title=title, scripts=True, data=data)


def page_data(traced: TracedModel) -> dict[str, Any]:
    """The data of the page: :func:`~graphprune.report.description.describe`'s, and the graph that the groups are in.

    ::

        {…, "groups": [{…, "path": {"start": …, "steps": [[operator, place], …], "end": …} or null}],
         "axes": [tree, …],    tree: {"size": n, "group": group or null}, or {"size": n, "of": "product" or "sum",
                                                                              "parts": [tree, …]}
         "parameters": [{"name": …, "shape": …, "axes": [axis, …], "atoms": [atom or null, …]}],
         "calls": [{"operator": …, "module": …, "source": …, "inputs": [call, …], "parameters": [parameter, …],
                    "outputs": [[axis, …], …]}],
         "couplings": [[atom, atom, call or null], …],    "atoms": {atom: [group, …]}
         "folds": [{"module": …, "first": …, "last": …}]}

    ``axis``, ``parameter``, ``call`` and ``group`` are positions in the lists of those names. ``calls`` are in the
    order in which they run. ``couplings`` are what made axes one; ``atoms`` says of which groups each is or has a part.
    A fold is a run of children of ``module`` with numbers for names that have the same calls, shapes and states.
    """
    index = {group.atom: at for at, group in enumerate(traced.groups)}
    axes = _Axes(index)
    parameters = _parameters(traced, axes)
    calls, numbers = _calls(traced, parameters, axes)
    data = describe(traced)
    explained = len(traced.groups) <= MOST_TO_EXPLAIN
    for row, group in zip(data["groups"], traced.groups, strict=True):
        said = traced.explain(group) if explained and group.reason else None
        row["path"] = None if said is None or said.end is None else _path(said.start, said.steps, said.end)
    solver = traced.inference.solver
    within = {
        atom: sorted({index[each] for each in atoms(solver.resolve(Atom(atom, size))) if each in index})
        for atom, size in enumerate(solver.sizes)
    }
    return {
        **data,
        "axes": axes.trees,
        "parameters": parameters,
        "calls": calls,
        "couplings": _couplings(traced, numbers),
        "atoms": {str(atom): groups for atom, groups in within.items() if groups},
        "folds": folds(calls, parameters, [row["status"] for row in data["groups"]], axes.trees),
    }


def folds(
    calls: Sequence[Mapping[str, Any]],
    parameters: Sequence[Mapping[str, Any]],
    states: Sequence[str],
    axes: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The runs of two and more neighbours ``a.0``, ``a.1``, … of a module ``a`` that are alike but for their number.

    Alike are those with the same calls (operator, place below the layer, shapes) and the same parameters (name below
    the layer, shape, the states of its groups), in the same order.
    """
    layers: dict[str, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for call in calls:
        sizes = tuple(tuple(axes[axis]["size"] for axis in output) for output in call["outputs"])
        for module, number, rest in _layers_of(call["module"]):
            layers[module][number].append((call["operator"], rest, sizes))
    for parameter in parameters:
        found = tuple(tuple(sorted({states[group] for group in _groups_of(axes[axis])})) for axis in parameter["axes"])
        for module, number, rest in _layers_of(parameter["name"]):
            layers[module][number].append((rest, tuple(parameter["shape"]), found))
    result = []
    for module, content in layers.items():
        numbers = sorted(content)
        runs = groupby(
            zip(numbers, range(len(numbers)), strict=True), key=lambda each: (each[0] - each[1], content[each[0]])
        )
        for _, run in runs:
            alike = [number for number, _ in run]
            if len(alike) > 1:
                result.append({"module": module, "first": alike[0], "last": alike[-1]})
    return result


class _Axes:
    """Axis trees for the page, each once, found by the axis."""

    def __init__(self, groups: Mapping[Atom, int]) -> None:
        self.trees: list[dict[str, Any]] = []
        self._groups = groups
        self._places: dict[Axis, int] = {}

    def place(self, axis: Axis) -> int:
        """The position of an axis in the list of trees."""
        if axis not in self._places:
            self._places[axis] = len(self.trees)
            self.trees.append(self._tree(axis))
        return self._places[axis]

    def _tree(self, axis: Axis) -> dict[str, Any]:
        if isinstance(axis, Atom):
            return {"size": axis.size, "group": self._groups.get(axis)}
        of = "product" if isinstance(axis, Product) else "sum"
        return {"size": axis.size, "of": of, "parts": [self._tree(part) for part in parts(axis)]}


def _parameters(traced: TracedModel, axes: _Axes) -> list[dict[str, Any]]:
    inference = traced.inference
    return [
        {
            "name": name,
            "shape": [axis.size for axis in inference.axes(name)],
            "axes": [axes.place(axis) for axis in inference.axes(name)],
            "atoms": [axis.id if isinstance(axis, Atom) else None for axis in dims.axes],
        }
        for name, dims in inference.parameter_dims.items()
    ]


def _calls(
    traced: TracedModel, parameters: Sequence[Mapping[str, Any]], axes: _Axes
) -> tuple[list[dict[str, Any]], dict[fx.Node, int]]:
    """The calls of the graph, and the position of each in their list."""
    places = {parameter["name"]: at for at, parameter in enumerate(parameters)}
    numbers: dict[fx.Node, int] = {}
    calls: list[dict[str, Any]] = []
    for node in traced.graph.graph.nodes:
        if node.op == "get_attr":
            continue
        names = [
            traced.inference.canonical.get(str(each.target), str(each.target))
            for each in node.all_input_nodes
            if each.op == "get_attr"
        ]
        numbers[node] = len(calls)
        calls.append(
            {
                "operator": _operator(node),
                "module": module_path(node),
                "source": source_line(node),
                "inputs": [numbers[each] for each in node.all_input_nodes if each in numbers],
                "parameters": [places[name] for name in dict.fromkeys(names) if name in places],
                "outputs": [
                    [axes.place(traced.inference.solver.resolve(axis)) for axis in dims.axes]
                    for dims in _tensors(traced.inference.dims.get(node))
                ],
            }
        )
    return calls, numbers


def _operator(node: fx.Node) -> str:
    if node.op != "call_function":
        return {"placeholder": f"input {node.target}"}.get(node.op, node.op)
    return operator_name(node.target).removeprefix("aten::")


def _tensors(result: Result) -> Iterable[Dims]:
    return (dims for dims in (result if isinstance(result, tuple) else (result,)) if isinstance(dims, Dims))


def _couplings(traced: TracedModel, numbers: Mapping[fx.Node, int]) -> list[list[int | None]]:
    """Each pair of atoms once, with the first call that coupled them."""
    couplings: dict[tuple[int, int], int | None] = {}
    for a, b, node in traced.dependency_graph.edges(data="node"):
        pair = (min(a, b), max(a, b))
        if couplings.get(pair) is None:
            couplings[pair] = numbers.get(node)
    return [[a, b, call] for (a, b), call in couplings.items()]


def _path(start: str | None, steps: Iterable[Any], end: str) -> dict[str, Any]:
    return {"start": start, "steps": [[step.operator, step.place] for step in steps], "end": end}


def _layers_of(path: str) -> Iterable[tuple[str, int, str]]:
    """Of ``a.3.b.0.c``: ``("a", 3, "b.0.c")`` and ``("a.3.b", 0, "c")``."""
    names = path.split(".")
    for at, name in enumerate(names):
        if at and name.isdecimal():
            yield ".".join(names[:at]), int(name), ".".join(names[at + 1 :])


def _groups_of(tree: Mapping[str, Any]) -> Iterable[int]:
    if "of" in tree:
        for part in tree["parts"]:
            yield from _groups_of(part)
    elif tree["group"] is not None:
        yield tree["group"]
