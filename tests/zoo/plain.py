"""Small models of plain torch: what people write themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .language import Entry, ids
from .vision import image


class UNet(nn.Module):
    """Encoder, decoder and skip connections by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self.block(3, 8), self.block(8, 16)
        self.middle = self.block(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.merge2, self.merge1 = self.block(32, 16), self.block(16, 8)
        self.out = nn.Conv2d(8, 2, 1)

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        middle = self.middle(F.max_pool2d(second, 2))
        up = self.merge2(torch.cat([self.up2(middle), second], 1))
        return self.out(self.merge1(torch.cat([self.up1(up), first], 1)))  # type: ignore[no-any-return]


class Tagger(nn.Module):
    """Embedding, recurrent layers, a label for each token."""

    def __init__(self, cell: Callable[..., nn.Module] = nn.LSTM, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(97, 24)
        self.cell = cell(24, 20, batch_first=True, **options)
        self.head = nn.Linear(40 if options.get("bidirectional") else 20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(x))[0])  # type: ignore[no-any-return]


class VAE(nn.Module):
    """A variational autoencoder on flat images; the noise is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())
        self.mean, self.spread = nn.Linear(32, 10), nn.Linear(32, 10)
        self.decoder = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid())

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encoder(x)
        mean, spread = self.mean(hidden), self.spread(hidden)
        return self.decoder(mean + noise * torch.exp(0.5 * spread)), mean, spread


class Generator(nn.Module):
    """The generator of a DCGAN."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(12, 32, 4, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class DiffusionBlock(nn.Module):
    """A residual block that is told the time."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, inputs), nn.GroupNorm(4, outputs)
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(32, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(hidden)))  # type: ignore[no-any-return]


class DiffusionUNet(nn.Module):
    """A small diffusion model: sinusoidal time, residual blocks, self-attention in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 32))
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.down = DiffusionBlock(16, 24)
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)
        self.up = DiffusionBlock(40, 16)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        frequency = torch.exp(-torch.arange(8) / 8)
        angle = step[:, None] * frequency[None]
        time = self.time(torch.cat([angle.sin(), angle.cos()], -1))
        first = self.first(x)
        down = self.down(F.avg_pool2d(first, 2), time)
        flat = down.flatten(2).transpose(1, 2)
        flat = flat + self.attention(flat, flat, flat, need_weights=False)[0]
        middle = flat.transpose(1, 2).reshape(down.shape)
        up = F.interpolate(middle, scale_factor=2.0, mode="nearest")
        return self.last(self.up(torch.cat([up, first], 1), time))  # type: ignore[no-any-return]


class GraphConvolution(nn.Module):
    """Two graph convolutions and a readout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(7, 24), nn.Linear(24, 24)
        self.head = nn.Linear(24, 4)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        hidden = F.relu(adjacency @ self.first(nodes))
        hidden = F.relu(adjacency @ self.second(hidden)) + hidden
        return self.head(hidden.mean(1))  # type: ignore[no-any-return]


class Einsum(nn.Module):
    """Attention written with einsum over bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.randn(4, 24, 6) / 5) for _ in range(3))
        self.o = nn.Parameter(torch.randn(4, 6, 24) / 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bsi,hid->bhsd", x, weight) for weight in (self.q, self.k, self.v))
        weights = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1)
        return torch.einsum("bhqk,bhkd,hdo->bqo", weights, v, self.o)


class ShuffleNet(nn.Module):
    """Grouped convolutions with a channel shuffle between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 1)
        self.one, self.two = nn.Conv2d(24, 24, 3, padding=1, groups=4), nn.Conv2d(24, 24, 1, groups=4)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(self.first(x)))
        n, c, h, w = x.shape
        x = x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.two(x).mean((2, 3)))  # type: ignore[no-any-return]


class SuperResolution(nn.Module):
    """Convolutions and a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.PReLU(16), nn.Conv2d(16, 32, 3, padding=1))
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.pixel_shuffle(self.body(x), 2))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """torch.nn.Transformer as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(97, 24)
        self.transformer = nn.Transformer(24, 4, 1, 1, 40, batch_first=True, dropout=0.0)
        self.head = nn.Linear(24, 97)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.transformer(self.embed(source), self.embed(target)))  # type: ignore[no-any-return]


class MixtureOfExperts(nn.Module):
    """A loop over experts that all see every token, weighted by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 40), nn.GELU(), nn.Linear(40, 16)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(-1)
        return sum(weights[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))  # type: ignore[return-value]


