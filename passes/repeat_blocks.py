"""Capture blocks that are alike once: what the first of them calls stands for what the others call.

1. Blocks are members of a list of modules. They are alike if their classes, plain attributes and the shapes of their
   parameters are, all the way down, but for numbers that count their position in the list.
2. While the module is captured, the first call of a block is put between two marks, and a further call of a block that
   is alike, with inputs that are alike, becomes one call that only has the right outputs.
3. The last block of a list runs as well, without being captured, and must call what the first one called.
4. What the blocks between them hold is hidden meanwhile, since torch.export takes its time over each tensor.
5. In the captured graph each such call is replaced by a copy of the calls between the marks, over its own parameters.

Whatever might tell blocks apart raises :class:`Unlike`, and the module is captured block by block: a block that asks
for its position, has hooks, changes a tensor, or takes or leaves a tensor by another way than its inputs and outputs.
Where what is hidden is asked for, the module is captured once more with nothing hidden.

::

    enter(x); linear(…, layers.0.weight); leave(…); repeat(…)
 -> linear(x, layers.0.weight); linear(…, layers.1.weight)
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import re
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..program import attribute_at, copied_call

FEWEST = 4
"""How many blocks must be alike: one is captured, another one runs, and one copy saves less than the marks cost."""

FEWEST_HIDDEN = 32
"""How many tensors the blocks between the first and the last must hold to be hidden: few save less than is risked."""

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, slice)
"""Types whose values tell all about them."""

UNSEEN = torch._C.DisableTorchFunction
"""A context in which no mode of torch.export is asked about each size and each stride: what is asked is no call."""

_library = torch.library.Library("graphprune", "FRAGMENT")
_library.define("enter(int call, Tensor[] inputs) -> Tensor[]")
_library.define("leave(int call, Tensor[] outputs) -> Tensor[]")
_library.define("repeat(int call, int template, int[] places, Tensor[] others) -> Tensor[]")
_numbers = itertools.count()
_results: dict[int, list[Tensor]] = {}
"""The outputs of the calls that are captured just now."""


class Unlike(Exception):
    """Blocks that look alike can't be told to be so; the module must be captured block by block."""


def _same_sizes(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device=each.device) for each in tensors]


def _enter(call: int, inputs: Sequence[Tensor]) -> list[Tensor]:
    return _same_sizes(inputs)


def _leave(call: int, outputs: Sequence[Tensor]) -> list[Tensor]:
    return _same_sizes(outputs)


def _repeat(call: int, template: int, places: Sequence[int], others: Sequence[Tensor]) -> list[Tensor]:
    return _same_sizes(_results[template])


torch.library.register_fake("graphprune::enter", _enter, lib=_library)
torch.library.register_fake("graphprune::leave", _leave, lib=_library)
torch.library.register_fake("graphprune::repeat", _repeat, lib=_library)


@dataclass(frozen=True)
class Block:
    """A member of a list of modules: where it is, and the numbers in it that count its position."""

    module: nn.Module
    path: str
    positions: frozenset[tuple[str, str]]
    """Paths of modules inside the block, and the attributes of them."""


@dataclass(frozen=True)
class Template:
    """A call of a block that was captured: its number, and its outputs with a place for each tensor."""

    call: int
    inputs: list[tuple[Tensor, int]]
    """With the number of times that each had been written into."""

    outputs: Any
    noted: _Noted
    """What it called."""


