"""An operator that graphprune does not know, before and after it has a rule: python custom_op.py"""

import torch
from torch import Tensor, nn

import graphprune as gp


@torch.library.custom_op("example::squared_relu", mutates_args=())
def squared_relu(x: Tensor) -> Tensor:
    return x.relu() ** 2


@squared_relu.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(squared_relu(self.up(x)))


def main() -> None:
    torch.manual_seed(0)
    model, inputs = MLP().eval(), torch.randn(4, 16)
    print(gp.trace(model, inputs).groups, end="\n\n")  # all frozen, with the reason

    @gp.rule("example::squared_relu")
    def squared(call):  # type: ignore[no-untyped-def]
        """``... -> ...``, and zeros stay zeros."""
        return call.tensor("x")

    print(gp.trace(model, inputs).groups, end="\n\n")
    compact = gp.prune(model, inputs, ratio=0.5)
    print(compact.module, compact.report, sep="\n")


if __name__ == "__main__":
    main()
