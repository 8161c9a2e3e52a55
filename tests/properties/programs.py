"""Random small models: programs of blocks, each of which reads earlier values and makes a new one.

A value is ``[2, 5, channels]``. A block is a function of values; what it draws at random (parameters, sizes, choices)
it draws from its :class:`Source` when it is first run, and gets again, in the same order, whenever it runs later. A
program that fails is made smaller by leaving out steps, and printed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH, TOKENS, INPUTS, OUTPUTS, VOCABULARY = 2, 5, 4, 3, 11
MOST_CHANNELS = 24

T = TypeVar("T")
Block = Callable[..., Tensor]


@dataclass(frozen=True)
class Step:
    """One call of a block: its name, the values that it reads (0 is the input), and the seed of what it draws."""

    block: str
    reads: tuple[int, ...]
    seed: int


Program = tuple[Step, ...]


class Source(nn.Module):
    """What one step draws at random, once; owned by the model, so that its parameters are found."""

    def __init__(self, seed: int, shared: Shared):
        super().__init__()
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.__dict__["shared"] = shared  # owned by the model
        self.drawn: list[Any] = []
        self.at = 0

    def again(self) -> Source:
        self.at = 0
        return self

    def _once(self, make: Callable[[], T]) -> T:
        if self.at == len(self.drawn):
            self.drawn.append(make())
        self.at += 1
        return self.drawn[self.at - 1]  # type: ignore[no-any-return]

    def pick(self, *options: T) -> T:
        return self._once(lambda: self.random.choice(options))

    def size(self) -> int:
        return self.pick(2, 3, 4, 6, 8)

    def part(self, size: int) -> int:
        """A divisor."""
        return self.pick(*(each for each in range(1, size + 1) if size % each == 0))

    def _values(self, shape: Sequence[int], scale: float = 0.6) -> Tensor:
        return scale * torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def param(self, *shape: int) -> Tensor:
        """A parameter, which may be one that other steps use, too."""

        def make() -> str:
            if self.random.random() < 0.15:
                return self.shared.name(shape, self._values(shape))
            name = f"p{len(self.drawn)}"
            self.register_parameter(name, nn.Parameter(self._values(shape)))
            return name

        name = self._once(make)
        found = getattr(self.shared if name.startswith("shared") else self, name)
        assert isinstance(found, Tensor)
        return found

    def common(self, *shape: int) -> Tensor:
        """A parameter that every step with such a one has in common."""
        name = self._once(lambda: self.shared.name(shape, self._values(shape)))
        found = getattr(self.shared, name)
        assert isinstance(found, Tensor)
        return found

    def buffer(self, *shape: int) -> Tensor:
        def make() -> str:
            name = f"b{len(self.drawn)}"
            self.register_buffer(name, self._values(shape).abs() + 0.5)
            return name

        return getattr(self, self._once(make))  # type: ignore[no-any-return]

    def order(self, size: int, count: int | None = None) -> Tensor:
        """Random positions."""

        def make() -> str:
            name = f"b{len(self.drawn)}"
            self.register_buffer(name, torch.randperm(size, generator=self.generator)[:count])
            return name

        return getattr(self, self._once(make))  # type: ignore[no-any-return]

    def module(self, make: Callable[[], nn.Module]) -> Any:
        def build() -> str:
            name = f"m{len(self.drawn)}"
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.random.randrange(1 << 30))
                module = make().double().eval()
                for tensor in [*module.parameters(), *module.buffers()]:
                    if tensor.is_floating_point():
                        tensor.data = self._values(tensor.shape, 0.3) + (0.8 if tensor.ndim < 2 else 0.0)
                        tensor.data = tensor.data.abs() + 0.1 if tensor.ndim < 2 else tensor.data
            self.add_module(name, module)
            return name

        return getattr(self, self._once(build))

    def dense(self, x: Tensor, outputs: int) -> Tensor:
        """A linear layer, with a bias or not."""
        bias = self.param(outputs) if self.pick(True, False) else None
        return F.linear(x, self.param(outputs, x.shape[-1]), bias)

    def act(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.pick(*ACTIVATIONS)](x)

    def like(self, x: Tensor, y: Tensor) -> Tensor:
        """``y`` with the channels of ``x``."""
        return y if y.shape[-1] == x.shape[-1] else self.dense(y, x.shape[-1])


class Shared(nn.Module):
    """Parameters that several steps use."""

    def name(self, shape: Sequence[int], values: Tensor) -> str:
        name = "shared_" + "_".join(map(str, shape))
        if not hasattr(self, name):
            self.register_parameter(name, nn.Parameter(values))
        return name


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "square": lambda x: x * x * 0.5,
    "abs": torch.abs,
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "sigmoid": torch.sigmoid,
    "exp": lambda x: torch.exp(x.clamp(-3, 1)),
    "cos": torch.cos,
    "softplus": F.softplus,
    "shift": lambda x: x + 0.5,
    "scale": lambda x: 1.5 * x,
    "clamp": lambda x: x.clamp(-1.0, 0.5),
    "rsub": lambda x: 1 - x,
    "same": lambda x: x,
}
BLOCKS: dict[str, Block] = {}


def block(function: Block) -> Block:
    BLOCKS[function.__name__] = function
    return function


# --- layers and weights -----------------------------------------------------------------------------------------------


@block
def linear(p: Source, x: Tensor) -> Tensor:
    return p.act(p.dense(x, p.size()))


@block
def mlp(p: Source, x: Tensor) -> Tensor:
    return x + p.dense(p.act(p.dense(x, p.size())), x.shape[-1])


@block
def gated(p: Source, x: Tensor) -> Tensor:
    hidden = p.size()
    up = p.act(p.dense(x, hidden)) * p.dense(x, hidden)
    return p.dense(up, p.pick(x.shape[-1], p.size()))


@block
def fused_gate(p: Source, x: Tensor) -> Tensor:
    up, gate = p.dense(x, 2 * p.size()).chunk(2, dim=-1)
    return p.dense(up * p.act(gate), p.size())


@block
def direct(p: Source, x: Tensor) -> Tensor:
    out = p.size()
    how = p.pick("mT", "einsum", "matmul", "tensordot", "addmm", "einsum heads")
    if how == "mT":
        return x @ p.param(out, x.shape[-1]).T
    if how == "einsum":
        return torch.einsum("btc,oc->bto", x, p.param(out, x.shape[-1]))
    if how == "matmul":
        return torch.matmul(x, p.param(x.shape[-1], out))
    if how == "tensordot":
        return torch.tensordot(x, p.param(out, x.shape[-1]), dims=([2], [1]))
    if how == "addmm":
        flat = torch.addmm(p.param(out), x.reshape(-1, x.shape[-1]), p.param(x.shape[-1], out))
        return flat.view(BATCH, TOKENS, out)
    heads = p.pick(1, 2, 3)
    return torch.einsum("btc,hdc->bthd", x, p.param(heads, out, x.shape[-1])).flatten(2)


@block
def tied(p: Source, x: Tensor) -> Tensor:
    """Up and down with one weight."""
    weight = p.param(p.size(), x.shape[-1])
    return p.act(x @ weight.T) @ weight


@block
def module_twice(p: Source, x: Tensor) -> Tensor:
    layer = p.module(lambda: nn.Linear(x.shape[-1], x.shape[-1]))
    return layer(p.act(layer(x)))  # type: ignore[no-any-return]


@block
def weight_norm(p: Source, x: Tensor) -> Tensor:
    out = p.size()
    v = p.param(out, x.shape[-1])
    return x @ (p.param(out, 1) * v / (v.norm(dim=p.pick(0, 1), keepdim=True) + 0.1)).T


@block
def low_rank(p: Source, x: Tensor) -> Tensor:
    out, rank = p.size(), p.pick(2, 3)
    a, b = p.param(rank, x.shape[-1]), p.param(out, rank)
    return F.linear(x, p.param(out, x.shape[-1])) + 0.5 * F.linear(F.linear(x, a), b)


@block
def experts(p: Source, x: Tensor) -> Tensor:
    count, hidden = p.pick(2, 3), p.size()
    route = torch.softmax(x @ p.param(x.shape[-1], count), dim=-1)
    up = p.act(torch.einsum("btc,ech->bteh", x, p.param(count, x.shape[-1], hidden)))
    down = torch.einsum("bteh,eho->bteo", up, p.param(count, hidden, x.shape[-1]))
    return (route.unsqueeze(-1) * down).sum(2)


@block
def batched_experts(p: Source, x: Tensor) -> Tensor:
    count, hidden = p.pick(2, 3), p.size()
    flat = x.reshape(1, -1, x.shape[-1]).expand(count, -1, -1)
    up = p.act(torch.bmm(flat, p.param(count, x.shape[-1], hidden)))
    return torch.bmm(up, p.param(count, hidden, x.shape[-1])).mean(0).reshape(x.shape)


@block
def mixer(p: Source, x: Tensor) -> Tensor:
    """A linear layer over the tokens."""
    hidden = p.size()
    return x + p.dense(p.act(p.dense(x.transpose(1, 2), hidden)), TOKENS).transpose(1, 2)


# --- several values ---------------------------------------------------------------------------------------------------


@block
def add(p: Source, x: Tensor, y: Tensor) -> Tensor:
    return p.act(x + p.like(x, y)) if p.pick(True, False) else torch.sub(x, p.like(x, y), alpha=2)


@block
def multiply(p: Source, x: Tensor, y: Tensor) -> Tensor:
    return x * p.act(p.like(x, y))


@block
def concat(p: Source, x: Tensor, y: Tensor) -> Tensor:
    parts = [x, y] if p.pick(True, False) else [y, x, y[..., :1]]
    return torch.cat(parts, dim=-1)


@block
def stack(p: Source, x: Tensor, y: Tensor) -> Tensor:
    dim = p.pick(0, 1, 2, 3, -1)
    both = torch.stack([x, p.act(p.like(x, y))], dim)
    how = p.pick("sum", "select", "mean", "flatten", "unbind")
    if how == "sum":
        return both.sum(dim)
    if how == "mean":
        return both.mean(dim)
    if how == "select":
        return both.select(dim, 1)
    if how == "unbind":
        first, second = both.unbind(dim)
        return first - second
    return (both if dim in (2, 3, -1) else both.movedim(dim, p.pick(2, 3))).flatten(2)


@block
def outer(p: Source, x: Tensor, y: Tensor) -> Tensor:
    x, y = p.dense(x, p.pick(2, 3)), p.dense(y, p.pick(2, 3, 4))
    return (x.unsqueeze(-1) * y.unsqueeze(-2)).flatten(2)


@block
def bilinear(p: Source, x: Tensor, y: Tensor) -> Tensor:
    scores = x @ p.like(x, y).transpose(1, 2)
    return torch.softmax(scores, dim=-1) @ (x if p.pick(True, False) else y)


@block
def where(p: Source, x: Tensor, y: Tensor) -> Tensor:
    mask = torch.arange(TOKENS).reshape(1, -1, 1) < 3
    return torch.where(mask, x, p.like(x, y)) if p.pick(True, False) else x.masked_fill(mask, p.pick(0.0, 1.0))


# --- positions of channels --------------------------------------------------------------------------------------------


@block
def split(p: Source, x: Tensor) -> Tensor:
    size = x.shape[-1]
    if size < 2:
        return x
    how = p.pick("halves", "uneven", "slice", "step", "swap", "narrow")
    at = p.pick(*range(1, size))
    if how == "halves" and size % 2 == 0:
        first, second = x.chunk(2, dim=-1)
        return first + p.act(second)
    if how == "uneven":
        first, second = x.split([at, size - at], dim=-1)
        return torch.cat([p.act(second), first], dim=-1)
    if how == "slice":
        return p.act(x)[..., at:]
    if how == "step":
        return x[..., p.pick(0, 1) :: 2]
    if how == "narrow":
        return x.narrow(-1, 0, at)
    return torch.cat([-x[..., at:], x[..., :at]], dim=-1)


@block
def shuffle(p: Source, x: Tensor) -> Tensor:
    groups = p.part(x.shape[-1])
    grid = x.view(BATCH, TOKENS, groups, -1)
    if p.pick(True, False):
        grid = p.act(grid)
    if p.pick(True, False):
        grid = grid + p.param(groups, 1)
    return grid.transpose(2, 3).reshape(x.shape)


@block
def moved(p: Source, x: Tensor) -> Tensor:
    how = p.pick("roll", "flip", "roll tokens", "flip tokens", "permute", "gather", "index", "index some")
    if how == "roll":
        return torch.roll(x, p.pick(1, -2), dims=-1)
    if how == "flip":
        return x.flip(-1)
    if how == "roll tokens":
        return torch.roll(x, 2, dims=1)
    if how == "flip tokens":
        return x.flip(1)
    if how == "permute":
        return x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    if how == "gather":
        return torch.gather(x, -1, p.order(x.shape[-1]).expand(x.shape))
    if how == "index":
        return x[..., p.order(x.shape[-1])]
    return x.index_select(-1, p.order(x.shape[-1], 2))


@block
def repeated(p: Source, x: Tensor) -> Tensor:
    how = p.pick("interleave", "tile", "expand", "pad")
    if how == "interleave":
        return x.repeat_interleave(2, dim=-1)
    if how == "tile":
        return x.repeat(1, 1, 2)
    if how == "expand":
        return x.unsqueeze(2).expand(-1, -1, 2, -1).reshape(BATCH, TOKENS, -1)
    return F.pad(x, (1, 2), value=p.pick(0.0, 0.5))


@block
def reduced(p: Source, x: Tensor) -> Tensor:
    """A number for each token, from all channels, scales them."""
    how = p.pick("mean", "sum", "amax", "var", "norm", "logsumexp", "prod")
    if how == "mean":
        scale = x.mean(-1, keepdim=True)
    elif how == "sum":
        scale = x.sum(-1, keepdim=True)
    elif how == "amax":
        scale = x.amax(-1, keepdim=True)
    elif how == "var":
        scale = x.var(-1, keepdim=True, unbiased=False)
    elif how == "norm":
        scale = x.norm(dim=-1, keepdim=True)
    elif how == "prod":
        scale = x.tanh().prod(-1, keepdim=True)
    else:
        scale = x.logsumexp(-1, keepdim=True)
    return x * torch.tanh(scale)


@block
def squeezed(p: Source, x: Tensor) -> Tensor:
    """Squeeze and excitation: means over tokens scale the channels."""
    hidden = p.act(p.dense(x.mean(1), p.size()))
    return x * torch.sigmoid(p.dense(hidden, x.shape[-1])).unsqueeze(1)


@block
def distribution(p: Source, x: Tensor) -> Tensor:
    dim = p.pick(1, -1)
    how = p.pick("softmax", "log_softmax", "cumsum", "sort", "normalize")
    if how == "softmax":
        return torch.softmax(x, dim)
    if how == "log_softmax":
        return torch.log_softmax(x, dim)
    if how == "cumsum":
        return torch.cumsum(x, dim)
    if how == "sort":
        return x.sort(dim).values
    return F.normalize(x, dim=dim)


# --- norms and scales -------------------------------------------------------------------------------------------------


@block
def norm(p: Source, x: Tensor) -> Tensor:
    size = x.shape[-1]
    how = p.pick("layer", "rms", "batch", "group", "instance", "by hand", "heads")
    if how == "layer":
        return p.module(lambda: nn.LayerNorm(size))(x)  # type: ignore[no-any-return]
    if how == "rms":
        return p.module(lambda: nn.RMSNorm(size, eps=1e-3))(x)  # type: ignore[no-any-return]
    if how == "batch":
        return p.module(lambda: nn.BatchNorm1d(size))(x.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]
    if how == "group":
        groups = p.part(size)
        return p.module(lambda: nn.GroupNorm(groups, size))(x.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]
    if how == "instance":
        return p.module(lambda: nn.InstanceNorm1d(size))(x.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]
    if how == "by hand":
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1) * p.param(size)
    heads = p.part(size)
    grid = x.view(BATCH, TOKENS, heads, -1)
    return p.module(lambda: nn.RMSNorm(grid.shape[-1], eps=1e-3))(grid).flatten(2)  # type: ignore[no-any-return]


@block
def scaled(p: Source, x: Tensor) -> Tensor:
    how = p.pick("scale", "shift", "buffer", "shift buffer", "one", "tokens", "both")
    size = x.shape[-1]
    if how == "scale":
        return x * p.param(size)
    if how == "shift":
        return x + p.param(size)
    if how == "buffer":
        return x / p.buffer(size)
    if how == "shift buffer":
        return x + p.buffer(size)
    if how == "one":
        return x * p.param(1)
    if how == "tokens":
        return x + p.param(TOKENS, 1)
    return x + p.param(1, TOKENS, size)


# --- attention and recurrence -----------------------------------------------------------------------------------------


@block
def attention(p: Source, x: Tensor) -> Tensor:
    """Heads in any arrangement; one query head for each key head, several, or all for one."""
    kv, repeat, dim, value = p.pick(1, 2, 3), p.pick(1, 2, 3), p.pick(2, 4), p.pick(2, 3, 4)
    heads = kv * repeat
    fused = p.pick(True, False)
    if fused:
        sizes = [heads * dim, kv * dim, kv * value]
        q, k, v = p.dense(x, sum(sizes)).split(sizes, dim=-1)
    else:
        q, k, v = p.dense(x, heads * dim), p.dense(x, kv * dim), p.dense(x, kv * value)
    q = q.view(BATCH, TOKENS, heads, dim).transpose(1, 2)
    k = k.view(BATCH, TOKENS, kv, dim).transpose(1, 2)
    v = v.view(BATCH, TOKENS, kv, value).transpose(1, 2)
    if p.pick(True, False, False):
        q, k = _rotary(q, p), _rotary(k, p)
    if p.pick(True, False, False, False):
        make = p.module(lambda: nn.RMSNorm(dim, eps=1e-2))
        q, k = make(q), make(k)
    how = p.pick("gqa", "manual", "grouped", "bias", "common bias", "causal")
    if how == "gqa" and value == dim:
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    elif how == "grouped":
        groups = q.reshape(BATCH, kv, repeat, TOKENS, dim)
        weights = torch.softmax(torch.einsum("bgrtd,bgsd->bgrts", groups, k) * dim**-0.5, -1)
        out = torch.einsum("bgrts,bgsd->bgrtd", weights, v).reshape(BATCH, heads, TOKENS, value)
    else:
        k, v = (each.repeat_interleave(repeat, dim=1) if repeat > 1 else each for each in (k, v))
        if how == "manual":
            out = torch.softmax(q @ k.transpose(-2, -1) * 0.5, dim=-1) @ v
        else:
            bias = p.common(heads, TOKENS, TOKENS) if how == "common bias" else p.param(heads, TOKENS, TOKENS)
            masked = {"is_causal": True} if how == "causal" else {"attn_mask": bias}
            out = F.scaled_dot_product_attention(q, k, v, **masked)  # type: ignore[arg-type]
    return x + p.dense(out.transpose(1, 2).reshape(BATCH, TOKENS, heads * value), x.shape[-1])


def _rotary(x: Tensor, p: Source) -> Tensor:
    half = x.shape[-1] // 2
    angles = torch.arange(TOKENS, dtype=x.dtype).unsqueeze(-1) * torch.tensor([1.0, 0.3][:half], dtype=x.dtype)
    angles = torch.cat([angles, angles], dim=-1)
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * angles.cos() + turned * angles.sin()


@block
def interleaved_attention(p: Source, x: Tensor) -> Tensor:
    """Queries, keys and values of a head side by side, as GPT-NeoX has them."""
    heads, dim = p.pick(1, 2, 3), p.pick(2, 3, 4)
    qkv = p.dense(x, heads * 3 * dim).view(BATCH, TOKENS, heads, 3 * dim).transpose(1, 2)
    if p.pick(True, False):
        q, k, v = qkv.chunk(3, dim=-1)
    else:
        q, k, v = qkv.unflatten(-1, (3, dim)).unbind(-2)
    out = F.scaled_dot_product_attention(q, k, v)
    return x + p.dense(out.transpose(1, 2).flatten(2), x.shape[-1])


@block
def module_attention(p: Source, x: Tensor) -> Tensor:
    heads = p.part(x.shape[-1])
    make = p.module(lambda: nn.MultiheadAttention(x.shape[-1], heads, batch_first=True))
    return x + make(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]


@block
def recurrent(p: Source, x: Tensor) -> Tensor:
    cell, hidden = p.pick(nn.LSTM, nn.GRU, nn.RNN), p.pick(2, 3, 4)
    options: dict[str, Any] = {"bidirectional": p.pick(True, False), "num_layers": p.pick(1, 1, 2)}
    return p.module(lambda: cell(x.shape[-1], hidden, batch_first=True, **options))(x)[0]  # type: ignore[no-any-return]


@block
def embedded(p: Source, x: Tensor) -> Tensor:
    """Learned positions, or an embedding of what is largest."""
    if p.pick(True, False):
        return x + F.embedding(torch.arange(TOKENS), p.param(VOCABULARY, x.shape[-1]))
    ids = (torch.arange(BATCH * TOKENS).reshape(BATCH, TOKENS) * 3) % VOCABULARY
    table = p.param(VOCABULARY, p.size())
    return x @ p.param(x.shape[-1], table.shape[-1]) + F.embedding(ids, table)


@block
def tied_embedding(p: Source, x: Tensor) -> Tensor:
    ids = (torch.arange(BATCH * TOKENS).reshape(BATCH, TOKENS) * 7) % VOCABULARY
    table = p.param(VOCABULARY, x.shape[-1])
    logits = (x + F.embedding(ids, table)) @ table.T
    return torch.softmax(logits, dim=-1) @ table


# --- convolutions -----------------------------------------------------------------------------------------------------


@block
def convolution(p: Source, x: Tensor) -> Tensor:
    size, out = x.shape[-1], p.size()
    image = x.transpose(1, 2)
    how = p.pick(
        "plain", "depthwise", "grouped", "transposed", "dilated", "two dims", "separable", "grouped transposed"
    )
    if how == "plain":
        result = p.act(F.conv1d(image, p.param(out, size, 3), p.param(out), padding=1))
    elif how == "depthwise":
        result = F.conv1d(image, p.param(size, 1, 3), padding=1, groups=size)
    elif how == "separable":
        wide = F.conv1d(image, p.param(out, size, 1), p.param(out))
        wide = p.act(F.conv1d(wide, p.param(out, 1, 3), p.param(out), padding=1, groups=out))
        result = F.conv1d(wide, p.param(size, out, 1)) + image
    elif how == "grouped":
        groups = p.part(size)
        result = F.conv1d(image, p.param(2 * groups, size // groups, 3), padding=1, groups=groups)
    elif how == "transposed":
        result = F.conv_transpose1d(image, p.param(size, out, 3), p.param(out), padding=1)
    elif how == "grouped transposed":
        groups = p.part(size)
        result = F.conv_transpose1d(image, p.param(size, 2, 3), padding=1, groups=groups)
    elif how == "dilated":
        result = F.conv1d(image, p.param(out, size, 3), padding=2, dilation=2)
    else:
        result = p.act(F.conv2d(image.unsqueeze(-1), p.param(out, size, 3, 1), padding=(1, 0))).squeeze(-1)
    return result.transpose(1, 2)


@block
def pooled(p: Source, x: Tensor) -> Tensor:
    image = x.transpose(1, 2)
    how = p.pick("max", "mean", "adaptive", "nearest")
    if how == "max":
        return F.max_pool1d(image, 3, stride=1, padding=1).transpose(1, 2)
    if how == "mean":
        return F.avg_pool1d(image, 3, stride=1, padding=1).transpose(1, 2)
    if how == "adaptive":
        return x * F.adaptive_avg_pool1d(image, 1).transpose(1, 2)
    return F.interpolate(image, scale_factor=2, mode="nearest")[..., ::2].transpose(1, 2)


# --- programs ---------------------------------------------------------------------------------------------------------


def program(seed: int) -> Program:
    """A random program of three to eight steps; half of the steps read the value that is made last."""
    chosen = random.Random(seed)
    names = list(BLOCKS)
    steps: list[Step] = []
    for at in range(chosen.randint(3, 8)):
        name = chosen.choice(names)
        count = BLOCKS[name].__code__.co_argcount - 1
        reads = tuple(at if chosen.random() < 0.6 else chosen.randint(0, at) for _ in range(count))
        steps.append(Step(name, reads, chosen.randrange(1 << 30)))
    return tuple(steps)


class Model(nn.Module):
    """A program as a module. Every value that no step reads goes to the output."""

    def __init__(self, steps: Program, seed: int = 0):
        super().__init__()
        self.steps = steps
        self.shared = Shared()
        self.sources = nn.ModuleList(Source(step.seed, self.shared) for step in steps)
        self.enter = nn.Linear(INPUTS, 6).double()
        self.first = torch.randn(
            BATCH, TOKENS, INPUTS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        read = {index for step in steps for index in step.reads}
        self.ends = [index for index in range(len(steps) + 1) if index not in read]
        with torch.no_grad():
            values = self.values(self.first)
            self.heads = nn.ModuleList(nn.Linear(values[end].shape[-1], OUTPUTS).double() for end in self.ends)

    def values(self, x: Tensor) -> list[Tensor]:
        values: list[Tensor] = [self.enter(x)]
        for step, source in zip(self.steps, self.sources, strict=True):
            assert isinstance(source, Source)
            value = BLOCKS[step.block](source.again(), *(values[index] for index in step.reads))
            if value.shape[-1] > MOST_CHANNELS:
                value = value[..., :MOST_CHANNELS]
            values.append(value)
        return values

    def forward(self, x: Tensor) -> Tensor:
        values = self.values(x)
        outputs = [head(values[end]) for head, end in zip(self.heads, self.ends, strict=True)]
        return torch.stack(outputs).sum(0)


def model(steps: Program, seed: int = 0) -> Model:
    """A program as a module in eval mode; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(steps, seed).eval()


