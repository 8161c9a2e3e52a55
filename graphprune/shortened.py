"""A traced model without most of the blocks that are alike, of which what holds for all of them is found out sooner.

::

    layers.0 layers.1 … layers.28 layers.29   ->   layers.0 layers.29, which is layers.1 there
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from .axes import Atom, atoms
from .masks import Keep
from .passes.adopt_graph import is_captured
from .passes.patch_modules import copy_with
from .passes.repeat_blocks import find_repeats
from .pipeline import trace
from .traced import TracedModel


@dataclass(frozen=True)
class Shortened:
    """A model of which two of each run of blocks that are alike are left, the first and the last.

    ``partners`` leads from the ids of the atoms of the whole model, as far as there are any, to the atoms of this one.
    """

    whole: TracedModel
    traced: TracedModel
    partners: Mapping[int, Atom]

    def shows(self, keep: Keep) -> bool:
        """Whether some group of each family that is cut is in the short model."""
        groups = self.whole.groups.by_atom
        family = {atom: groups[atom].family for atom in keep}
        return set(family.values()) == {name for atom, name in family.items() if atom in self.partners}

    def keep(self, keep: Keep) -> Keep:
        """The same cut of the groups that are in the short model."""
        return {self.partners[atom].id: kept for atom, kept in keep.items() if atom in self.partners}


def shorten(traced: TracedModel) -> Shortened | None:
    """The model with fewer blocks; None where none can be left out, or what is left has no graph or other axes."""
    if is_captured(traced.program.module):
        return None
    try:
        module, names = _without_repeats(traced)
        if len(names) == len(traced.table):
            return None
        short = trace(module, traced.program.args, traced.program.kwargs, by_example=traced.by_example)
    except Exception:  # whatever a forward does with blocks that are not there
        return None
    partners = _partners(traced, short, names)
    return None if partners is None else Shortened(traced, short, partners)


def _without_repeats(traced: TracedModel) -> tuple[nn.Module, dict[str, str]]:
    """A copy over the same tensors, and from the names of its tensors to those that they have in the whole model."""
    program = traced.program
    module = copy_with(program, {name: program.tensor(name) for name in program.table})
    tensors = {id(tensor): (name, tensor) for name, tensor in _named(module)}
    dropped = {block.path for family in find_repeats(module).families for block in family[1:-1]}
    for path in {path.rpartition(".")[0] for path in dropped}:
        children = module.get_submodule(path)._modules
        left = {name: each for name, each in children.items() if f"{path}.{name}".lstrip(".") not in dropped}
        children.clear()
        numbered = all(name.isdigit() for name in left)
        children.update({str(at) if numbered else name: each for at, (name, each) in enumerate(left.items())})
    return module, {name: tensors[id(tensor)][0] for name, tensor in _named(module)}


def _named(module: nn.Module) -> list[tuple[str, object]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _partners(whole: TracedModel, short: TracedModel, names: Mapping[str, str]) -> dict[int, Atom] | None:
    """The atoms of the short model, by the ids of those in the same places of the whole one; None where they differ."""
    found: dict[int, Atom] = {}
    for name, full in names.items():
        if (name in short.inference.parameter_dims) != (full in whole.inference.parameter_dims):
            return None
        if name not in short.inference.parameter_dims:
            continue
        for axis, other in zip(whole.inference.axes(full), short.inference.axes(name), strict=True):
            ours, theirs = list(atoms(axis)), list(atoms(other))
            if [atom.size for atom in ours] != [atom.size for atom in theirs]:
                return None
            for atom, partner in zip(ours, theirs, strict=True):
                if found.setdefault(atom.id, partner) != partner:
                    return None
    return found if len(set(found.values())) == len(found) else None
