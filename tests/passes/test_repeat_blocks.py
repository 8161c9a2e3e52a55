"""Blocks that are alike are captured once, and those that are not are told apart: the graph is the same either way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, fx, nn
from transformers import GPT2Config, GPT2LMHeadModel

from graphprune.passes import repeat_blocks
from graphprune.passes import trace as capture
from graphprune.passes.repeat_blocks import Repeats, find_repeats
from graphprune.program import location
from tests.models import VOCABULARY, tiny_llama, tokens

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _small_blocks_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeat_blocks, "FEWEST_HIDDEN", 1)


class Block(nn.Module):
    """A block that knows its position and its path, and asks for neither."""

    runs = 0
    noted: Tensor | None = None

    def __init__(self, index: int, **more: Any):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.index, self.names = index, {"path": f"blocks.{index}", "like": [f"blocks.{index}.linear", None, 1]}
        vars(self).update(more)

    def forward(self, x: Tensor, *_: Any) -> Any:
        Block.runs += 1
        return self.linear(x).relu()


class Stack(nn.Module):
    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Scaled(Block):
    """Asks for its position."""

    def forward(self, x: Tensor, *_: Any) -> Any:
        return super().forward(x) / (self.index + 1)


class Fourth(Block):
    """Does something else at one position only."""

    def forward(self, x: Tensor, *_: Any) -> Any:
        y = super().forward(x)
        return y if self.index % 4 == 3 else y + 1


class Listed(Block):
    """Looks its position up in a list, which no method of a number sees."""

    def forward(self, x: Tensor, *_: Any) -> Any:
        return super().forward(x) * [1, 2, 3, 5][self.index]


class Named(Block):
    """Asks for its path."""

    def forward(self, x: Tensor, *_: Any) -> Any:
        return super().forward(x) + len(self.names["path"])


class Writing(Block):
    """Changes its input, which the model uses afterwards."""

    def forward(self, x: Tensor, *_: Any) -> Any:
        x += 1
        return super().forward(x)


class WritingInside(Block):
    """Changes a value of its own."""

    def forward(self, x: Tensor, *_: Any) -> Any:
        return super().forward(x).add_(x)


class Taking(Block):
    """Takes a tensor that it was not given."""

    def forward(self, x: Tensor, *_: Any) -> Any:
        return super().forward(x) + (0 if Block.noted is None else Block.noted)


class Leaving(Block):
    """Leaves a tensor where the model finds it."""

    def forward(self, x: Tensor, *_: Any) -> Any:
        self.found = super().forward(x)
        return self.found


class InTurn(Block):
    """Does something else each second time that one of them runs, which it counts at a place that all share."""

    counted: ClassVar[list[int]] = [0]

    def forward(self, x: Tensor, *_: Any) -> Any:
        self.counted[0] += 1
        return super().forward(x) + self.counted[0] % 2


class Keeping(Block):
    """Leaves a tensor where the next one leaves its own."""

    kept: ClassVar[dict[str, Tensor]] = {}

    def forward(self, x: Tensor, *_: Any) -> Any:
        self.kept["last"] = super().forward(x)
        return self.kept["last"] + 1


class Unrounded(Block):
    """Sets a mode."""

    def forward(self, x: Tensor, *_: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


class Residual(Stack):
    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x * 2
            x = x + block(x)
        return x


class Noting(Stack):
    def forward(self, x: Tensor) -> Tensor:
        Block.noted = None
        for block in self.blocks:
            x = block(x)
            Block.noted = x
        Block.noted = None
        return x


class Collecting(Stack):
    def forward(self, x: Tensor) -> Tensor:
        found: Any = torch.zeros_like(x)
        for block in self.blocks:
            x = block(x)
            found = found + block.found
        return found  # type: ignore[no-any-return]


class Asking(Stack):
    """Takes what its last block left."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + Keeping.kept.pop("last")


class Counting(Stack):
    """Gives each block a number."""

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x, index)
        return x


class Shifted(Block):
    """Takes another tensor."""

    def forward(self, x: Tensor, *others: Any) -> Any:
        return super().forward(x) + others[0]


class Shifting(Stack):
    """Gives all blocks one tensor, and writes into it."""

    def forward(self, x: Tensor) -> Tensor:
        shift = torch.zeros_like(x)
        for block in self.blocks:
            x = block(x, shift)
            shift += 1
        return x


class Beside(Stack):
    """Gives all blocks the same."""

    def forward(self, x: Tensor) -> Tensor:
        return sum(block(x, x) for block in self.blocks)  # type: ignore[return-value]


class Handing(Stack):
    """Gives each block a list that it could change."""

    def forward(self, x: Tensor) -> Tensor:
        shared: list[Tensor] = []
        for block in self.blocks:
            x = block(x, shared)
        return x


def blocks(kind: type[Block] = Block, count: int = 4) -> list[Block]:
    return [kind(index) for index in range(count)]


def with_one(change: Callable[[Block], Any]) -> Stack:
    """A stack of six blocks, one of which is changed."""
    found = blocks(count=6)
    change(found[3])
    return Stack(*found)


