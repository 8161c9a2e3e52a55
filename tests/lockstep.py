"""Run a masked graph and its compact form side by side and compare every single value.

This is stronger than comparing outputs: each axis rule is held to what it says about each call. The kept slice of the
masked value must be the compact value, and where a rule says that masked units are zero they must be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

import graphprune as gp
from graphprune.axes import Atom, Axis, atoms
from graphprune.errors import VerificationError
from graphprune.groups import PruningGroup
from graphprune.masks import Keep, kept_size
from graphprune.passes.recompute_shapes import recompute_shapes
from graphprune.passes.slice_parameters import parameter_masks, slice_tensor, zero_masked, zeroing_masks
from graphprune.plan import GroupPlan, PruningPlan
from graphprune.program import fetch
from graphprune.rules import Dims
from graphprune.traced import TracedModel
from tests.positions import Units, positions


def random_plan(traced: TracedModel, seed: int = 0, *, slots: bool = True, half: bool = False) -> PruningPlan:
    """Some units of every prunable group, or just half of them, per slot where there are slots; at least one goes."""
    return _random_plan(traced, traced.groups.prunable, seed, slots=slots, half=half)


def statistics_plan(traced: TracedModel, seed: int) -> PruningPlan:
    """Some units of every group that is cut only when asked for, since masking it is not the same as cutting it."""
    groups = [group for group in traced.groups if group.status == "statistics" and group.least < group.units]
    return _random_plan(traced, groups, seed, slots=False)


def _random_plan(
    traced: TracedModel, groups: Iterable[PruningGroup], seed: int, *, slots: bool, half: bool = False
) -> PruningPlan:
    generator = torch.Generator().manual_seed(seed)
    plans: dict[str, GroupPlan] = {}
    for group in groups:
        most = group.units - group.least
        kept = group.units // 2 if half else group.least + int(torch.randint(most, (1,), generator=generator))
        rows = group.slot.size if slots and group.slot is not None else 1
        chosen = tuple(
            tuple(sorted(torch.randperm(group.units, generator=generator)[:kept].tolist())) for _ in range(rows)
        )
        plans[group.name] = GroupPlan(group.units, chosen if slots and group.slot is not None else chosen[0])
    return PruningPlan(traced.fingerprint, plans)


def verified(traced: TracedModel, plan: PruningPlan) -> gp.CompactModel | None:
    """The graph form of what a plan leaves; None where the model is the same whatever it cuts.

    Raises:
        VerificationError: it computes something else than the masked model.
    """
    try:
        return gp.rewrite(traced, plan, module_form=False)
    except VerificationError as error:
        if "zeroing the pruned units does not change" not in str(error):
            raise
        return None


def kept_at(axis: Axis, keep: Keep, position: Mapping[int, int]) -> Tensor:
    """The keep-mask of an axis where the slots outside it stand at the given positions. Written without cleverness."""

    def stays(units: Units) -> bool:
        inside = {**position, **dict(units)}
        return all(
            bool(keep[atom].mask[unit] if (slot := keep[atom].slot) is None else keep[atom].mask[inside[slot.id], unit])
            for atom, unit in units
            if atom in keep
        )

    return torch.tensor([stays(units) for units in positions(axis)], dtype=torch.bool)


def atoms_of(axis: Axis) -> set[int]:
    """The ids of the atoms of an axis."""
    return {atom.id for atom in atoms(axis)}


def slot_dims(axes: Sequence[Axis], keep: Keep, position: Mapping[int, int] | None = None) -> list[tuple[int, Atom]]:
    """The dims of a tensor whose positions decide what is kept of its other dims, with the atom that decides."""
    found: dict[int, Atom] = {}
    for axis in axes:
        for atom in atoms_of(axis) & keep.keys():
            slot = keep[atom].slot
            if slot is None or slot.id in (position or ()) or slot.id in atoms_of(axis):
                continue
            giving = [dim for dim, other in enumerate(axes) if slot.id in atoms_of(other)]
            assert len(giving) == 1, "an atom with slots must stand beside the atom that gives them, once"
            found[giving[0]] = slot
    return list(found.items())


def kept_slice(value: Tensor, axes: Sequence[Axis], keep: Keep, position: Mapping[int, int] | None = None) -> Tensor:
    """The positions of a value that stay, in the shape of the compact value."""
    position = position or {}
    if [kept_size(axis, keep) for axis in axes] == list(value.shape):
        return value
    giving = slot_dims(axes, keep, position)
    if not giving:
        return slice_tensor(value, [kept_at(axis, keep, position) for axis in axes])
    dim, slot = giving[0]
    pieces = []
    for place in kept_at(axes[dim], keep, position).nonzero().flatten().tolist():
        inside = {**position, slot.id: dict(positions(axes[dim])[place])[slot.id]}
        others = [axis for other, axis in enumerate(axes) if other != dim]
        pieces.append(kept_slice(value.select(dim, place), others, keep, inside))
    return torch.stack(pieces, dim)


class Recorder(fx.Interpreter):
    """Runs a graph with given values for its attributes and keeps the value of each node by its name."""

    def __init__(self, graph: fx.GraphModule, values: Mapping[str, Tensor]):
        super().__init__(graph, garbage_collect_values=False)
        self.values = values
        self.seen: dict[str, Any] = {}

    def fetch_attr(self, target: str) -> Any:
        return self.values[target] if target in self.values else super().fetch_attr(target)

    def run_node(self, n: fx.Node) -> Any:
        torch.manual_seed(0)
        self.seen[n.name] = value = super().run_node(n)
        return value


def check_lockstep(traced: TracedModel, plan: PruningPlan, tolerance: float = 1e-9) -> int:
    """Compare every value of the masked and the compact graph; the number of values that were cut."""
    program, inference, keep = traced.program, traced.inference, plan.keep(traced)
    masks = parameter_masks(inference, keep)
    originals = {name: program.tensor(name).detach() for name in inference.parameter_dims}
    sliced = {n: slice_tensor(t, masks[n]) if n in masks else t for n, t in originals.items()}
    is_buffer = {name: name not in program.table or program.table[name].is_buffer for name in originals}
    zeroed = zeroing_masks(inference, masks)
    masked = {n: zero_masked(t, zeroed[n]) if n in masks and not is_buffer[n] else t for n, t in originals.items()}
    compact = recompute_shapes(program, inference, keep, dict(sliced))
    inputs = torch.utils._pytree.tree_leaves((program.args, dict(program.kwargs)))
    before = Recorder(
        program.graph, {target: masked[name] for target, name in inference.canonical.items() if name in masked}
    )
    after = Recorder(compact, {name: fetch(compact, name) for name in sliced if _has(compact, name)})
    with torch.no_grad():
        before.run(*inputs, enable_io_processing=False)
        after.run(*inputs, enable_io_processing=False)
    cut = 0
    for node in program.graph.graph.nodes:
        result = inference.dims.get(node)
        values = before.seen.get(node.name), after.seen.get(_compact_name(compact, node.name))
        for dims, old, new in _pairs(result, *values):
            axes = [inference.solver.resolve(axis) for axis in dims.axes]
            cut += _check_value(node, axes, dims.zero, keep, old, new, tolerance)
    return cut


def _check_value(
    node: fx.Node, axes: list[Axis], zero: Sequence[bool], keep: Keep, old: Tensor, new: Tensor, tolerance: float
) -> int:
    # a size that depends on data is another one each time, and is never cut
    axes = [axis if axis.size == size else Atom(-1, size) for axis, size in zip(axes, old.shape, strict=True)]
    sizes = [kept_size(axis, keep) for axis in axes]
    assert list(new.shape) == sizes, f"{node.format_node()}: the compact value has shape {list(new.shape)}, not {sizes}"
    expected = kept_slice(old, axes, keep)
    if node.target in UNDEFINED:
        return 0
    if old.is_floating_point() or old.is_complex():
        error = (torch.nan_to_num(expected) - torch.nan_to_num(new)).abs()
        worst = float(error.max() / expected.abs().nan_to_num().max().clamp_min(1.0)) if error.numel() else 0.0
        assert torch.equal(torch.isfinite(expected), torch.isfinite(new)), f"{node.format_node()}: not finite elsewhere"
        assert worst <= tolerance, f"{node.format_node()}: differs by {worst:.1e}"
    else:
        assert torch.equal(expected, new), f"{node.format_node()}: the integers differ"
    if sizes != list(old.shape) and not slot_dims(axes, keep):
        for dim, (axis, flag) in enumerate(zip(axes, zero, strict=True)):
            gone = (~kept_at(axis, keep, {})).nonzero().flatten()
            if flag and len(gone):
                assert not old.index_select(dim, gone).any(), (
                    f"{node.format_node()}: masked units of dim {dim} not zero"
                )
    return int(sizes != list(old.shape))


UNDEFINED = {torch.ops.aten.empty.memory_format, torch.ops.aten.new_empty.default, torch.ops.aten.empty_like.default}
"""Operators whose values are whatever is in memory."""


def _compact_name(compact: fx.GraphModule, name: str) -> str:
    """The node of the compact graph with the value of a node: the choice of kept positions that may follow it."""
    node = next((node for node in compact.graph.nodes if node.name == name), None)
    while node is not None:
        choices = [user for user in node.users if user.target is torch.ops.aten.index_select.default]
        choice = next((user for user in choices if str(user.args[2]).startswith("kept_positions")), None)
        if choice is None:
            return node.name
        node = choice
    return name


def _pairs(result: Any, old: Any, new: Any) -> list[tuple[Dims, Tensor, Tensor]]:
    if isinstance(result, tuple):
        return [pair for each in zip(result, old, new, strict=True) for pair in _pairs(*each)]
    return [(result, old, new)] if isinstance(result, Dims) and isinstance(old, Tensor) else []


def _has(graph: fx.GraphModule, name: str) -> bool:
    try:
        fetch(graph, name)
    except AttributeError:
        return False
    return True
