"""Turn the couplings of an inference into pruning groups.

1. The couplings are a networkx graph whose nodes are atoms and whose edges carry the node that coupled them.
2. Its connected components, over atoms that nothing has split, are the groups.
3. A group's members are the parameter dims in whose axis tree its atom occurs.

::

    a1 --linear_3-- a7 --add_2-- a9      q_proj.weight[0], k_proj.weight[0], o_proj.weight[1]: one group
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import networkx as nx
from torch import fx

from ..axes import Atom, Axis, Freeze, Product, Sum, atoms, parts
from ..groups import Groups, Kind, Member, PruningGroup, share_per_unit
from ..program import Inference, Program, location
from ..rules import Dims
from ..rules.views import STACKED, TURNS
from .infer_axes import info_of


def dependency_graph(inference: Inference) -> nx.MultiGraph:
    """Atoms and their couplings; edges carry ``node`` (the call) and ``part`` (a refinement, not an equality)."""
    graph: nx.MultiGraph = nx.MultiGraph()
    graph.add_nodes_from(range(len(inference.solver.sizes)))
    for coupling in inference.solver.couplings:
        graph.add_edge(coupling.a, coupling.b, node=coupling.cause, part=coupling.part)
    return graph


def build_groups(program: Program, inference: Inference, graph: nx.MultiGraph) -> Groups:
    """The groups of a traced model."""
    solver = inference.solver
    whole = nx.Graph()
    whole.add_nodes_from(atom for atom in range(len(solver.sizes)) if isinstance(_resolved(inference, atom), Atom))
    whole.add_edges_from((a, b) for a, b, part in graph.edges(data="part") if not part and a in whole and b in whole)
    root = {
        atom: solver.resolve(Atom(next(iter(component)), solver.sizes[next(iter(component))]))
        for component in nx.connected_components(whole)
        for atom in component
    }
    uses: dict[Atom, list[tuple[str, int, Axis]]] = defaultdict(list)
    order = [name for name in program.table if name in inference.parameter_dims]
    order += [name for name in inference.parameter_dims if name not in program.table]
    for name in order:
        for dim, axis in enumerate(inference.axes(name)):
            for atom in dict.fromkeys(atoms(axis)):
                uses[root[atom.id]].append((name, dim, axis))  # type: ignore[index]
    labels = _labels(uses)
    slots = _slots(inference, {atom: members for atom, members in uses.items() if atom.id not in inference.least})
    drafts = [
        _draft(program, inference, atom, members, labels, slots.get(atom))
        for atom, members in uses.items()
        if atom.size and any(name in program.table and not program.table[name].is_buffer for name, _, _ in members)
    ]
    return Groups(tuple(_named(drafts)))


def _resolved(inference: Inference, atom: int) -> Axis:
    return inference.solver.resolve(Atom(atom, inference.solver.sizes[atom]))


def _draft(
    program: Program,
    inference: Inference,
    atom: Atom,
    uses: list[tuple[str, int, Axis]],
    labels: Mapping[Atom, str],
    slot: Atom | None,
) -> PruningGroup:
    members = tuple(Member(name, dim, axis, render(axis, labels)) for name, dim, axis in uses)
    lost: Counter[str] = Counter()
    kept: dict[str, float] = defaultdict(lambda: 1.0)
    for name, _, axis in uses:
        kept[name] *= 1 - share_per_unit(axis, atom)
    for name, share in kept.items():
        info = info_of(program, name)
        if not info.is_buffer:
            lost[name] = round(info.numel * (1 - share))
    owners = [name for name, _, _ in uses if not info_of(program, name).is_buffer]
    return PruningGroup(
        name=_common_path(owners),
        kind="experts" if atom.id in inference.least else _kind(atom, [axis for _, _, axis in uses], owners, inference),
        family="",
        atom=atom,
        members=members,
        params_per_unit=sum(lost.values()),
        frozen=_why(inference.solver.frozen.get(atom.id)),
        statistics=_why(inference.solver.statistics.get(atom.id)),
        slot=slot,
        least=inference.least.get(atom.id, 1),
    )


def _named(drafts: Iterable[PruningGroup]) -> Iterable[PruningGroup]:
    """Give every group a unique name, ``path:kind``, and its family: the same name and shape without the numbers."""
    drafts = list(drafts)
    seen: Counter[str] = Counter()
    total = Counter(f"{draft.name}:{draft.kind}" for draft in drafts)
    for draft in drafts:
        name = f"{draft.name}:{draft.kind}"
        seen[name] += 1
        if total[name] > 1:
            name = f"{name}.{seen[name]}"
        shape = f"{draft.units} {draft.params_per_unit} {len(draft.members)}"
        family = f"{re.sub(r'[0-9]+', '*', draft.name)}:{name.rpartition(':')[2]} {shape} {draft.status}"
        yield PruningGroup(**{**draft.__dict__, "name": name, "family": family})


def _common_path(names: list[str]) -> str:
    """The deepest module that owns all these parameters; for one parameter, its own path."""
    paths = [name.split(".") for name in dict.fromkeys(names)]
    if len(paths) == 1:
        return ".".join(paths[0])
    common: list[str] = []
    for level in zip(*(path[:-1] for path in paths), strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return ".".join(common) or "model"


def _kind(atom: Atom, axes: list[Axis], owners: list[str], inference: Inference) -> Kind:
    """The part an atom plays: a whole axis is channels; in a product the first factor is heads, the last their dims.

    What takes turns (a row of gate, a row of up; the two dims that are rotated together) is no factor.
    """
    if all(".lora_" in f".{name}" for name in owners):
        return "lora_rank"
    turns = {each for axis in axes for each in atoms(axis) if _takes_turns(inference.solver.frozen.get(each.id))}
    places = {place for axis in axes for place in _places(axis, atom, turns - {atom})}
    if "outer" in places:
        return "heads"
    if "middle" in places:
        return "repeats"
    return "head_dims" if "inner" in places else "channels"


def _takes_turns(mark: Freeze[fx.Node] | None) -> bool:
    return mark is not None and mark.reason.startswith((TURNS, STACKED))


def _places(axis: Axis, atom: Atom, turns: set[Atom]) -> Iterable[str]:
    if axis == atom:
        yield "whole"
    elif isinstance(axis, Sum):
        for term in axis.terms:
            yield from _places(term, atom, turns)
    elif isinstance(axis, Product):
        factors = [factor for factor in axis.factors if factor not in turns]
        for index, factor in enumerate(factors):
            if any(other == atom for other in atoms(factor)):
                is_first, is_last = index == 0, index == len(factors) - 1
                yield "whole" if is_first and is_last else "outer" if is_first else "inner" if is_last else "middle"


def _why(mark: Freeze[fx.Node] | None) -> str | None:
    if mark is None:
        return None
    return mark.reason if mark.cause is None else f"{mark.reason} at {location(mark.cause)}"


def _labels(uses: Mapping[Atom, list[tuple[str, int, Axis]]]) -> dict[Atom, str]:
    """Short names for atoms in axis trees: a, b, …, in the order of their groups."""
    return {atom: _letter(index) for index, atom in enumerate(uses)}


def _letter(index: int) -> str:
    name = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        name = chr(ord("a") + digit) + name
    return name


def render(axis: Axis, labels: Mapping[Atom, str]) -> str:
    """An axis tree in the project's notation, with labels for atoms: ``(kv rep (half + half))``."""
    match axis:
        case Atom():
            return f"{labels.get(axis, f'_{axis.id}')}:{axis.size}"
        case Product(factors=()):
            return "1"
        case Product():
            return "(" + " ".join(render(part, labels) for part in parts(axis)) + ")"
        case Sum():
            return "(" + " + ".join(render(part, labels) for part in parts(axis)) + ")"


