"""The groups of a model and the weights that they are in as a graph, and that graph as a picture or for other programs.

::

    groups_graph(traced, groups)  ->  nx.MultiGraph  ->  to_svg(graph)      a picture, which needs no other program
                                                     ->  to_dot(graph)      for Graphviz
                                                     ->  to_graphml(graph)  for networkx, Gephi, yEd, …

A group and a parameter are joined by an edge for each dim of the parameter that loses positions with the group. Layers
that are alike are folded into the first of them.
"""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

import networkx as nx

from ..groups import PruningGroup
from ..traced import TracedModel
from .description import macs_per_unit
from .folding import Part, numbers_text, parts_of
from .palette import LIGHT

STATES = ("prunable", "statistics", "rank", "frozen")


def groups_graph(traced: TracedModel, groups: Iterable[PruningGroup], *, every: bool = False) -> nx.MultiGraph:
    """A node for each group and each parameter in one, an edge for each dim; alike layers once, unless ``every``.

    Nodes have ``type`` (``"group"`` or ``"parameter"``), ``name``, ``path`` (what ``name`` is below its list of layers,
    which reads ``layers 0–29 ×30`` where layers are folded) and ``alike`` (for how many the node stands); groups have
    ``kind``, ``state``, ``reason``, ``units``, ``params_per_unit`` and ``macs_per_unit``, parameters ``shape``. Edges
    have ``dim`` and ``axis``. The key of a node is ``g`` or ``p`` and its name.
    """
    wanted = list(groups)
    macs = macs_per_unit(traced)
    root = parts_of(traced, wanted, macs, fold=not every)
    graph: nx.MultiGraph = nx.MultiGraph()
    members = dict.fromkeys(member.parameter for group in wanted for member in group.members)
    owners: dict[str, int] = {}  # the picture keeps the order of the model, with buffers beside parameters
    for name in (*traced.table, *members):
        owners.setdefault(name.rpartition(".")[0], len(owners))
    for name in sorted(members, key=lambda each: owners[each.rpartition(".")[0]]):
        first = root.first_alike(name)
        if f"p {first}" not in graph:
            shape = "×".join(str(axis.size) for axis in traced.inference.axes(first))
            path, alike = _path(root, first)
            graph.add_node(f"p {first}", type="parameter", name=first, path=path, alike=alike, shape=shape)
    for group in wanted:
        module, _, label = group.name.rpartition(":")
        first = f"{root.first_alike(module)}:{label}"
        if first != group.name:
            continue
        path, alike = _path(root, module)
        graph.add_node(
            f"g {first}",
            type="group",
            name=first,
            path=f"{path}:{label}",
            alike=alike,
            kind=group.kind,
            state=group.status,
            reason=group.reason,
            units=group.units,
            params_per_unit=group.params_per_unit,
            macs_per_unit=macs[group.atom.id],
        )
        for member in group.members:
            end, key = f"p {root.first_alike(member.parameter)}", f"dim {member.dim}"
            if not graph.has_edge(f"g {first}", end, key):
                graph.add_edge(f"g {first}", end, key, dim=member.dim, axis=member.text)
    return graph


def to_graphml(graph: nx.MultiGraph) -> str:
    """The graph as GraphML."""
    return "\n".join(nx.generate_graphml(graph)) + "\n"


def to_dot(graph: nx.MultiGraph) -> str:
    """The graph in the language of Graphviz: parameters in frames of their modules, groups coloured by their state."""
    lines = ["graph groups {", "  rankdir=LR; ranksep=1.6; nodesep=0.15; compound=true;"]
    lines += ['  node [fontname="Helvetica", fontsize=10]; edge [fontname="Helvetica", fontsize=8];']
    parameters = [(key, node) for key, node in graph.nodes.items() if node["type"] == "parameter"]
    for at, (module, inside) in enumerate(groupby(parameters, key=lambda each: _frame_of(each[1]))):
        lines += [
            f"  subgraph cluster_{at} {{",
            f"    label={_quoted(module or 'model')}; color={_quoted(LIGHT['line'])}; fontsize=10;",
        ]
        for key, node in inside:
            text = f"{_name(node)}\n{node['shape']}"
            lines.append(f"    {_quoted(key)} [shape=box, label={_quoted(text)}];")
        lines.append("  }")
    for key, node in graph.nodes.items():
        if node["type"] == "group":
            text = f"{node['path']}\n{node['units']} units of {node['params_per_unit']:,}"
            state = node["state"]
            colours = f"fillcolor={_quoted(LIGHT[f'{state}-fill'])}, color={_quoted(LIGHT[state])}"
            lines.append(
                f"  {_quoted(key)} [shape=box, style={_quoted('rounded,filled')}, {colours}, label={_quoted(text)}];"
            )
    for group, parameter, edge in _ends(graph):
        colour = _quoted(LIGHT[graph.nodes[group]["state"]])
        lines.append(f"  {_quoted(group)} -- {_quoted(parameter)} [color={colour}, label={_quoted(str(edge['dim']))}];")
    return "\n".join([*lines, "}"]) + "\n"