@dataclass
class Repeats:
    """What is known of the calls of blocks that are alike, while their module is captured and afterwards."""

    families: list[list[Block]]
    hidden: list[Block] = field(default_factory=list)
    """Those of them whose children and tensors torch.export does not see."""

    calls: dict[int, Block] = field(default_factory=dict)
    templates: dict[tuple[int, Hashable], Template] = field(default_factory=dict)
    inside: bool = False
    running: bool = False
    """Whether the module itself runs, and not what torch.export does before and after."""

    missed: bool = False
    """Whether something was asked for that is hidden."""

    @contextlib.contextmanager
    def marked(self, root: nn.Module) -> Iterator[None]:
        """Within the context the blocks of a module leave marks when they are called."""
        for index, family in enumerate(self.families):
            for block in family:
                block.module.forward = self._marking(index, block)
        try:
            with self._hiding(root) if self.hidden else contextlib.nullcontext():
                yield
        finally:
            for block in itertools.chain.from_iterable(self.families):
                del block.module.forward
            for call in self.calls:
                _results.pop(call, None)

    @contextlib.contextmanager
    def _hiding(self, root: nn.Module) -> Iterator[None]:
        forward, own = root.forward, "forward" in vars(root)

        @functools.wraps(forward)
        def running(*args: Any, **kwargs: Any) -> Any:
            within, self.running = self.running, True
            try:
                return forward(*args, **kwargs)
            finally:
                self.running = within

        root.forward = running
        before = [(vars(block.module), name, vars(block.module)[name]) for block in self.hidden for name in HELD]
        try:
            for values, name, _ in before:
                values[name] = _Nothing(self)
            yield
        finally:
            for values, name, held in before:
                values[name] = held
            if own:
                root.forward = forward
            else:
                del root.forward

    def miss(self) -> NoReturn:
        """Something is asked for that is hidden.

        Raises:
            Unlike: always.
        """
        self.missed = True
        raise Unlike("a block that is not captured is asked for what it holds")

    def _marking(self, family: int, block: Block) -> Callable[..., Any]:
        forward = block.module.forward

        @functools.wraps(forward)
        def marking(*args: Any, **kwargs: Any) -> Any:
            tensors: list[Tensor] = []
            try:
                with UNSEEN():
                    description = _describe((args, tuple(kwargs.items())), tensors)
            except Unlike:  # it takes something that may change meanwhile
                return forward(*args, **kwargs)
            if self.inside:
                return forward(*args, **kwargs)
            call = next(_numbers)
            self.calls[call] = block
            template = self.templates.get((family, description))
            if template is not None:
                if block is self.families[family][-1]:
                    with _uncaptured():
                        noted = self._run(block, forward, args, kwargs, tensors)[0]
                    self._check(template, noted, block)
                with UNSEEN():
                    others = {
                        at: new
                        for at, (new, (old, writes)) in enumerate(zip(tensors, template.inputs, strict=True))
                        if new is not old or new._version != writes
                    }
                    repeated = torch.ops.graphprune.repeat(call, template.call, list(others), list(others.values()))
                return _filled(template.outputs, repeated)
            entered = dict(zip(map(id, tensors), torch.ops.graphprune.enter(call, tensors), strict=True))
            args, kwargs = _map(args, entered), {name: _map(value, entered) for name, value in kwargs.items()}
            with UNSEEN():
                given = [(each, each._version) for each in tensors]
            noted, outputs, results = self._run(block, forward, args, kwargs, list(entered.values()))
            _results[call] = results
            places = {id(each): _Place(at) for at, each in enumerate(results)}
            captured = Template(call, given, _map(outputs, places), noted)
            self.templates[family, description] = captured
            return _filled(captured.outputs, torch.ops.graphprune.leave(call, results))

        return marking

    def _run(
        self,
        block: Block,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tensors: Sequence[Tensor],
    ) -> tuple[_Noted, Any, list[Tensor]]:
        """Run a block on arguments that hold these tensors: what it calls, its outputs, and the tensors in them."""
        noted = _Noted(block, tensors)
        self.inside = True
        try:
            with _hidden_positions(block), noted:
                outputs = forward(*args, **kwargs)
        finally:
            self.inside = False
        results: list[Tensor] = []
        _describe(outputs, results)
        noted.end(results)
        return noted, outputs, results

    def _check(self, template: Template, noted: _Noted, block: Block) -> None:
        """Compare what a block called with what the one called that stands for it, once its outputs are let go.

        Raises:
            Unlike: it calls something else, or keeps what it makes.
        """
        if noted.calls != template.noted.calls:
            raise Unlike(f"{block.path} does something else than {self.calls[template.call].path}")
        if any(made() is not None for made in noted.made):
            raise Unlike(f"{block.path} keeps what it makes")


