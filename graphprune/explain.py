"""Why dims are cut together and why some can't be cut: paths of couplings, read from the log of the inference.

::

    mlp.up_proj.weight[0] and mlp.down_proj.weight[1] are cut together (mlp:channels)
        mlp.up_proj.weight[0]
      = linear in mlp.up_proj (linear.py:134)
      = mul in mlp (modeling_llama.py:174)
      = linear in mlp.down_proj (linear.py:134)
        mlp.down_proj.weight[1]
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import networkx as nx
from torch import fx

from .axes import Atom, atoms
from .errors import UnknownNameError
from .groups import PruningGroup
from .program import location
from .rules.registry import operator_name
from .tables import Column, Table, any_layer, to_html

if TYPE_CHECKING:
    from .traced import TracedModel


@dataclass(frozen=True)
class Step:
    """One call on a path: the operator that makes two dims the same axis, and where it stands."""

    operator: str
    place: str

    def __str__(self) -> str:
        return f"{self.operator} in {self.place}"


@dataclass(frozen=True)
class Explanation:
    """Why something is as it is, in text (``str``) and as data.

    ``about`` is the answer in one sentence, ``details`` are lines that go with it. ``steps`` are the calls that lead
    from ``start`` to ``end``: to the other dim, or to where an axis is frozen.
    """

    about: str
    details: tuple[str, ...] = ()
    start: str | None = None
    steps: tuple[Step, ...] = ()
    end: str | None = None

    def _repr_html_(self) -> str:
        """For a notebook: the answer, and the calls of the path in a table."""
        columns = (Column("operator"), Column("in", breaks=True))
        steps = tuple((step.operator, step.place) for step in self.steps)
        ends = () if self.start is None or self.end is None else (f"from {self.start}", f"to {self.end}")
        return to_html(Table(columns if steps else (), steps, (*self.details, *ends)), self.about)

    def __str__(self) -> str:
        lines = [self.about, *(f"  {line}" for line in self.details)]
        if self.start is not None and self.end is not None:
            lines += [f"    {self.start}", *(f"  = {step}" for step in self.steps), f"    {self.end}"]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Dim:
    """One dim of a parameter: the atom that inference gave to it at first, and those of its axis now."""

    parameter: str
    dim: int
    origin: int | None
    atoms: tuple[Atom, ...]

    def __str__(self) -> str:
        return f"{self.parameter}[{self.dim}]"


def explain(traced: TracedModel, what: PruningGroup | str, other: PruningGroup | str | None = None) -> Explanation:
    """Say what a group or a parameter is, or why two of them are cut together (see ``TracedModel.explain``).

    Raises:
        UnknownNameError: the model has no group and no parameter of that name.
    """
    found = _find(traced, what)
    if other is not None:
        return _coupling(traced, what, found, other, _find(traced, other))
    return _group(traced, found) if isinstance(found, PruningGroup) else _parameter(traced, str(what), found)


def _find(traced: TracedModel, what: PruningGroup | str) -> PruningGroup | list[_Dim]:
    if isinstance(what, PruningGroup):
        return what
    group = next((group for group in traced.groups if group.name == what), None)
    if group is not None:
        return group
    name, dim = what, None
    indexed = re.fullmatch(r"(.+)\[(-?[0-9]+)\]", what)
    if indexed:
        name, dim = indexed[1], int(indexed[2])
    names = {alias: info.name for info in traced.table.values() for alias in (info.name, *info.aliases)}
    if name not in names:
        known = [*(group.name for group in traced.groups), *names]
        near = difflib.get_close_matches(what, known, n=3, cutoff=0.4)
        raise UnknownNameError(
            f"there is no group and no parameter {what!r} in the model" + (f"; near are {', '.join(near)}" * bool(near))
        )
    info = traced.table[names[name]]
    rank = len(info.shape)
    if dim is not None and not -rank <= dim < rank:
        raise UnknownNameError(f"{name} has {rank} dims, so there is no {what}")
    if info.name not in traced.inference.parameter_dims:
        return [_Dim(name, at, None, ()) for at in ([dim % rank] if dim is not None else range(rank))]
    dims = list(_dims(traced, info.name))
    return dims if dim is None else [dims[dim]]


def _dims(traced: TracedModel, name: str) -> Iterable[_Dim]:
    own = traced.inference.parameter_dims[name].axes
    for dim, (before, after) in enumerate(zip(own, traced.inference.axes(name), strict=True)):
        yield _Dim(name, dim, before.id if isinstance(before, Atom) else None, tuple(dict.fromkeys(atoms(after))))


def _group(traced: TracedModel, group: PruningGroup) -> Explanation:
    about = f"{group.name}: {group.units} units of {group.params_per_unit} parameters, {group.status}"
    reason = f", since {group.reason}" if group.reason else ""
    if group.slot is not None:
        reason += f"; each of {group.slot.size} slots may keep its own units"
    listed = [*_each_layer_once(map(str, group.members)), *_each_layer_once(_couplings(traced, group.atom))]
    solver = traced.inference.solver
    mark = solver.frozen.get(group.atom.id) or (
        solver.statistics.get(group.atom.id) if group.status == "statistics" else None
    )
    if mark is None or mark.place is None or mark.cause is None:
        return Explanation(about + reason, tuple(listed))
    first = next(dim for dim in _dims(traced, group.members[0].parameter) if dim.dim == group.members[0].dim)
    calls = None if first.origin is None else _to_freeze(traced, group.atom, first.origin, mark.place, frozenset())
    if calls is None:
        return Explanation(about + reason, tuple(listed))
    end = f"{mark.reason}: {mark.cause.name if mark.cause.op == 'placeholder' else _step(mark.cause)}"
    return Explanation(about + reason, tuple(listed), str(first), tuple(map(_step, _each_once(calls))), end)


def _couplings(traced: TracedModel, atom: Atom) -> Iterable[str]:
    """The calls that make an atom the same axis in several places, in the order in which they run."""
    graph = traced.dependency_graph
    within = graph.subgraph([node for node in graph if _has(traced, node, atom)])
    calls = {call for _, _, call in within.edges(data="node") if call is not None}
    return (f"coupled by {_step(node)}" for node in traced.graph.graph.nodes if node in calls)


def _each_layer_once(lines: Iterable[str]) -> list[str]:
    """Lines that are alike but for numbers of layers and letters of axes as one, with how many they are."""
    alike: dict[str, list[str]] = {}
    for line in lines:
        alike.setdefault(re.sub(r"\b[a-z]+:(?=\d)", "", any_layer(line)), []).append(line)
    return [found[0] if len(found) == 1 else f"{any_layer(found[0])} ×{len(found)}" for found in alike.values()]


def _parameter(traced: TracedModel, what: str, dims: Sequence[_Dim]) -> Explanation:
    name = re.sub(r"\[-?[0-9]+\]$", "", what)
    info = next(info for info in traced.table.values() if name in (info.name, *info.aliases))
    about = f"{name} {list(info.shape)}" + (f", which is {info.name}" if info.name != name else "")
    if info.name not in traced.inference.parameter_dims:
        return Explanation(f"{about}: nothing in the graph uses it")
    by_atom = {group.atom: group for group in traced.groups}
    lines: list[str] = []
    for dim in dims:
        groups = [by_atom[atom] for atom in dim.atoms if atom in by_atom]
        text = next(
            (m.text for g in groups for m in g.members if (m.parameter, m.dim) == (dim.parameter, dim.dim)), "1"
        )
        lines.append(f"[{dim.dim}]: {text}")
        lines += [
            f"  {g.name}: {g.units} units, {g.status}" + (f", since {g.reason}" if g.reason else "") for g in groups
        ]
    return Explanation(about, tuple(lines))


def _coupling(
    traced: TracedModel,
    what: PruningGroup | str,
    found: PruningGroup | list[_Dim],
    other: PruningGroup | str,
    others: PruningGroup | list[_Dim],
) -> Explanation:
    left, right = _sides(traced, found), _sides(traced, others)
    shared = [atom for atom in left if atom in right]
    best: tuple[Atom, list[int], _Dim, _Dim] | None = None
    for atom in shared:
        starts = {dim.origin: dim for dim in left[atom] if dim.origin is not None}
        ends = {dim.origin: dim for dim in right[atom] if dim.origin is not None}
        path = _path(traced, atom, list(starts), list(ends))
        if path is not None and (best is None or len(path) < len(best[1])):
            best = atom, path, starts[path[0]], ends[path[-1]]
    names = [each.name if isinstance(each, PruningGroup) else each for each in (what, other)]
    if best is None:
        return Explanation(f"{names[0]} and {names[1]} are not coupled: no unit of one goes with a unit of the other")
    atom, path, start, end = best
    group = next((group.name for group in traced.groups if group.atom == atom), None)
    within = f" ({group})" if group else ""
    about = f"{names[0]} and {names[1]} are cut together{within}"
    if len(path) == 1:
        return Explanation(f"{about}: they are the same axis from the start")
    steps = tuple(map(_step, _each_once(_calls(traced, path))))
    return Explanation(about, (), str(start), steps, str(end))


def _sides(traced: TracedModel, found: PruningGroup | list[_Dim]) -> Mapping[Atom, list[_Dim]]:
    """The dims that may be an end of a path, by the atoms that they have."""
    sides: dict[Atom, list[_Dim]] = {}
    if isinstance(found, PruningGroup):
        for member in found.members:
            dim = next(dim for dim in _dims(traced, member.parameter) if dim.dim == member.dim)
            sides.setdefault(found.atom, []).append(dim)
        return sides
    for dim in found:
        for atom in dim.atoms:
            sides.setdefault(atom, []).append(dim)
    return sides


def _path(traced: TracedModel, atom: Atom, starts: Sequence[int], ends: Sequence[int]) -> list[int] | None:
    """The shortest path between atoms over those that are, or have in them, one atom; None where there is none."""
    graph = traced.dependency_graph
    within = graph.subgraph([node for node in graph if _has(traced, node, atom)])
    targets = [end for end in ends if end in within]
    best: list[int] | None = None
    for start in starts:
        if start not in within:
            continue
        lengths, paths = nx.single_source_dijkstra(within, start, weight=None)
        for end in targets:
            if end in lengths and (best is None or len(paths[end]) < len(best)):
                best = paths[end]
    return best


def _to_freeze(traced: TracedModel, atom: Atom, start: int, place: int, seen: frozenset[Atom]) -> list[fx.Node] | None:
    """The calls from ``start``, which is or has ``atom``, to the place that was frozen, over other axes if need be."""
    path = _path(traced, atom, [start], [place])
    if path is not None:
        return _calls(traced, path)
    solver = traced.inference.solver
    for spread in solver.spreads:
        path = _path(traced, atom, [start], [spread.a]) if _has(traced, spread.a, atom) else None
        if path is None:
            continue
        for other in set(_atoms_of(traced, spread.b)) - seen - {atom}:
            mark = solver.frozen.get(other.id)
            if mark is not None and mark.place == place:
                rest = _to_freeze(traced, other, spread.b, place, seen | {atom})
                if rest is not None:
                    return [*_calls(traced, path), *([spread.cause] if spread.cause else []), *rest]
    return None


def _atoms_of(traced: TracedModel, node: int) -> Iterable[Atom]:
    """What an atom has become."""
    solver = traced.inference.solver
    return atoms(solver.resolve(Atom(node, solver.sizes[node])))


def _has(traced: TracedModel, node: int, atom: Atom) -> bool:
    """Whether an atom is, or has in it, another one."""
    return any(each == atom for each in _atoms_of(traced, node))


def _calls(traced: TracedModel, path: Sequence[int]) -> list[fx.Node]:
    """The call that makes each step of a path."""
    nodes: list[fx.Node] = []
    for a, b in pairwise(path):
        edges = traced.dependency_graph.get_edge_data(a, b).values()
        node = next((edge["node"] for edge in edges if edge["node"] is not None), None)
        if node is not None:
            nodes.append(node)
    return nodes


def _each_once(calls: Iterable[fx.Node]) -> list[fx.Node]:
    """A call that makes several steps in a row once."""
    return [node for node, _ in groupby(calls)]


def _step(node: fx.Node) -> Step:
    name = operator_name(node.target) if node.op == "call_function" else node.op
    return Step(name.removeprefix("aten::"), location(node))