class GraphAttention(nn.Module):
    """Attention along the edges of a graph, added up where they end."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, 6
        self.up, self.down = nn.Linear(7, 24, bias=False), nn.Linear(24, 4)
        self.start, self.end = nn.Parameter(torch.randn(1, 4, 6)), nn.Parameter(torch.randn(1, 4, 6))

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        start, end = edges
        heads = self.up(nodes).view(-1, self.num_heads, self.head_dim)
        scores = (heads * self.start).sum(-1)[start] + (heads * self.end).sum(-1)[end]
        weights = F.leaky_relu(scores, 0.2).exp()
        total = torch.zeros_like(weights[: len(nodes)]).scatter_add(0, end[:, None].expand_as(weights), weights)
        message = heads[start] * (weights / total[end]).unsqueeze(-1)
        return self.down(F.elu(torch.zeros_like(heads).index_add(0, end, message)).flatten(1))  # type: ignore[no-any-return]


class StateSpace(nn.Module):
    """A diagonal state space model (S4D): a complex kernel, applied by Fourier transforms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(8, 24, 1), nn.Conv1d(24, 5, 1)
        self.step, self.skip = nn.Parameter(torch.rand(24)), nn.Parameter(torch.randn(24))
        self.decay, self.turn = nn.Parameter(torch.rand(24, 8)), nn.Parameter(torch.rand(24, 8))
        self.out = nn.Parameter(torch.randn(24, 8, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        length = x.shape[-1]
        rate = (1j * self.turn - self.decay.exp()) * self.step.exp()[:, None]
        powers = torch.exp(rate[..., None] * torch.arange(length))
        kernel = torch.einsum("hn,hnl->hl", torch.view_as_complex(self.out) * (rate.exp() - 1) / rate, powers).real
        y = torch.fft.irfft(torch.fft.rfft(x, n=2 * length) * torch.fft.rfft(kernel, n=2 * length), n=2 * length)
        return self.last(F.gelu(y[..., :length] + x * self.skip[:, None]))  # type: ignore[no-any-return]


class FourierOperator(nn.Module):
    """A neural operator: complex weights on the lowest frequencies of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.beside, self.last = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 1), nn.Conv2d(12, 1, 1)
        self.low, self.high = (nn.Parameter(torch.randn(12, 12, 4, 4, dtype=torch.cfloat) / 12) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        waves = torch.fft.rfft2(x)
        mixed = torch.zeros_like(waves)
        mixed[:, :, :4, :4] = torch.einsum("nixy,ioxy->noxy", waves[:, :, :4, :4], self.low)
        mixed[:, :, -4:, :4] = torch.einsum("nixy,ioxy->noxy", waves[:, :, -4:, :4], self.high)
        return self.last(F.gelu(torch.fft.irfft2(mixed, s=x.shape[-2:]) + self.beside(x)))  # type: ignore[no-any-return]


class Capsules(nn.Module):
    """Capsules that vote by agreement for those of the next layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3, 2)
        self.votes = nn.Parameter(torch.randn(1, 72, 5, 6, 4) / 5)

    @staticmethod
    def squash(x: Tensor) -> Tensor:
        square = x.square().sum(-1, keepdim=True)
        return square / (1 + square) * x / torch.sqrt(square + 1e-8)

    def forward(self, x: Tensor) -> Tensor:
        low = self.second(F.relu(self.first(x))).view(-1, 8, 4, 3, 3).permute(0, 1, 3, 4, 2).reshape(-1, 72, 4)
        votes = (self.votes @ self.squash(low)[:, :, None, :, None]).squeeze(-1)
        logits = torch.zeros(votes.shape[:3]).unsqueeze(-1)
        for _ in range(2):
            high = self.squash((logits.softmax(2) * votes).sum(1))
            logits = logits + (votes * high.unsqueeze(1)).sum(-1, keepdim=True)
        return high.norm(dim=-1)


class Either(nn.Module):
    """One of two layers, whichever the sign of the sum of the values says."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.one, self.other, self.down = (nn.Linear(a, b) for a, b in ((8, 24), (24, 16), (24, 16), (16, 3)))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.up(x))
        branches = (lambda h: F.relu(self.one(h)), lambda h: torch.tanh(self.other(h)))
        return self.down(torch.cond(x.sum() > 0, *branches, (hidden,)))  # type: ignore[no-any-return]


class PointCloud(nn.Module):
    """Features of the nearest neighbours of each point, by the distances between their features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 16), nn.Linear(32, 24), nn.Linear(40, 4)

    @staticmethod
    def neighbours(x: Tensor) -> Tensor:
        nearest = torch.cdist(x, x).topk(4, largest=False).indices
        each = x[:, None].expand(-1, x.shape[1], -1, -1)
        near = each.gather(2, nearest[..., None].expand(-1, -1, -1, x.shape[2]))
        return torch.cat([near - x[:, :, None], x[:, :, None].expand_as(near)], -1)

    def forward(self, x: Tensor) -> Tensor:
        first = F.leaky_relu(self.first(self.neighbours(x))).amax(2)
        second = F.leaky_relu(self.second(self.neighbours(first))).amax(2)
        return self.head(torch.cat([first, second], -1).amax(1))  # type: ignore[no-any-return]