def describe(steps: Program) -> str:
    """A program as text, each step with what it drew."""
    built = model(steps)
    lines = []
    for index, (step, source) in enumerate(zip(steps, built.sources, strict=True), 1):
        assert isinstance(source, Source)
        reads = ", ".join(f"v{read}" for read in step.reads)
        drawn = ", ".join(str(each) for each in source.drawn if not str(each).startswith(("p", "b", "m", "shared_")))
        lines.append(f"v{index} = {step.block}({reads})  # {drawn}; seed {step.seed}")
    return "\n".join(lines)


def without(steps: Program, index: int) -> Program:
    """The program without one step; what read its value reads what it read first."""
    gone, instead = index + 1, steps[index].reads[0]

    def renamed(read: int) -> int:
        read = instead if read == gone else read
        return read - 1 if read > gone else read

    return tuple(replace(step, reads=tuple(map(renamed, step.reads))) for at, step in enumerate(steps) if at != index)


def smallest(steps: Program, fails: Callable[[Program], bool]) -> Program:
    """A program that still fails, and no longer does without any one of its steps."""
    index = len(steps) - 1
    while index >= 0:
        shorter = without(steps, index)
        if shorter and fails(shorter):
            steps = shorter
        index = min(index, len(steps)) - 1
    return steps
