"""What the code of models does beside computing: caches, hooks, closures, checks of types. It stays as it was."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.errors import CaptureError
from tests.lockstep import random_plan

X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    """Two layers, and in each model below something between them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.between(self.up(x)).relu())  # type: ignore[no-any-return]

    def between(self, x: Tensor) -> Tensor:
        return x


def halved(module: nn.Module, x: Tensor = X, **options: Any) -> Any:
    """The module form with half of every group; the module computes what it computed, in its own type."""
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    traced = gp.trace(module.eval(), x, **options)
    compact = gp.rewrite(traced, random_plan(traced, half=True))
    assert compact.report is not None
    assert compact.report.dtype == "float64"
    for name, tensor in module.state_dict().items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name])
    for each in (module, compact.module):
        out = each(x)
        assert type(out) is Tensor
        assert out.dtype == torch.float32
    return compact.module


@functools.lru_cache
def places(count: int) -> Tensor:
    return torch.linspace(1, 2, count)[:, None]


PLACES: dict[int, Tensor] = {}


def kept_places(count: int) -> Tensor:
    if count not in PLACES:
        PLACES[count] = torch.linspace(1, 2, count)[:, None]
    return PLACES[count]


def test_functions_and_files_with_a_cache() -> None:
    class Cached(Two):
        def between(self, x: Tensor) -> Tensor:
            return x * places(len(x)) * kept_places(len(x))

    halved(Cached())
    assert type(places(2)) is Tensor
    assert places(2).dtype == torch.float32
    assert type(kept_places(2)) is Tensor
    assert kept_places(2).dtype == torch.float32


def test_a_table_for_the_last_length() -> None:
    class Rotary(Two):
        length, table = 0, torch.ones(1)

        def between(self, x: Tensor) -> Tensor:
            if self.length != len(x):
                self.length, self.table = len(x), self.up.weight.new_ones(len(x), 1).cumsum(0)
            return x * self.table  # of another type it can't be multiplied by the weights that follow

    halved(Rotary())


def test_objects_in_objects() -> None:
    class Inner:
        def __init__(self, mean: Tensor) -> None:
            self.mean = mean

    class Outer:
        inner: Inner

    class Policy(Two):
        def __init__(self) -> None:
            super().__init__()
            self.outer = Outer()

        def between(self, x: Tensor) -> Tensor:
            self.outer.inner = Inner(x)
            return self.outer.inner.mean

    policy = Policy()
    gp.trace(policy, X)
    assert not vars(policy.outer)
    halved(policy)


FEATURES: dict[str, Tensor] = {}


@pytest.mark.parametrize("where", ["closure", "file"])
def test_hooks_that_keep_what_they_see(where: str) -> None:
    class Hooked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)), nn.Linear(8, 2)
            features: dict[str, Tensor] = {}
            self.features = features if where == "closure" else FEATURES

            def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
                features["middle"] = output

            def keep_in_file(module: nn.Module, inputs: Any, output: Tensor) -> None:
                FEATURES["middle"] = output

            self.body[1].register_forward_hook(keep if where == "closure" else keep_in_file)

        def forward(self, x: Tensor) -> Tensor:
            self.body(x)
            return self.head(self.features["middle"])  # type: ignore[no-any-return]

    module = Hooked()
    module(X)  # what it keeps now can't be copied, since it has gradients
    features = module.features
    compact = halved(module)
    assert compact.body[0].out_features == 4
    assert module.features is features
    assert not torch.equal(module(X), module(-X))
    assert not torch.equal(compact(X), compact(-X))


def test_functions_that_a_module_holds_follow_its_copy() -> None:
    class Held(Two):
        def __init__(self) -> None:
            super().__init__()
            up, bound = self.up, self.between
            self.first, self.then = (lambda x: up(x)), (lambda x: bound(x))

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.then(self.first(x)).relu())  # type: ignore[no-any-return]

    assert halved(Held()).first(X).shape == (2, 4)


