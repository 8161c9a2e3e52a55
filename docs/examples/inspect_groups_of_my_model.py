"""What of a model of your own is cut together, and why: python inspect_groups_of_my_model.py out.html"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.report.html import page


class Attention(nn.Module):
    """Queries, keys and values in one projection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int = 32):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, 4)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.mlp(x)


def main(path: str) -> None:
    traced = gp.trace(Block().eval(), torch.randn(2, 7, 32))
    print(traced.groups, end="\n\n")
    for group in traced.groups.prunable:
        print(f"{group.name}: {group.units} units, and in each {', '.join(str(each) for each in group.members)}")
    print(traced.explain("attention.qkv.weight[0]", "attention.out.weight[1]"))
    Path(path).write_text(page(traced, title="Block"), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