class _Noted(TorchFunctionMode):
    """Notes what a block calls, in a form that is the same for blocks that do the same."""

    def __init__(self, block: Block, inputs: Sequence[Tensor]):
        super().__init__()
        self.calls: list[Any] = []
        self.made: list[weakref.ref[Tensor]] = []
        """What was made on the way."""

        self.others: list[Tensor] = []
        """What was taken that is neither the block's own nor given to it."""

        self._names: dict[int, Any] = {id(each): ("own", path) for path, each in _tensors(block.module)}
        self._names |= {id(each): ("input", at) for at, each in enumerate(inputs)}
        self._held: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = (func, self._named(args), self._named(kwargs))
        made = func(*args, **(kwargs or {}))
        for at, each in enumerate(tree_leaves(made)):
            if isinstance(each, Tensor) and id(each) not in self._names:
                self._names[id(each)] = ("call", len(self.calls), at)
                self._held.append(each)
        self.calls.append(call)
        return made

    def end(self, outputs: Sequence[Tensor]) -> None:
        """Note what the block gives, and let go of what it made."""
        self.calls.append([self._named(each) for each in outputs])
        self.made = [weakref.ref(each) for each in self._held]
        self._held.clear()

    def _named(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in self._names:
                self._names[id(value)] = ("other", id(value))
                self.others.append(value)
            return self._names[id(value)]
        if isinstance(value, (list, tuple)):
            return [self._named(each) for each in value]
        if isinstance(value, dict):
            return {name: self._named(each) for name, each in value.items()}
        if isinstance(value, slice):
            return slice, self._named((value.start, value.stop, value.step))
        return str(value) if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)) else value


@contextlib.contextmanager
def _uncaptured() -> Iterator[None]:
    """Within the context nothing gets into the graph that is being captured."""
    capturing = get_proxy_mode()
    if capturing is None:
        raise Unlike("nothing is being captured")
    graph = capturing.tracer.graph
    before = len(graph.nodes)
    with disable_proxy_modes_tracing():
        yield
    for node in reversed(list(itertools.islice(graph.nodes, before, None))):  # modes that are set leave calls
        graph.erase_node(node)


HELD = ("_parameters", "_buffers", "_modules")
"""The attributes of a module that hold its tensors and children."""


class _Nothing(dict[str, Any]):
    """Stands for the tensors or children of a block: torch.export finds none, and the module itself must not look."""

    def __init__(self, repeats: Repeats):
        super().__init__()
        self.repeats = repeats

    def __contains__(self, name: object) -> bool:
        return self.repeats.miss()


def _looked(name: str) -> Callable[..., Any]:
    def look(self: _Nothing, *args: Any) -> Any:
        return self.repeats.miss() if self.repeats.running else getattr(dict, name)(self, *args)

    return look


for _name in ("items", "values", "keys", "get", "__iter__", "__len__", "__getitem__"):
    setattr(_Nothing, _name, _looked(_name))


def find_repeats(module: nn.Module) -> Repeats:
    """The blocks of a module that are alike; none of them is inside another one."""
    families: list[list[Block]] = []
    within: set[int] = set()
    for path, parent in module.named_modules():
        if id(parent) in within or not isinstance(parent, (nn.ModuleList, nn.Sequential)):
            continue
        for members in _alike_members(parent):
            blocks = [Block(each, f"{path}.{name}" if path else name, found) for name, each, found in members]
            families.append(blocks)
            within |= {id(child) for block in blocks for child in block.module.modules()}
    between = [family[1:-1] for family in families]
    hidden = [
        blocks for blocks in between if sum(1 for block in blocks for _ in _tensors(block.module)) >= FEWEST_HIDDEN
    ]
    return Repeats(families, list(itertools.chain.from_iterable(hidden)))


def _alike_members(parent: nn.Module) -> Iterator[list[tuple[str, nn.Module, frozenset[tuple[str, str]]]]]:
    """The members of a list that are alike, by their names, with the numbers that count positions."""
    rest = list(enumerate(parent.named_children()))
    while len(rest) >= FEWEST:
        first, (_, template) = rest[0]
        found = {at: _positions(template, other, first, at) for at, (_, other) in rest}
        alike = [each for at, each in rest if found[at] is not None]
        positions = frozenset(itertools.chain.from_iterable(each for each in found.values() if each is not None))
        if len(alike) >= FEWEST:
            yield [(name, each, positions) for name, each in alike]
        rest = [(at, each) for at, each in rest[1:] if found[at] is None]  # one with hooks is not even like itself