def test_a_module_with_two_paths() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))
            self.layers, self.out = nn.ModuleList([layer] * 3), nn.Linear(3, 2)
            self.first = layer

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + layer(x)
            return self.out(self.first(x))  # type: ignore[no-any-return]

    module = Repeated()
    compact = halved(module)
    assert compact.first is compact.layers[2]
    assert compact.first[0].out_features == 4
    assert {parameter.dtype for parameter in (*module.parameters(), *compact.parameters())} == {torch.float32}


def test_checks_of_types() -> None:
    class Insists(Two):
        def between(self, x: Tensor) -> Tensor:
            assert x.dtype == torch.float32
            return x * {torch.float32: 2.0}[x.dtype]

    traced = gp.trace(Insists(), X)
    report = gp.rewrite(traced, random_plan(traced, half=True)).report
    assert report is not None
    assert report.dtype == "the model's own types"


def test_a_sparse_buffer() -> None:
    module = Two()
    module.register_buffer("alignment", torch.eye(3).to_sparse(), persistent=False)
    assert halved(module).alignment.is_sparse


def test_arrays_among_the_attributes() -> None:
    module = Two()
    vars(module).update(channels=np.ones(8), sizes=[np.ones(2), 8], C=[8, np.ones(3)], dim={"a": np.ones(8)})
    halved(module)


def test_values_that_are_read_and_not_written() -> None:
    class Reads(Two):
        def between(self, x: Tensor) -> Tensor:
            return x * self.up.weight.data.sum(1) + self.down.bias.data.sum()

    halved(Reads())


def test_values_that_are_set() -> None:
    class Sets(Two):
        def between(self, x: Tensor) -> Tensor:
            self.up.weight.data = self.up.weight.data * 2
            return x

    with pytest.raises(CaptureError, match="writes into the values of a weight"):
        gp.trace(Sets(), X)


def test_a_weight_that_was_written_into_by_what_asks_for_gradients() -> None:
    """As layers are often folded into one another."""
    module = Two()
    module.up.weight.requires_grad_(False).copy_(torch.randn(8, 3, requires_grad=True) * 2)
    assert not module.up.weight.is_leaf
    traced = gp.trace(module.eval(), X)
    assert gp.rewrite(traced, random_plan(traced, half=True)).module.up.out_features == 4


@pytest.mark.parametrize("given", [None, True])
def test_a_mask_that_transformers_of_torch_look_at(given: bool | None) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
            self.out = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
            return self.out(self.layers(x, mask=mask, is_causal=given))  # type: ignore[no-any-return]

    traced = gp.trace(Masked().eval(), torch.randn(2, 6, 8))
    report = gp.rewrite(traced, random_plan(traced, half=True)).report
    assert report is not None
    assert report.graph_error is not None
    assert report.graph_error < 1e-9


def test_values_in_numpy_by_example() -> None:
    class Periods(Two):
        def forward(self, x: Tensor) -> Tensor:
            order = x.detach().sum(1).argsort().cpu().numpy()
            return super().forward(x[order]) * int(order.max())

    with pytest.raises(CaptureError, match="by_example=True"):
        gp.trace(Periods(), X)
    halved(Periods(), by_example=True)


def test_the_relu_at_the_end_of_a_fresh_model() -> None:
    class Depth(Two):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    module = Depth()
    nn.init.constant_(module.down.bias, -100.0)
    assert not module(X).any()
    assert halved(module).up.out_features == 4


def test_distributions() -> None:
    class Variational(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.mean, self.spread = nn.Linear(3, 8), nn.Linear(8, 4), nn.Linear(8, 4)
            self.down = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.up(x).relu()
            latent = torch.distributions.Normal(self.mean(h), self.spread(h).exp())
            return self.down(latent.rsample()).tanh()  # type: ignore[no-any-return]

    compact = halved(Variational())
    assert compact.up.out_features == 4
    assert compact.mean.out_features == 2


def test_layers_without_sizes_yet_and_copies_on_several_devices() -> None:
    with pytest.raises(CaptureError, match="run it once before it is traced"):
        gp.trace(nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 2)), X)
    with pytest.raises(CaptureError, match=r"gp.trace\(model.module, …\)"):
        gp.trace(nn.DataParallel(Two()), X)


