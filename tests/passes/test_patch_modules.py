"""The module form: numbers that modules keep in Python follow from the axes that they count."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from einops.layers.torch import Rearrange
from torch import nn

import graphprune as gp
from graphprune.plan import GroupPlan, PruningPlan
from tests.lockstep import random_plan
from tests.models import tiny, tiny_llama, tokens
from tests.zoo.language import LANGUAGE
from tests.zoo.study import half
from tests.zoo.vision import VISION

DRAWN = torch.Generator().manual_seed(0)
VECTORS, IMAGES = torch.randn(4, 3, generator=DRAWN), torch.randn(2, 3, 8, 8, generator=DRAWN)


def halved(module: nn.Module, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
    """The module form with half of every group, already verified."""
    traced = gp.trace(module, inputs, named)
    return gp.rewrite(traced, random_plan(traced, half=True, slots=False)).module


class OwnConv(nn.Conv2d):
    """A convolution of another library."""


class NormOfHeads(nn.LayerNorm):
    """Over the dims of each of four heads, with weights of their own."""

    def __init__(self) -> None:
        super().__init__((4, 6))
        self.normalized_shape = (6,)
        nn.init.normal_(self.weight)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        normal = nn.functional.layer_norm(input.unflatten(-1, (-1, 6)), self.normalized_shape)
        return (normal * self.weight).flatten(1)


LAYERS = [
    (nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)), VECTORS, {"0": {"out_features": 4}, "1": {"in_features": 4}}),
    (nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 2)), torch.tensor([[1, 2]]), {"0": {"embedding_dim": 4}}),
    (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)),
        IMAGES,
        {"0": {"out_channels": 4}, "1": {"num_features": 4}, "3": {"in_channels": 4}},
    ),
    (
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.GroupNorm(4, 8), nn.Conv2d(8, 2, 1)),
        IMAGES,
        {"1": {"groups": 4, "in_channels": 4, "out_channels": 4}, "2": {"num_groups": 2, "num_channels": 4}},
    ),
    (
        nn.Sequential(nn.ConvTranspose2d(3, 8, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(8, 2, 2)),
        IMAGES,
        {"0": {"out_channels": 4}, "2": {"in_channels": 4}},
    ),
    (
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 2, groups=4), nn.Conv2d(8, 2, 1)),
        IMAGES,
        {"1": {"groups": 2}},
    ),
    (
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.ChannelShuffle(4), nn.Conv2d(8, 8, 1, groups=4), nn.Conv2d(8, 2, 1)),
        IMAGES,
        {"1": {"groups": 1}, "2": {"groups": 1}},
    ),
    (  # as many channels stay as there are groups
        nn.Sequential(OwnConv(3, 8, 1), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 2, 1)),
        IMAGES,
        {"0": {"out_channels": 4}, "1": {"num_groups": 2, "num_channels": 4}},
    ),
    (
        nn.Sequential(nn.Linear(3, 32), nn.Unflatten(1, (8, 2, 2)), nn.Conv2d(8, 2, 1)),
        VECTORS,
        {"1": {"unflattened_size": (4, 2, 2)}, "2": {"in_channels": 4}},
    ),
    (
        nn.Sequential(
            nn.Linear(3, 32),
            Rearrange("b (h d) -> b h d", h=4),
            nn.Softmax(-1),
            Rearrange("b h d -> b (h d)"),
            nn.Linear(32, 2),
        ),
        VECTORS,
        {"1": {"axes_lengths": {"h": 2}}, "4": {"in_features": 16}},
    ),
    (
        nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 24), NormOfHeads(), nn.Linear(24, 2)),
        VECTORS,
        {"0": {"out_features": 4}, "2": {"normalized_shape": (6,)}},
    ),
]


@pytest.mark.parametrize(
    ("module", "x", "expected"),
    LAYERS,
    ids=[
        "linear",
        "embedding",
        "conv",
        "groups",
        "transposed",
        "both",
        "shuffled",
        "groups of another library",
        "unflattened",
        "einops",
        "norm of heads",
    ],
)
def test_layers_of_torch(module: nn.Module, x: torch.Tensor, expected: dict[str, dict[str, int]]) -> None:
    compact = halved(module.eval(), x)
    for path, numbers in expected.items():
        child = compact.get_submodule(path)
        assert {name: getattr(child, name) for name in numbers} == numbers
    assert isinstance(compact(x), torch.Tensor)


class Gated(nn.Module):
    """Keeps the number of its channels under a name of its own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        setattr(self, name, 16)
        self.up, self.down = nn.Linear(3, 32), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.up(x).split(getattr(self, self.name), -1)
        return self.down(value * gate.sigmoid())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "name",
    [
        *("hidden", "out_channels", "n_filters", "hidden_features", "planes", "units", "nhid", "ngf", "d_inner", "C"),
        *("_hidden_dim", "embed_dims_0", "dim1"),
    ],
)
def test_names_that_layers_have_for_their_channels(name: str) -> None:
    assert getattr(halved(Gated(name), VECTORS), name) == 8