def _positions(a: nn.Module, b: nn.Module, at_a: int, at_b: int) -> frozenset[tuple[str, str]] | None:
    """The numbers in two modules that count their positions; None if anything else tells them apart."""
    found: set[tuple[str, str]] = set()
    partner: dict[int, int] = {}
    children = list(a.named_modules(remove_duplicate=False))
    others = list(b.named_modules(remove_duplicate=False))
    if [path for path, _ in children] != [path for path, _ in others]:
        return None
    for (path, child), (_, other) in zip(children, others, strict=True):
        if type(child) is not type(other) or partner.setdefault(id(child), id(other)) != id(other):
            return None
        own, its = vars(child), vars(other)
        if own.keys() != its.keys() or "forward" in own:
            return None
        for name in own:
            if name in ("_parameters", "_buffers"):
                if not _same_tensors(own[name], its[name], partner):
                    return None
            elif name.startswith(("_forward_hooks", "_forward_pre_hooks")):
                if own[name] or its[name]:
                    return None
            elif name != "_modules" and not _same_value(own[name], its[name]):
                if not _counts(own[name], its[name], at_b - at_a):
                    return None
                found.add((path, name))
    return frozenset(found)


def _same_tensors(own: dict[str, Tensor | None], its: dict[str, Tensor | None], partner: dict[int, int]) -> bool:
    if own.keys() != its.keys():
        return False
    for name, tensor in own.items():
        other = its[name]
        if tensor is None or other is None:
            if tensor is not other:
                return False
        elif _layout(tensor) != _layout(other) or partner.setdefault(id(tensor), id(other)) != id(other):
            return False
    return True


def _layout(tensor: Tensor) -> Hashable:
    """What code can ask a tensor without asking for its values; symbolic sizes by their names."""
    strides = str(tuple(tensor.stride())) if tensor.layout == torch.strided else ""
    sizes = str(tuple(tensor.shape))
    return type(tensor), sizes, strides, tensor.dtype, tensor.layout, str(tensor.device), tensor.requires_grad


def _same_value(a: Any, b: Any) -> bool:
    """Whether two attributes are surely the same: one object, or plain values that are equal."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, PLAIN):
        return bool(a == b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same_value(a[key], b[key]) for key in a)
    if type(a) in (list, tuple):
        return len(a) == len(b) and all(map(_same_value, a, b))
    if type(a) in (set, frozenset):
        return all(isinstance(each, PLAIN) for each in a | b) and bool(a == b)
    return False


def _counts(a: Any, b: Any, by: int) -> bool:
    """Whether two values differ only in numbers that count positions, which are ``by`` apart: 3, ``"layers.3.mlp"``."""
    if type(a) is not type(b):
        return False
    if type(a) is int:
        return bool(b - a == by)
    if type(a) is str:
        numbers = [[int(each) for each in re.findall(r"\d+", text)] for text in (a, b)]
        same_text = re.sub(r"\d+", "0", a) == re.sub(r"\d+", "0", b)
        return same_text and all(y - x in (0, by) for x, y in zip(*numbers, strict=True))
    if type(a) is dict:
        return list(a) == list(b) and _counts(list(a.values()), list(b.values()), by)
    if type(a) in (list, tuple):
        return len(a) == len(b) and all(_same_value(x, y) or _counts(x, y, by) for x, y in zip(a, b, strict=True))
    return False


def _describe(value: Any, tensors: list[Tensor]) -> Hashable:
    """What of the arguments of a call can tell it from another one; new tensors are added to ``tensors``.

    Raises:
        Unlike: it holds something that may change, or whose equality says little.
    """
    if isinstance(value, Tensor):
        at = next((index for index, other in enumerate(tensors) if other is value), len(tensors))
        if at == len(tensors):
            tensors.append(value)
        return "tensor", at, _layout(value)
    if type(value) is tuple:
        return tuple, tuple(_describe(each, tensors) for each in value)
    if isinstance(value, PLAIN) and not isinstance(value, (torch.Size, slice)):
        return type(value), value
    raise Unlike(f"a block is given or returns a {type(value).__name__}")


@dataclass(frozen=True)
class _Place:
    """The place of a tensor in the outputs of a call."""

    index: int


def _map(value: Any, by_id: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return by_id[id(value)]
    return tuple(_map(each, by_id) for each in value) if type(value) is tuple else value


def _filled(outputs: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(outputs, _Place):
        return tensors[outputs.index]
    return tuple(_filled(each, tensors) for each in outputs) if type(outputs) is tuple else outputs


def _refuse(*_: Any, **__: Any) -> Any:
    raise Unlike("a block asks for its position")


class _Hidden:
    """Stands for an attribute that counts the position of a block: it can be handed on, and nothing else."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, kind: type):
        vars(self)["kind"] = kind

    __class__ = property(lambda self: vars(self)["kind"])


