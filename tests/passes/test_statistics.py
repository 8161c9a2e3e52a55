"""Groups that a normalisation takes its statistic over, cut because they were asked for."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune as gp
from graphprune.errors import RewriteError, VerificationError
from graphprune.passes.verify import check_graph, check_module, prepare_check
from graphprune.rules import statistics


class Normalised(nn.Module):
    """A residual width under a norm of some kind."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.up, self.norm, self.mix, self.down = nn.Linear(5, 12), norm, nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        hidden = hidden + self.mix(self.norm(hidden))
        return self.down(self.norm(hidden))  # type: ignore[no-any-return]


class RootMeanSquare(nn.Module):
    """RMSNorm as transformers writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(12))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Whitened(nn.Module):
    """A norm by variance, and one by standard deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(12))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.var(-1, keepdim=True, correction=0) + x.std(-1, keepdim=True))


class GroupNormalised(nn.Module):
    """Channels within the groups of a group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 12, 3), nn.GroupNorm(3, 12), nn.Conv2d(12, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.silu(self.norm(self.first(x))))  # type: ignore[no-any-return]


class ByHead(nn.Module):
    """A function of values by heads and their dims, each head with dims of its own."""

    def __init__(self, function: Callable[[Tensor], Tensor], out: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.up, self.down = nn.Linear(5, 24), nn.Linear(out, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.function(self.up(x).view(-1, 4, 6)).flatten(1))  # type: ignore[no-any-return]


class Larger(nn.Module):
    """The larger of two tensors, which is no maximum over a dim."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.side, self.norm, self.down = (
            nn.Linear(5, 12),
            nn.Linear(5, 12),
            nn.LayerNorm(12),
            nn.Linear(12, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.norm(torch.max(self.up(x), self.side(x))))  # type: ignore[no-any-return]


def random_affine(norm: nn.Module) -> nn.Module:
    """The norm with a weight and a bias that matter."""
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return norm


def cut(model: nn.Module, example: Tensor) -> gp.CompactModel:
    """The model without a quarter of what its statistics groups hold."""
    traced = gp.trace(model.eval(), example)
    return gp.rewrite(traced, gp.select(traced, gp.score(traced), ratio=0.25, of="prunable", kinds=["statistics"]))


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm(12),
        nn.LayerNorm(12, bias=False),
        nn.RMSNorm(12),
        nn.RMSNorm(12, eps=1e-3),
        RootMeanSquare(),
        Whitened(),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_a_norm_counts_the_kept_width(norm: nn.Module) -> None:
    compact = cut(Normalised(random_affine(norm)), torch.randn(4, 5))
    assert compact.report is not None
    assert compact.report.graph_error is not None
    assert compact.report.graph_error < 1e-12
    assert compact.module_error is None
    assert compact.graph.up.weight.shape[0] < 12  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "model",
    [
        ByHead(lambda x: F.layer_norm(x, [6]), 24),
        ByHead(lambda x: x.softmax(2), 24),
        ByHead(lambda x: x.transpose(1, 2).amax(1), 4),
        Larger(),
    ],
    ids=["norm of each head", "softmax of each head", "best of each head", "larger of two"],
)
def test_statistics_over_dims_that_each_head_has_of_its_own(model: nn.Module) -> None:
    # with few rows what is cut may never be the best
    compact = cut(model, torch.randn(64, 5, generator=torch.Generator().manual_seed(0)))
    assert compact.report is not None
    assert compact.report.graph_error is not None
    assert compact.report.graph_error < 1e-12
    assert compact.graph.up.weight.shape[0] < model.up.weight.shape[0]  # type: ignore[union-attr,index,operator]


def test_a_module_is_held_to_double_precision_where_statistics_are_cut() -> None:
    traced = gp.trace(Normalised(random_affine(nn.LayerNorm(12))).eval(), torch.randn(4, 5))
    plan = gp.select(traced, gp.score(traced), ratio=0.25, of="prunable", kinds=["statistics"])
    rewritten = gp.rewrite(traced, plan)
    compact = rewritten.module
    check = prepare_check(traced.program, traced.inference, plan.keep(traced))
    assert check is not None
    assert check.statistics
    graph_error = check_graph(check, rewritten.graph)
    assert check_module(check, compact, graph_error) < 1e-12
    compact.register_forward_hook(lambda module, args, output: output * (1 + 1e-5))
    with pytest.raises(VerificationError, match=r"^the module form differs from the masked model by 1\.0e-05$"):
        check_module(check, compact, graph_error)


def test_each_group_of_a_group_norm_keeps_as_many_channels() -> None:
    compact = cut(GroupNormalised(), torch.randn(2, 3, 6, 6))
    norm = compact.module.norm
    assert norm.num_groups == 3
    assert norm.num_channels in (3, 6, 9)


@pytest.mark.parametrize("norm", [nn.RMSNorm(12, eps=1e-3), RootMeanSquare()], ids=lambda norm: type(norm).__name__)
def test_a_root_mean_square_norm_can_count_the_zeros(norm: nn.Module) -> None:
    traced = gp.trace(Normalised(random_affine(norm)).eval(), torch.randn(4, 5))
    plan = gp.select(traced, gp.score(traced), ratio=0.25, of="prunable", kinds=["statistics"])
    masks = plan.masks(traced)
    compact = gp.rewrite(traced, plan, statistics="masked")
    with torch.no_grad():
        for name, parameter in traced.module.named_parameters():
            for dim, mask in enumerate(masks[name]):
                if mask is not None:
                    parameter.index_fill_(dim, (~mask).nonzero().flatten(), 0)
    torch.testing.assert_close(compact(*traced.args), traced.module(*traced.args))


class Placed(nn.Module):
    """A width to which a table is added that is no parameter, so that nothing masks it."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(5, 12), RootMeanSquare(), nn.Linear(12, 3)
        self.register_buffer("table", torch.randn(4, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.norm(self.up(x) + self.table))  # type: ignore[no-any-return]


def test_units_that_are_not_zero_when_masked_do_not_count() -> None:
    traced = gp.trace(Placed().eval(), torch.randn(4, 5))
    plan = gp.select(traced, gp.score(traced), ratio=0.25, of="prunable", kinds=["statistics"])
    compact = gp.rewrite(traced, plan)
    assert compact.report is not None
    assert compact.report.graph_error is not None
    assert compact.report.graph_error < 1e-12
    assert compact.module_error is None
    with pytest.raises(RewriteError, match="counts units that are not zero when they are masked"):
        gp.rewrite(traced, plan, statistics="masked")


def test_a_layer_norm_can_not() -> None:
    traced = gp.trace(Normalised(nn.LayerNorm(12)).eval(), torch.randn(4, 5))
    plan = gp.select(traced, gp.score(traced), ratio=0.25, of="prunable", kinds=["statistics"])
    with pytest.raises(RewriteError, match=r"aten.layer_norm.default in norm .* statistics=\"kept\""):
        gp.rewrite(traced, plan, statistics="masked")


def test_they_stay_whole_unless_asked_for() -> None:
    traced = gp.trace(Normalised(nn.LayerNorm(12)), torch.randn(4, 5))
    assert [group.status for group in traced.groups].count("statistics") == 1
    assert not traced.groups.prunable


def test_a_statistic_over_all_positions_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(statistics.references, "aten::layer_norm", lambda a, _: F.layer_norm(*list(a.values())[:5]))
    with pytest.raises(VerificationError, match="layer_norm"):
        cut(Normalised(random_affine(nn.LayerNorm(12))), torch.randn(4, 5))