def _path(root: Part, path: str) -> tuple[str, int]:
    """A path with the numbers of the layers that are folded in it, and how many they are."""
    part, names, count = root, "", 1
    for name in path.split("."):
        found = next((each for each in part.parts if name in each.names), None)
        if found is not None and len(found.layers) > 1:
            names += f" {numbers_text(found.layers)} ×{len(found.layers)}"
            count *= len(found.layers)
        else:
            names += f".{name}"
        part = found or Part("", (), ())
    return names.lstrip(". "), count


def _ends(graph: nx.MultiGraph) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Each edge: the group, the parameter, and what is known of the edge."""
    for a, b, edge in graph.edges(data=True):
        yield (a, b, edge) if graph.nodes[a]["type"] == "group" else (b, a, edge)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


# --- the picture -----------------------------------------------------------------------------------------------------

ROW, GAP, FRAME, LETTER = 22, 7, 20, 6.4
"""The height of a parameter, the space between two, what the title of a module takes, the width of a letter."""
GROUP, MARGIN, BETWEEN = 40, 16, 190
"""The height of a group, the space around the picture, the space between two columns."""


@dataclass(frozen=True)
class _Box:
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


def to_svg(graph: nx.MultiGraph) -> str:
    """The graph as a picture: parameters in the middle by their modules, groups beside them.

    Groups of one module stand on the left, those that go through several on the right. Small numbers at a parameter
    are the dims in which it loses positions.
    """
    boxes, frames = _place_parameters(graph)
    left, right = _sides(graph)
    _place_groups(graph, left, boxes, x=lambda width: -BETWEEN - width)
    wide = max((box.x + box.width for _, box in frames), default=0)
    _place_groups(graph, right, boxes, x=lambda width: wide + BETWEEN)
    drawn = [*boxes.values(), *(box for _, box in frames)]
    x0 = min((box.x for box in drawn), default=0) - MARGIN
    y0 = min((box.y for box in drawn), default=0) - MARGIN
    x1 = max((box.x + box.width for box in drawn), default=0) + MARGIN
    y1 = max((box.y + box.height for box in drawn), default=0) + MARGIN + FRAME
    body = [
        *(_frame(module, box) for module, box in frames),
        *(_parameter(graph.nodes[key], boxes[key]) for key in graph if graph.nodes[key]["type"] == "parameter"),
        *_edges(graph, boxes, right),
        *(_group(graph.nodes[key], boxes[key]) for key in (*left, *right)),
        _legend({graph.nodes[key]["state"] for key in (*left, *right)}, x0 + MARGIN, y1 - MARGIN),
    ]
    width, height = x1 - x0, y1 - y0
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
    head += f' viewBox="{x0:.1f} {y0:.1f} {width:.1f} {height:.1f}" font-family="Helvetica, Arial, sans-serif"'
    return "\n".join([f'{head} font-size="11">', *body, "</svg>"]) + "\n"


def _place_parameters(graph: nx.MultiGraph) -> tuple[dict[str, _Box], list[tuple[str, _Box]]]:
    """The boxes of the parameters, one below the other, and the frames of their modules."""
    rows = [(key, node) for key, node in graph.nodes.items() if node["type"] == "parameter"]
    width = max((LETTER * len(f"{_name(node)} {node['shape']}") + 40 for _, node in rows), default=0)
    width = max([width, *(LETTER * len(_frame_of(node)) for _, node in rows)])
    boxes: dict[str, _Box] = {}
    frames: list[tuple[str, _Box]] = []
    y = 0.0
    for module, inside in groupby(rows, key=lambda row: _frame_of(row[1])):
        top, y = y, y + FRAME
        for key, _ in inside:
            boxes[key] = _Box(0, y, width, ROW)
            y += ROW + GAP
        frames.append((module, _Box(-10, top, width + 20, y - top)))
        y += GAP * 2
    return boxes, frames


def _sides(graph: nx.MultiGraph) -> tuple[list[str], list[str]]:
    """The groups in parameters of one list of layers or module, and those that go beyond it."""
    left: list[str] = []
    right: list[str] = []
    for key, node in graph.nodes.items():
        if node["type"] == "group":
            modules = {_frame_of(graph.nodes[each]) for each in graph.neighbors(key)}
            (left if len(modules) == 1 else right).append(key)
    return left, right


def _place_groups(graph: nx.MultiGraph, keys: Sequence[str], boxes: dict[str, _Box], x: Any) -> None:
    """Put groups at the height of their parameters, in an order in which few edges cross, none over another."""
    heights = {key: fmean(boxes[each].middle for each in graph.neighbors(key)) for key in keys}
    widths = (max(1.1 * len(name), len(facts)) for name, facts in (_group_text(graph.nodes[key]) for key in keys))
    width = LETTER * max(widths, default=0) + 20
    y = float("-inf")
    placed = []
    for key in sorted(keys, key=heights.__getitem__):
        y = max(y, heights[key] - GROUP / 2)
        placed.append((key, y))
        y += GROUP + GAP * 2
    # What was pushed down as a whole goes up again by half of it.
    late = sum(at + GROUP / 2 - heights[key] for key, at in placed) / len(placed) if placed else 0
    for key, at in placed:
        boxes[key] = _Box(x(width), at - late, width, GROUP)


def _edges(graph: nx.MultiGraph, boxes: Mapping[str, _Box], right: Sequence[str]) -> Iterator[str]:
    beyond = set(right)
    dims: dict[tuple[str, bool], set[int]] = defaultdict(set)
    for group, parameter, edge in _ends(graph):
        dims[parameter, group in beyond].add(edge["dim"])
    for group, parameter, edge in _ends(graph):
        on_right, box, other = group in beyond, boxes[parameter], boxes[group]
        here = sorted(dims[parameter, on_right])
        y = box.y + box.height * (here.index(edge["dim"]) + 1) / (len(here) + 1)
        x, start = (box.x + box.width, other.x) if on_right else (box.x, other.x + other.width)
        bend, colour = (start - x) / 2, LIGHT[graph.nodes[group]["state"]]
        way = f"M{start:.1f} {other.middle:.1f}C{start - bend:.1f} {other.middle:.1f} "
        way += f"{x + bend:.1f} {y:.1f} {x:.1f} {y:.1f}"
        yield f'<path d="{way}" fill="none" stroke="{colour}" opacity="0.8"/>'
    for (parameter, on_right), found in dims.items():
        box, here = boxes[parameter], sorted(found)
        x, side = (box.x + box.width - 4, "end") if on_right else (box.x + 4, "start")
        for at, dim in enumerate(here):
            y = box.y + box.height * (at + 1) / (len(here) + 1) + 3
            yield _text(x, y, str(dim), LIGHT["soft"], f' font-size="8" text-anchor="{side}"')


def _frame(module: str, box: _Box) -> str:
    return _rect(box, 6, LIGHT["frame"], LIGHT["line"]) + _text(
        box.x + 10, box.y + 14, module or "model", LIGHT["soft"]
    )


def _parameter(node: Mapping[str, Any], box: _Box) -> str:
    shape = f'<tspan dx="8" fill="{LIGHT["soft"]}">{node["shape"]}</tspan>'
    name = _text(box.x + 14, box.middle + 4, _name(node), LIGHT["text"]).removesuffix("</text>")
    return f"{_rect(box, 3, LIGHT['box'], LIGHT['edge'])}{name}{shape}</text>"


def _group(node: Mapping[str, Any], box: _Box) -> str:
    name, facts = _group_text(node)
    return (
        _rect(box, 12, LIGHT[f"{node['state']}-fill"], LIGHT[node["state"]])
        + _text(box.x + 10, box.y + 17, name, LIGHT["text"], ' font-weight="bold"')
        + _text(box.x + 10, box.y + 32, facts, LIGHT["caption"])
    )


def _legend(states: set[str], x: float, y: float) -> str:
    out = ""
    for state in (state for state in STATES if state in states):
        out += _rect(_Box(x, y - 9, 16, 10), 4, LIGHT[f"{state}-fill"], LIGHT[state]) + _text(
            x + 22, y, state, LIGHT["caption"]
        )
        x += 40 + LETTER * len(state)
    return out


def _rect(box: _Box, corner: int, fill: str, line: str) -> str:
    place = f'x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
    return f'<rect {place} rx="{corner}" fill="{fill}" stroke="{line}"/>'


def _text(x: float, y: float, text: str, colour: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}"{more}>{html.escape(text)}</text>'


def _name(node: Mapping[str, Any]) -> str:
    """A parameter's path below the frame that it is in."""
    name: str = node["path"].removeprefix(_frame_of(node)).lstrip(".")
    return name


def _frame_of(node: Mapping[str, Any]) -> str:
    """The path of the module around the one that a parameter belongs to."""
    path: str = node["path"]
    return path.rpartition(".")[0].rpartition(".")[0]


def _group_text(node: Mapping[str, Any]) -> tuple[str, str]:
    return node["path"], f"{node['units']:,} units of {node['params_per_unit']:,} parameters"