def widened(x: torch.Tensor, planes: int) -> torch.Tensor:
    return torch.cat([x, x.new_zeros(len(x), planes - x.shape[1])], -1)


class Widened(nn.Module):
    """Holds a function with the number of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut = partial(widened, planes=24)
        self.up, self.wide, self.down = nn.Linear(3, 16), nn.Linear(16, 24), nn.Linear(24, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        return self.down((self.wide(x) + self.shortcut(x)).relu())  # type: ignore[no-any-return]


def test_numbers_that_functions_hold() -> None:
    compact: Any = halved(Widened(), VECTORS)
    assert compact.shortcut.keywords == {"planes": 12}
    assert compact.wide.out_features == 12


class Parts(nn.Module):
    """Splits its channels into parts of sizes that it keeps in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.splits, self.sizes = [6, 4, 4], {"heads": 3}
        self.up, self.down = nn.Linear(3, 14), nn.Linear(4, 2)
        self.table = nn.Parameter(torch.randn(3, 5))
        self.into, self.out, self.last = nn.Linear(3, 15), nn.Linear(15, 2), nn.Linear(10, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, third = self.up(x).split(self.splits, -1)
        heads = self.into(x).view(len(x), self.sizes["heads"], -1) * self.table
        joined = self.last(torch.cat([first.relu(), third.tanh()], -1))
        return self.down(second) + self.out(heads.flatten(1)) + joined  # type: ignore[no-any-return]


def test_sizes_of_the_parts_of_an_axis_are_in_their_order() -> None:
    traced = gp.trace(Parts(), VECTORS)
    compact = gp.rewrite(traced, gp.select(traced, gp.score(traced, "random"), ratio=0.5, of="prunable"))
    module: Any = compact.module
    assert compact.module_error is None
    assert module.splits != [6, 4, 4]
    assert sum(module.splits) == module.up.out_features
    assert module.sizes["heads"] == len(module.table)


def test_a_part_that_consists_of_other_parts_whatever_its_name() -> None:
    """A gate as wide as two parts together, of which one goes another way (MambaOut)."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.where = (12, 8, 4)
            self.up, self.inner, self.down = nn.Linear(3, 24), nn.Linear(4, 4), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate, straight, bent = self.up(x).split(self.where, -1)
            return self.down(gate.relu() * torch.cat([straight, self.inner(bent).tanh()], -1))  # type: ignore[no-any-return]

    traced = gp.trace(Gated(), VECTORS)
    compact = gp.rewrite(traced, gp.select(traced, gp.score(traced, "random"), ratio=0.5, of="prunable"))
    module: Any = compact.module
    assert compact.module_error is None
    assert sum(module.where) == module.up.out_features < 24
    assert module.where[0] == module.down.in_features
    assert module.where[2] == module.inner.in_features


def test_two_that_are_unpacked_are_no_heads() -> None:
    """Keys and values of two heads come from one layer, and the 2 of the unpacking is not the 2 of the heads."""

    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_kv_heads, self.num_heads = 2, 4
            self.q, self.kv, self.o = nn.Linear(3, 32), nn.Linear(3, 32), nn.Linear(32, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = self.q(x).view(2, -1, self.num_heads, 8).transpose(1, 2)
            k, v = self.kv(x).view(2, -1, 2, self.num_kv_heads, 8).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            return self.o(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    traced = gp.trace(Grouped(), torch.randn(2, 4, 3))
    compact = gp.prune(Grouped(), torch.randn(2, 4, 3), ratio=0.3, kinds=["heads"])
    assert compact.module_error is None
    assert compact.module.num_kv_heads == 1
    assert "heads" in {group.kind for group in traced.groups.prunable}


MADE = {
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 20)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 20)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 20)),
    "weight norm by a hook": lambda: nn.utils.weight_norm(nn.Linear(3, 20)),
}


@pytest.mark.parametrize("name", MADE)
def test_weights_that_are_computed(name: str) -> None:
    """The module form of what comes after them, found by trying, though no one ran them before."""
    compact = gp.prune(nn.Sequential(MADE[name](), nn.ReLU(), nn.Linear(20, 7)), VECTORS, ratio=0.1, form="module")
    assert compact.module_error is None
    assert compact.parameter_count < 20 * 3 + 20 + 20 * 7 + 7


def test_llama() -> None:
    compact = halved(tiny_llama(kv=2, rep=4), input_ids=tokens())
    attention = compact.model.layers[0].self_attn
    assert (attention.head_dim, attention.num_key_value_groups) == (4, 2)
    config = compact.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 4)
    assert (config.intermediate_size, config.hidden_size, config.vocab_size) == (40, 48, 97)


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5", "mixtral"])
def test_families_of_transformers(family: str) -> None:
    model, inputs = tiny(family)
    compact = halved(model, **inputs)
    assert sum(p.numel() for p in compact.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("family", "path"), [("gpt_bigcode", "transformer.h.0.attn"), ("levit", "stages.0.layers.0")])
def test_heads_whose_sizes_have_other_names(family: str, path: str) -> None:
    model, inputs = {**LANGUAGE, **VISION}[family]()
    traced = gp.trace(model, (), inputs)
    heads = [group for group in traced.groups.prunable if group.kind == "heads" and path in group.name]
    assert len(heads) == 1
    compact = gp.rewrite(traced, half(traced, heads))
    assert compact.module_error is None


def test_query_heads_that_repeat_the_only_kv_head() -> None:
    """The number of repeats is read where there is a mask only, which the model was not traced with."""
    model, inputs = LANGUAGE["gpt_bigcode"]()
    traced = gp.trace(model, (), inputs)
    compact = gp.rewrite(traced, half(traced, [group for group in traced.groups.prunable if group.kind == "heads"]))
    attention = compact.module.get_submodule("transformer.h.0.attn")
    assert attention.num_key_value_groups == attention.num_heads == 3
    padded = torch.ones_like(inputs["input_ids"])
    padded[0, :2] = 0
    with torch.no_grad():
        plain, masked = (compact.module.eval()(**inputs, attention_mask=mask).logits for mask in (None, padded))
    torch.testing.assert_close(plain[1:], masked[1:])


def test_dims_of_a_head_of_which_a_part_is_rotated() -> None:
    model, inputs = LANGUAGE["phi"]()
    attention = halved(model, **inputs).model.layers[0].self_attn
    assert (attention.head_dim, attention.rotary_ndims) == (4, 2)


def test_numbers_of_a_scan_over_states() -> None:
    """Mamba2 counts the heads in groups, the states of each, and with both the channels of its convolution."""
    model, inputs = LANGUAGE["mamba2"]()
    compact = halved(model, **inputs)
    mixer, before = compact.backbone.layers[0].mixer, model.get_submodule("backbone.layers.0.mixer")
    names = ("num_heads", "n_groups", "ssm_state_size", "head_dim", "intermediate_size", "conv_dim")
    assert [getattr(before, name) for name in names] == [6, 2, 8, 16, 96, 128]
    assert [getattr(mixer, name) for name in names] == [3, 1, 4, 16, 48, 56]


def test_numbers_of_heads_of_which_a_part_is_rotated() -> None:
    """DeepSeek names the dims of a head that are rotated, those that are not, their sum, and those of values."""
    model, inputs = LANGUAGE["deepseek_v3"]()
    compact = halved(model, **inputs)
    attention, before = (each.get_submodule("model.layers.0.self_attn") for each in (compact, model))
    names = ("qk_nope_head_dim", "qk_rope_head_dim", "qk_head_dim", "v_head_dim", "num_heads")
    assert [getattr(before, name) for name in names] == [8, 4, 12, 8, 6]
    assert [getattr(attention, name) for name in names] == [4, 2, 6, 4, 3]
    assert (compact.config.qk_nope_head_dim, compact.config.v_head_dim) == (4, 4)


def test_dims_of_heads_that_a_config_calls_d_head() -> None:
    model, inputs = LANGUAGE["funnel"]()
    traced = gp.trace(model, (), inputs)
    dims = [group for group in traced.groups.prunable if group.kind == "head_dims"]
    compact = gp.rewrite(traced, half(traced, dims))
    assert compact.module_error is None
    assert (compact.module.config.d_head, compact.module.config.n_head) == (4, 6)


def test_dims_of_an_only_head_are_channels() -> None:
    """Between two stages this LeViT has one head, so that nothing in the graph tells its dims from channels."""
    model, inputs = VISION["levit"]()
    traced = gp.trace(model, (), inputs)
    path = "levit.encoder.stages.1.layers.8"
    assert model.get_submodule(path).num_attention_heads == 1
    dims = [group for group in traced.groups.prunable if group.name.startswith(path)]
    compact = gp.rewrite(traced, half(traced, dims))
    assert compact.module_error is None
    attention = compact.module.get_submodule(path)
    assert (attention.key_dim, attention.out_dim_keys_values, attention.out_dim_projection) == (8, 40, 32)


def test_as_many_states_as_positions_in_a_window() -> None:
    model, inputs = LANGUAGE["mamba"]()
    assert model.config.state_size == model.config.conv_kernel == 4
    compact = halved(model, **inputs)
    mixer = compact.backbone.layers[0].mixer
    assert (mixer.ssm_state_size, mixer.conv_kernel_size, compact.config.state_size) == (2, 4, 2)


def test_what_a_module_remembers_of_its_weights_is_forgotten() -> None:
    """LeViT looks its position biases up once in eval mode: neither the copy nor the original may keep those."""
    model, inputs = VISION["levit"]()
    model.eval()
    with torch.no_grad():
        before = model(**inputs).logits
        traced = gp.trace(model, (), inputs)
        heads = [group for group in traced.groups.prunable if group.kind == "heads"]
        compact: Any = gp.rewrite(traced, half(traced, heads))
        assert compact.module_error is None
        assert torch.equal(model(**inputs).logits, before)
        assert torch.allclose(compact.module(**inputs).logits, compact.graph(**inputs).logits, atol=1e-5)


def test_the_original_keeps_its_numbers() -> None:
    model: Any = tiny_llama()
    halved(model, input_ids=tokens())
    assert model.config.intermediate_size == 80
    assert model.model.layers[0].mlp.gate_proj.out_features == 80


def test_a_config_of_another_name() -> None:
    class Args:
        d_inner = 0

    class Mixer(nn.Module):
        def __init__(self, args: Args) -> None:
            super().__init__()
            self.args = args
            self.up, self.down = nn.Linear(3, 2 * args.d_inner), nn.Linear(args.d_inner, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.up(x).split([self.args.d_inner] * 2, -1)
            return self.down(a * b.sigmoid())  # type: ignore[no-any-return]

    args = Args()
    args.d_inner = 8
    compact = halved(Mixer(args), VECTORS)
    assert compact.args.d_inner == 4
    assert args.d_inner == 8


def test_as_many_channels_go_into_a_layer_as_come_out() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_channels, self.out_channels, self.weight = 16, 16, nn.Parameter(torch.randn(16, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.view(-1, self.in_channels) @ self.weight).view(-1, self.out_channels)

    traced = gp.trace(nn.Sequential(nn.Linear(3, 16), Own(), nn.Linear(16, 2)), VECTORS)
    first, second = traced.groups.prunable
    kept = {first.name: GroupPlan(16, tuple(range(12))), second.name: GroupPlan(16, tuple(range(4)))}
    plan = PruningPlan(traced.fingerprint, kept)
    compact = gp.rewrite(traced, plan).module
    assert (compact[1].in_channels, compact[1].out_channels) == (12, 4)