def shared(module: Stack) -> Stack:
    for block in module.blocks:
        block.linear.bias = module.blocks[0].linear.bias  # type: ignore[union-attr]
    return module


def runs(module: nn.Module, x: Tensor = X) -> int:
    """How many blocks were run to capture a module, whose graph computes what the module does."""
    Block.runs = 0
    graph = capture.trace(module, (x,), {})
    found = Block.runs
    with torch.no_grad():
        assert torch.allclose(graph(x.clone()), module.eval()(x.clone()), atol=1e-6)
    return found


def singly(module: nn.Module, kwargs: dict[str, Any], dynamic: bool, monkeypatch: pytest.MonkeyPatch) -> fx.GraphModule:
    """The graph of a module of which each block was captured."""
    with monkeypatch.context() as patch:
        patch.setattr(capture, "find_repeats", lambda module: Repeats([]))
        return capture.trace(module, (), kwargs, dynamic=dynamic)


def described(graph: fx.GraphModule) -> list[Any]:
    """The calls of a graph with where they stand, its attributes by their names."""
    numbers: dict[Any, int] = {
        node: number for number, node in enumerate(n for n in graph.graph.nodes if n.op != "get_attr")
    }
    rows = []
    for node in numbers:
        operands = fx.map_arg((node.args, node.kwargs), lambda used: str(numbers.get(used, used.target)))
        place = node.meta.get("nn_module_stack", {})
        shape = getattr(node.meta.get("val"), "shape", None)
        rows.append((node.target, str(operands), list(place.items()), node.meta.get("stack_trace"), str(shape)))
    return rows


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("peft", [False, True])
def test_the_graph_is_that_of_blocks_captured_singly(
    peft: bool, dynamic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama(num_hidden_layers=4, peft=peft)
    found = capture.trace(model, (), {"input_ids": tokens()}, dynamic=dynamic)
    expected = singly(model, {"input_ids": tokens()}, dynamic, monkeypatch)
    assert described(found)[1:] == described(expected)[1:]


def test_modules_in_blocks_have_their_whole_paths_where_one_is_called_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    activation = nn.ReLU()

    class Acting(Block):
        def forward(self, x: Tensor, *_: Any) -> Any:
            return activation(self.linear(x))

    class Owning(Stack):
        def __init__(self) -> None:
            super().__init__(*(Acting(index, activation=activation) for index in range(4)))
            for block in self.blocks:
                block.activation = activation

        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)

    inputs = {"input": X}
    found, expected = capture.trace(Owning(), (), inputs), singly(Owning(), inputs, False, monkeypatch)
    paths, whole = ([list(row[2])[-1][1][0] for row in described(each) if row[2]] for each in (found, expected))
    assert paths[0::2] == whole[0::2] == [f"blocks.{index}.linear" for index in range(4)]


@pytest.mark.parametrize(
    "module",
    [
        Stack(*blocks()),
        nn.Sequential(*blocks()),
        Residual(*blocks()),
        shared(Stack(*blocks())),
        Stack(*blocks(count=6)),
        Stack(*(nn.Sequential(Block(0)) for _ in range(5))),
        Stack(*blocks(WritingInside)),
        Stack(*blocks(Unrounded)),
        Beside(*blocks(Shifted)),
    ],
    ids=["list", "sequence", "residual", "shared", "longer", "blocks of blocks", "in place", "mode", "beside"],
)
def test_of_blocks_that_are_alike_two_are_run(module: nn.Module) -> None:
    assert runs(module) == 2


@pytest.mark.parametrize(
    "module",
    [
        Stack(*blocks(Scaled)),
        Stack(*blocks(Fourth)),
        Stack(*blocks(Listed)),
        Stack(*(Named(index) for index in range(8, 12))),
        Residual(*blocks(Writing)),
        Noting(*blocks(Taking)),
        Collecting(*blocks(Leaving)),
        Stack(*blocks(InTurn)),
        Asking(*blocks(Keeping)),
        Shifting(*blocks(Shifted)),
        Counting(*blocks()),
        Handing(*blocks()),
        Stack(*(Block(index, slope=index % 2 + 0.5) for index in range(4))),
        Stack(*(Block(index, flag=index > 1) for index in range(4))),
        Stack(*(Block(index, shift=torch.zeros(1)) for index in range(4))),
    ],
    ids=[
        *("position", "fourth", "position in a list", "path", "in place", "from outside", "to outside"),
        *("in turn", "last one kept", "written between"),
        *("number given", "list given", "attribute", "flag", "tensor"),
    ],
)
def test_blocks_that_are_not_alike_are_captured_singly(module: nn.Module) -> None:
    assert runs(module) >= 4