def _slots(inference: Inference, uses: Mapping[Atom, list[tuple[str, int, Axis]]]) -> dict[Atom, Atom]:
    """For each atom the outermost one that every tensor which has it also has, once, to the left in the same product.

    Within each position of that other atom (a head, a KV group, a conv group) the atom may keep its own units.
    """
    candidates: dict[Atom, Atom] = {}
    for atom, members in uses.items():
        outers = {_outer_of(axis, atom) for _, _, axis in members}
        outer = outers.pop() if len(outers) == 1 else None
        if outer is not None:
            candidates[atom] = outer
    for result in inference.dims.values():
        for dims in result if isinstance(result, tuple) else (result,):
            if not isinstance(dims, Dims):
                continue
            present = [atom for axis in dims.axes for atom in atoms(inference.solver.resolve(axis))]
            for atom in present:
                outer = candidates.get(atom)
                if outer is not None and present.count(outer) != 1:
                    del candidates[atom]
    return candidates


def _outer_of(axis: Axis, atom: Atom) -> Atom | None:
    """The first factor of a product in which ``atom`` is another factor, if that is an atom."""
    if isinstance(axis, Product) and isinstance(axis.factors[0], Atom):
        inner = axis.factors[1:]
        if any(other == atom for factor in inner for other in atoms(factor)):
            return axis.factors[0]
    if isinstance(axis, Sum):
        outers = {_outer_of(term, atom) for term in axis.terms if any(other == atom for other in atoms(term))}
        return outers.pop() if len(outers) == 1 else None
    return None