for _name in (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift", "and", "or", "xor"),
    *("radd", "rsub", "rmul", "rtruediv", "rfloordiv", "rmod", "rdivmod", "rpow", "rlshift", "rrshift", "rand", "ror"),
    *("rxor", "neg", "pos", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge", "bool", "int", "float", "complex"),
    *("index", "round", "trunc", "floor", "ceil", "str", "repr", "format", "len", "iter", "contains", "getitem"),
    *("setitem", "delitem", "getattr", "setattr", "call", "copy", "deepcopy", "reduce_ex"),
):
    setattr(_Hidden, f"__{_name}__", _refuse)


@contextlib.contextmanager
def _hidden_positions(block: Block) -> Iterator[None]:
    places = [(vars(block.module.get_submodule(path)), name) for path, name in block.positions]
    before = [values[name] for values, name in places]
    for values, name in places:
        values[name] = _Hidden(type(values[name]))
    try:
        yield
    finally:
        for (values, name), value in zip(places, before, strict=True):
            values[name] = value


def put_back_repeats(captured: fx.GraphModule, repeats: Repeats) -> None:
    """Replace the marks of blocks and the calls of those that are alike by the calls that they stand for, in place.

    Raises:
        Unlike: a tensor gets into a block or out of it by another way than its inputs and outputs.
    """
    for block in repeats.hidden:
        captured.add_submodule(block.path, block.module)
    nodes = list(captured.graph.nodes)
    attributes = _Attributes(captured, nodes)
    entries = {node.args[0]: node for node in nodes if node.target is torch.ops.graphprune.enter.default}
    exits = {node.args[0]: node for node in nodes if node.target is torch.ops.graphprune.leave.default}
    at = {node: index for index, node in enumerate(nodes)}
    if entries.keys() != exits.keys() or any(template.call not in entries for template in repeats.templates.values()):
        raise Unlike("a block is not captured whole")
    regions = {
        call: _region(nodes[at[entry] + 1 : at[exits[call]]], entry, exits[call]) for call, entry in entries.items()
    }
    for call, region in regions.items():
        _name_from_the_top(region, repeats.calls[call])
    for node in nodes:
        if node.target is torch.ops.graphprune.repeat.default:
            call, template, places, _ = node.args
            inputs = dict(enumerate(_listed(entries[template]))) | dict(zip(places, _listed(node), strict=True))
            source, target = repeats.calls[template], repeats.calls[call]
            move = _Move(captured, source, target, attributes)
            with captured.graph.inserting_before(node):
                results = _copied(captured.graph, regions[template], entries[template], exits[template], inputs, move)
            _replace(captured.graph, node, results)
    for call, entry in entries.items():
        _replace(captured.graph, exits[call], _listed(exits[call]))
        _replace(captured.graph, entry, _listed(entry))


class _Attributes:
    """The calls for tensors in a graph, by their names and by the tensors."""

    def __init__(self, captured: fx.GraphModule, nodes: Sequence[fx.Node]):
        self.by_name: dict[str, fx.Node] = {}
        self.by_tensor: dict[int, fx.Node] = {}
        for node in nodes:
            if node.op == "get_attr":
                self.add(node, _attribute(captured, node.target))

    def add(self, node: fx.Node, tensor: Any) -> fx.Node:
        self.by_tensor.setdefault(id(tensor), node)
        return self.by_name.setdefault(str(node.target), node)


def _region(nodes: list[fx.Node], entry: fx.Node, leave: fx.Node) -> list[fx.Node]:
    """The calls of a block, which take nothing from outside but its inputs, and hand nothing out but its outputs."""
    inside = set(nodes)
    for node in nodes:
        for each in filter(_is_tensor, node.all_input_nodes):
            if each not in inside and each is not entry and each.op != "get_attr":
                raise Unlike(f"a block takes {each.name}, which is none of its inputs")
        if _is_tensor(node) and any(user not in inside and user is not leave for user in node.users):
            raise Unlike(f"{node.name} leaves a block, and is none of its outputs")
    return nodes


def _name_from_the_top(region: list[fx.Node], block: Block) -> None:
    """Put the path of a block before those of the modules in it, where torch names these as the block does.

    It does so in a model that calls one module at several places, since a marked block calls its own forward.
    """
    within = {path for path, _ in block.module.named_modules(remove_duplicate=False)}
    for node in region:
        stack: dict[str, tuple[str, Any]] = {}
        inside = False
        for key, (path, kind) in (node.meta.get("nn_module_stack") or {}).items():
            is_relative = inside and path in within and not path.startswith(f"{block.path}.")
            whole = f"{block.path}.{path}" if is_relative else path
            stack[key.partition("@")[0].replace(path, whole, 1) if is_relative else key] = (whole, kind)
            inside = inside or path == block.path
        if stack:
            node.meta["nn_module_stack"] = stack


def _listed(mark: fx.Node) -> list[fx.Node]:
    """The tensors that a mark is given."""
    return list(mark.args[-1])  # type: ignore[arg-type]


def _is_tensor(node: fx.Node) -> bool:
    """Sizes may go in and out: each is named by its symbol, which is the same wherever it is asked for."""
    return not isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool))