def seeded(make: Callable[[], nn.Module], **inputs: Tensor) -> Entry:
    """A model with random weights in eval mode."""

    def entry() -> tuple[nn.Module, dict[str, Any]]:
        torch.manual_seed(0)
        return make().eval(), inputs

    return entry


PLAIN: dict[str, Entry] = {
    "unet": seeded(UNet, x=image()),
    "lstm_tagger": seeded(Tagger, x=ids()),
    "lstm_two_way": seeded(lambda: Tagger(nn.LSTM, bidirectional=True, num_layers=2), x=ids()),
    "gru_tagger": seeded(lambda: Tagger(nn.GRU), x=ids()),
    "vae": seeded(VAE, x=torch.rand(3, 64), noise=torch.randn(3, 10)),
    "dcgan": seeded(Generator, x=torch.randn(2, 12, 1, 1)),
    "diffusion_unet": seeded(DiffusionUNet, x=image(16), step=torch.tensor([3.0, 7.0])),
    "graph_convolution": seeded(GraphConvolution, nodes=torch.randn(2, 9, 7), adjacency=torch.rand(2, 9, 9)),
    "einsum_attention": seeded(Einsum, x=torch.randn(2, 9, 24)),
    "shufflenet": seeded(ShuffleNet, x=image(16)),
    "super_resolution": seeded(SuperResolution, x=image(16)),
    "torch_transformer": seeded(Transformer, source=ids(2, 9), target=ids(2, 7)),
    "graph_attention": seeded(
        GraphAttention, nodes=torch.randn(9, 7), edges=torch.tensor([range(9), [*range(1, 9), 0]])
    ),
    "state_space": seeded(StateSpace, x=torch.randn(2, 8, 16)),
    "fourier_operator": seeded(FourierOperator, x=image(16)),
    "capsules": seeded(Capsules, x=image(9)),
    "condition": seeded(Either, x=torch.ones(3, 8)),
    "point_cloud": seeded(PointCloud, x=torch.randn(2, 12, 3)),
    "mixture_of_experts": seeded(MixtureOfExperts, x=torch.randn(2, 9, 16)),
}