@pytest.mark.parametrize(
    "change",
    [
        lambda block: block.linear.register_parameter("bias", None),
        lambda block: block.linear.register_forward_hook(lambda module, args, output: output * 2),
        lambda block: setattr(block, "linear", nn.Sequential(nn.Linear(4, 4), nn.Tanh())),
        lambda block: block.linear.double().float().requires_grad_(False),
        lambda block: setattr(block, "forward", lambda x: x * 3),
    ],
    ids=["no bias", "hook", "other module", "frozen", "other forward"],
)
def test_a_block_that_is_another_is_captured_itself(change: Callable[[Block], Any]) -> None:
    module = with_one(change)
    assert runs(module) <= 3
    assert [len(family) for family in find_repeats(module).families] == [5]


def test_blocks_with_hooks_are_captured_singly() -> None:
    module = Stack(*blocks())
    for block in module.blocks:
        block.register_forward_hook(lambda module, args, output: output * 2)
    assert find_repeats(module).families == []
    assert runs(module) == 4


class Weighing(Stack):
    """Looks at what its blocks hold."""

    def __init__(self, weigh: Callable[[Any], Tensor], *found: Block) -> None:
        super().__init__(*found)
        self.weigh = weigh

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.weigh(self)


@pytest.mark.parametrize(
    ("weigh", "captures"),
    [
        (lambda stack: sum(block.linear.weight.sum() for block in stack.blocks), 2),
        (lambda stack: sum(each.square().sum() for each in stack.parameters()), 2),
        (lambda stack: sum(each.square().sum() for each in stack.blocks[1].parameters()), 2),
        (lambda stack: torch.ones(1) * len(list(stack.modules())), 2),
        (lambda stack: torch.ones(1) * sum(hasattr(block, "linear") for block in stack.blocks), 2),
        (lambda stack: torch.ones(1) * sum(len(block._modules) for block in stack.blocks), 2),
        (lambda stack: stack.blocks[2](torch.cat([X, X])).sum(), 2),
        (lambda stack: stack.blocks[0].linear.weight.sum() + next(stack.parameters()).sum(), 1),
    ],
    ids=["child", "all", "parameters", "modules", "asked", "counted", "called with another shape", "first"],
)
def test_what_is_hidden_is_shown_where_it_is_asked_for(
    weigh: Callable[[Any], Tensor], captures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    export = capture._export
    monkeypatch.setattr(capture, "_export", lambda *args: calls.append(1) or export(*args))
    module = Weighing(weigh, *blocks())
    assert len(find_repeats(module).hidden) == 2
    runs(module)
    assert len(calls) == captures
    assert all(len(list(block.parameters())) == 2 for block in module.blocks)


def test_hooks_that_a_forward_begins_to_set_are_set_once() -> None:
    """As transformers models do that hand out hidden states: a capture that stopped half way leaves none of them."""

    class Hooking(Stack):
        found: list[Tensor] | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.found is None:
                self.found = []
                for block in self.blocks:
                    block.register_forward_hook(lambda module, args, output: self.found.append(output))  # type: ignore
                    assert len(list(block.children())) == 1
            self.found.clear()
            return super().forward(x) + sum(self.found)

    runs(Hooking(*blocks()))


def test_blocks_that_hold_little_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeat_blocks, "FEWEST_HIDDEN", 5)
    assert find_repeats(Stack(*blocks())).hidden == []


def test_a_graph_has_all_tensors_of_blocks_that_were_hidden() -> None:
    module = Stack(*blocks(count=5))
    for block in module.blocks:
        block.register_buffer("unused", torch.zeros(3), persistent=False)
    graph = capture.trace(module, (X,), {})
    assert {name: id(each) for name, each in graph.named_parameters()} == {
        name: id(each) for name, each in module.named_parameters()
    }


def test_blocks_that_are_called_twice() -> None:
    assert runs(Stack(*blocks() * 2)) == 3  # the last of them both times


def test_a_block_that_is_called_with_another_shape_is_captured_again() -> None:
    class Widening(Stack):
        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return self.blocks[0](torch.cat([x, x]))  # type: ignore[no-any-return]

    assert runs(Widening(*blocks())) == 3


def test_calls_stand_where_they_would_stand() -> None:
    graph = capture.trace(Stack(*blocks()), (X,), {})
    calls = [location(node) for node in graph.graph.nodes if node.target is torch.ops.aten.linear.default]
    assert [call.split(" ")[0] for call in calls] == [f"blocks.{index}.linear" for index in range(4)]


def test_the_module_stays_as_it_was_whether_it_was_captured_or_not() -> None:
    for kind in (Block, Scaled):
        module = Stack(*blocks(kind))
        before = [dict(vars(block)) for block in module.blocks]
        capture.trace(module, (X,), {})
        assert [dict(vars(block)) for block in module.blocks] == before
        assert [block.index for block in module.blocks] == [0, 1, 2, 3]


def test_a_layer_of_a_model_that_scales_by_its_position() -> None:
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=12, n_layer=4, n_head=2, n_positions=16, scale_attn_by_inverse_layer_idx=True
    )
    model, ids = GPT2LMHeadModel(config).eval(), tokens(1, 5)
    graph = capture.trace(model, (), {"input_ids": ids})
    with torch.no_grad():
        assert torch.allclose(graph(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)