def _copied(
    graph: fx.Graph,
    region: list[fx.Node],
    entry: fx.Node,
    leave: fx.Node,
    inputs: Mapping[int, fx.Node],
    move: _Move,
) -> list[fx.Node]:
    """Copies of the calls of a block, over other inputs and parameters; gives its outputs."""
    copies: dict[fx.Node, fx.Node] = {}

    def value(used: fx.Node) -> fx.Node:
        if used in copies:
            return copies[used]
        return move.attribute(used) if used.op == "get_attr" else used

    for node in region:
        if node.target is operator.getitem and node.args[0] is entry:
            copies[node] = inputs[node.args[1]]  # type: ignore[index]
        elif node.op == "get_attr":
            copies[node] = move.attribute(node)
        else:
            copies[node] = copied_call(node, graph, value)
            copies[node].meta.update(move.places_of(node))
    return [value(each) for each in _listed(leave)]


def _replace(graph: fx.Graph, node: fx.Node, results: Sequence[fx.Node]) -> None:
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]], propagate_meta=False)  # type: ignore[index]
        graph.erase_node(user)
    graph.erase_node(node)


@dataclass
class _Move:
    """From the calls of one block to those of another: its parameters, and where they stand."""

    captured: fx.GraphModule
    source: Block
    target: Block
    attributes: _Attributes

    def __post_init__(self) -> None:
        self.own = {id(tensor): path for path, tensor in _tensors(self.source.module)}
        self.its = dict(_tensors(self.target.module))
        self.places: dict[tuple[str, str], tuple[str, tuple[str, Any]]] = {}

    def attribute(self, node: fx.Node) -> fx.Node:
        """The attribute of the other block that an attribute of the one corresponds to; what is of neither stays.

        Raises:
            Unlike: the graph does not have the parameter of the other block.
        """
        path = str(node.target)
        if path.startswith(f"{self.source.path}."):
            relative = path.removeprefix(f"{self.source.path}.")
        else:
            relative = self.own.get(id(_attribute(self.captured, path)), "")
        if not relative:
            return node
        target, tensor = f"{self.target.path}.{relative}", self.its.get(relative)
        found = self.attributes.by_name.get(target)
        if found is None and tensor is not None:  # it may be in the graph under the name of what it is tied to
            found = self.attributes.by_tensor.get(id(tensor))
        return found or self.attributes.add(self._new(node, target, tensor), tensor)

    def _new(self, node: fx.Node, target: str, tensor: Tensor | None) -> fx.Node:
        if tensor is None or _attribute(self.captured, target) is not tensor:
            raise Unlike(f"{target} is not in the graph")
        with self.captured.graph.inserting_before(node):
            made = self.captured.graph.get_attr(target)
        made.meta.update(node.meta | self.places_of(node))
        return made

    def places_of(self, node: fx.Node) -> dict[str, Any]:
        """What is noted of where a call stands, with the place of the other block for that of the one."""
        stack = node.meta.get("nn_module_stack")
        if not stack:
            return {}
        for key, (path, kind) in stack.items():
            if (key, path) not in self.places:
                self.places[key, path] = self._place(key, (path, kind))
        return {"nn_module_stack": dict(self.places[key, path] for key, (path, _) in stack.items())}

    def _place(self, key: str, entry: tuple[str, Any]) -> tuple[str, tuple[str, Any]]:
        path, kind = entry
        if path != self.source.path and not path.startswith(f"{self.source.path}."):
            return key, entry
        moved = self.target.path + path.removeprefix(self.source.path)
        return key.replace(self.source.path, self.target.path, 1), (moved, kind)


def _attribute(module: nn.Module, path: Any) -> Any:
    try:
        return attribute_at(module, str(path))
    except AttributeError:
        return None


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