def test_rows_of_a_table_that_each_call_makes_shorter() -> None:
    """``max_norm`` writes into the weight, to the same effect each time."""
    model = nn.Sequential(nn.Embedding(10, 4, max_norm=1.0), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    ids = torch.arange(6).reshape(2, 3)
    model(ids)
    assert halved(model, ids)[1].out_features == 4


def test_weights_that_the_first_call_changes() -> None:
    """As RWKV divides those of its later layers when it is first evaluated."""

    class Rescaled(Two):
        done = False

        def forward(self, x: Tensor) -> Tensor:
            if not self.done:
                with torch.no_grad():
                    self.down.weight.div_(4)
            self.done = True
            return super().forward(x)

    module = Rescaled()
    before = module.down.weight.detach().clone()
    gp.trace(module, X)
    assert torch.equal(module.down.weight, before / 4)
    halved(module)


def test_weights_that_each_call_changes_are_as_they_were_when_that_is_refused() -> None:
    class Decays(Two):
        def between(self, x: Tensor) -> Tensor:
            self.down.weight.data *= 0.5
            return x

    module = Decays()
    before = module.down.weight.detach().clone()
    with pytest.raises(CaptureError, match="writes into the values of a weight"):
        gp.trace(module, X)
    assert torch.equal(module.down.weight, before)


class LooksUpBiases(nn.Module):
    """Attention that looks its position biases up when it is set to evaluation, as LeViT and TinyViT do."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.d, self.dh = 6, 4, 24
        self.qkv, self.proj = nn.Linear(24, 72), nn.Linear(24, 24)
        self.biases = nn.Parameter(torch.randn(6, 5))
        self.register_buffer("places", torch.arange(25).reshape(5, 5) % 5)

    @torch.no_grad()
    def train(self, mode: bool = True) -> LooksUpBiases:
        super().train(mode)
        if mode and hasattr(self, "looked_up"):
            del self.looked_up
        elif not mode:
            self.looked_up = self.biases[:, self.places]
        return self

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, self.num_heads, -1).transpose(1, 2)
        q, k, v = qkv.split([self.d, self.d, self.d], -1)
        bias = self.biases[:, self.places] if self.training else self.looked_up
        mixed = (q @ k.mT + bias).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, self.dh))  # type: ignore[no-any-return]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("layers", [1, 4])
def test_what_is_computed_of_weights_in_evaluation_is_followed(layers: int, in_place: bool) -> None:
    module = nn.Sequential(nn.Linear(24, 24), *(LooksUpBiases() for _ in range(layers))).eval()
    x = torch.randn(2, 5, 24)
    expected = module(x)
    traced = gp.trace(module, x)
    assert torch.equal(module(x), expected)  # it has what it had looked up
    heads = next(group for group in traced.groups.prunable if group.kind == "heads")
    assert "1.biases" in {member.parameter for member in heads.members}
    compact = gp.prune(module, x, ratio=0.3, in_place=in_place)
    assert compact.module is not None
    assert torch.allclose(compact.module(x), compact.graph(x), atol=1e-6)
    assert compact.module[1].num_heads < 6
    assert compact.module[1].looked_up.shape[0] == compact.module[1].num_heads
    compact.module.train()(x).sum().backward()


def test_a_part_in_evaluation_has_what_it_had_looked_up() -> None:
    part = LooksUpBiases()
    module = nn.Sequential(part, nn.Linear(24, 2)).train()
    part.eval()
    x = torch.randn(2, 5, 24)
    expected = module(x)
    gp.trace(module, x)
    assert (module.training, part.training) == (True, False)
    assert torch.equal(module(x), expected)


def test_a_module_in_training_is_left_in_training() -> None:
    module = LooksUpBiases()
    gp.trace(module, torch.randn(2, 5, 24))
    assert module.training
    assert not hasattr(module, "looked_up")
