"""Prune half of a small CNN, and write it as an ONNX file: python prune_cnn_to_onnx.py out.onnx"""

import sys

import torch
from torch import Tensor, nn

import graphprune as gp


class Block(nn.Module):
    """Two convolutions beside a shortcut, as in a ResNet: what is added up must be cut alike."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.second = nn.Conv2d(2 * channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.norm(self.first(x)).relu())


def main(path: str) -> None:
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), Block(16), Block(16), *head).eval()
    images = torch.randn(2, 3, 32, 32)

    traced = gp.trace(model, images)
    print(traced.groups)
    plan = gp.select(traced, gp.score(traced, "magnitude"), ratio=0.5, of="macs", multiple_of=4)
    compact = gp.rewrite(traced, plan)
    print(compact.report)
    gp.export_onnx(compact, path)
    print(f"{path}: {traced.parameter_count} parameters, now {compact.parameter_count}")


if __name__ == "__main__":
    main(sys.argv[1])
