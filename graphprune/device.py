"""Where models run when nobody says where: on the accelerator of the machine, or on its CPU."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def default_device() -> torch.device:
    """The accelerator that torch sees (a GPU, say), or the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def placed(module: Model) -> Model:
    """The module itself, moved to the default device; one with weights in few bits stays where these were made."""
    return module if getattr(module, "is_quantized", False) else module.to(default_device())


def device_of(module: nn.Module) -> torch.device:
    """The device of the first parameter of a module; the CPU where it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def described(device: torch.device) -> str:
    """A device in words, for a table of times."""
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"the CPU with {threads} thread{'s' * (threads != 1)}"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def wait_for_device() -> None:
    """Let what an accelerator still computes end, as a clock on the host needs it."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
