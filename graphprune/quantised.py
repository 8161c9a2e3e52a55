"""Weights that are stored in few bits: what they stand for, zeros in them, and the model without them.

======================  =========================================================  ==========================
format                  where the numbers are                                      a zero
======================  =========================================================  ==========================
bitsandbytes, 8 bits    codes [out, in], and a scale for each row                  the code 0
bitsandbytes, 4 bits    two codes a byte, and a scale for each block of 64         the code whose value is 0
torchao, integers       codes [out, in], and a scale for each row or run of it     the code 0
======================  =========================================================  ==========================

Zeros are written into the codes and no scale is computed anew: every other weight keeps its value to the bit.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CaptureError, RewriteError

SUPPORTED = "bitsandbytes in 8 and 4 bits, and torchao's integers with symmetric scales"

PACKED = (torch.uint8, torch.int8, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True)
class Format:
    """How the weight of a layer is stored. The functions take the layer.

    ``rows`` gives rows of the weight as numbers, ``codes`` the codes [out, in] as integers, and ``store`` writes them
    back. ``zero`` is the code that stands for zero.
    """

    name: str
    shape: Callable[[Any], tuple[int, int]]
    rows: Callable[[Any, slice], Tensor]
    codes: Callable[[Any], Tensor]
    store: Callable[[Any, Tensor], None]
    zero: Callable[[Any], int]


@dataclass(frozen=True)
class QuantisedWeight:
    """The weight ``[out, in]`` of a layer that stores it in few bits."""

    layer: Any
    format: Format

    @property
    def shape(self) -> tuple[int, int]:
        return self.format.shape(self.layer)

    def rows(self, rows: slice) -> Tensor:
        """Rows of what the weight stands for, in float32."""
        return self.format.rows(self.layer, rows)

    @torch.no_grad()
    def zero(self, dim: int, positions: Tensor) -> None:
        """Write zeros at positions of a dim; all other weights keep their values."""
        codes = self.format.codes(self.layer)
        self.format.store(self.layer, codes.index_fill(dim, positions.to(codes.device), self.format.zero(self.layer)))


def quantised_weight(layer: nn.Module) -> QuantisedWeight | None:
    """The weight of a layer, if it is stored in few bits.

    Raises:
        CaptureError: it is, in a format that has no zero.
    """
    weight = dict(layer._parameters.items()).get("weight")  # the table of TorchScript has no get
    names = {kind.__name__ for kind in type(weight).__mro__}
    if "bitsandbytes" in sys.modules and "Int8Params" in names:
        return QuantisedWeight(layer, INT8)
    if "bitsandbytes" in sys.modules and "Params4bit" in names:
        _keep_order(layer)
        return QuantisedWeight(layer, FOUR_BITS)
    if "torchao" in sys.modules and type(weight).__module__.startswith("torchao."):
        if not hasattr(weight, "qdata") or not hasattr(weight, "scale") or not isinstance(layer, nn.Linear):
            raise CaptureError(
                f"a {type(layer).__name__} with a weight of torchao's {type(weight).__name__} can't be pruned: what "
                f"can is {SUPPORTED}"
            )
        offset: Any = getattr(weight, "zero_point", None)
        if offset is not None and bool(torch.any(offset != 0)):
            raise CaptureError(
                f"torchao's {type(weight).__name__} with a zero point has no exact zero for what is pruned: what can "
                f"be pruned is {SUPPORTED}"
            )
        return QuantisedWeight(layer, TORCHAO)
    return None


def quantised_weights(module: nn.Module) -> dict[str, QuantisedWeight]:
    """The weights of a module that are stored in few bits, by the names of their parameters.

    Raises:
        CaptureError: the module is quantised in a way that is not supported.
    """
    found: dict[str, QuantisedWeight] = {}
    for path, child in module.named_modules():
        weight = quantised_weight(child)
        if weight is not None:
            found[f"{path}.weight" if path else "weight"] = weight
    if not found:
        _refuse_unknown_format(module)
    return found


def _refuse_unknown_format(module: nn.Module) -> None:
    method = next((each for child in module.modules() if (each := vars(child).get("quantization_method"))), None)
    # a file in few bits may have been unpacked when it was read: then there is nothing left of them
    tensors = (*module.parameters(), *module.buffers())
    if method is not None and any(tensor.ndim > 1 and tensor.dtype in PACKED for tensor in tensors):
        name = getattr(method, "value", method)
        raise CaptureError(f"a model that is quantised by {name} can't be pruned: what can is {SUPPORTED}")


def require_groups(module: nn.Module, size: int, *, ignore: Collection[str] = ()) -> None:
    """Check that runs of ``size`` columns, which are to share a scale, divide every linear layer that has weights.

    ``ignore`` are the paths of layers that are to stay as they are.

    Raises:
        RewriteError: they do not divide one; says which, and how to cut the model so that they do.
    """
    for path, child in module.named_modules():
        if isinstance(child, nn.Linear) and path not in ignore and child.in_features % size:
            raise RewriteError(
                f"{path} has {child.in_features} inputs, which runs of {size} that share a scale do not divide: cut "
                f"the model anew with multiple_of={size}, or leave this layer as it is"
            )


# --- the formats -----------------------------------------------------------------------------------------------------


def _int8_scale(layer: Any) -> Tensor:
    # the first forward pass moves it from the weight to the state of the layer
    scale: Tensor = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
    return scale


def _int8_rows(layer: Any, rows: slice) -> Tensor:
    return layer.weight.data[rows].float() * (_int8_scale(layer)[rows] / 127)[:, None]  # type: ignore[no-any-return]


def _int8_store(layer: Any, codes: Tensor) -> None:
    for held in (layer.weight.data, layer.weight.CB, layer.state.CB):
        if held is not None:
            held.copy_(codes)


INT8 = Format(
    name="bitsandbytes in 8 bits",
    shape=lambda layer: tuple(layer.weight.shape),
    rows=_int8_rows,
    codes=lambda layer: layer.weight.data,
    store=_int8_store,
    zero=lambda layer: 0,
)


def _keep_order(layer: Any) -> None:
    """Keep the codes in the order of their rows.

    On some CPUs bitsandbytes puts them into another order in evaluation mode, rounds their scales, and then passes no
    gradient on.
    """
    weight, state = layer.weight, layer.weight.quant_state
    layer.support_avx512bf16_for_cpu = False
    if getattr(state, "packing_format_for_cpu", False):
        from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

        weight.data, weight.quant_state = _convert_weight_packed_for_cpu_inverse(weight.data, state)
        if not weight.quant_state.nested:  # which it leaves transposed
            weight.quant_state.absmax = weight.quant_state.absmax.T.reshape(-1).float()


def _four_bits_codes(layer: Any, rows: slice = slice(None)) -> Tensor:
    out, width = layer.weight.quant_state.shape
    first, end, _ = rows.indices(out)
    start = first * width
    packed = layer.weight.data.view(torch.uint8).flatten()[start // 2 : (end * width + 1) // 2]
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()
    return codes[start % 2 :][: (end - first) * width].view(end - first, width)


def _four_bits_rows(layer: Any, rows: slice) -> Tensor:
    state = layer.weight.quant_state
    codes = _four_bits_codes(layer, rows)
    first, end, _ = rows.indices(state.shape[0])
    scales = state.absmax
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    positions = torch.arange(first * codes.shape[1], end * codes.shape[1], device=codes.device)
    numbers = state.code.to(codes.device)[codes.flatten().int()] * scales.float()[positions // state.blocksize]
    return numbers.view(codes.shape)  # type: ignore[no-any-return]


def _four_bits_store(layer: Any, codes: Tensor) -> None:
    flat = codes.flatten()
    if len(flat) % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    held = layer.weight.data.view(torch.uint8)
    held.copy_(((flat[0::2] << 4) | flat[1::2]).view(held.shape))


FOUR_BITS = Format(
    name="bitsandbytes in 4 bits",
    shape=lambda layer: tuple(layer.weight.quant_state.shape),
    rows=_four_bits_rows,
    codes=_four_bits_codes,
    store=_four_bits_store,
    zero=lambda layer: int((layer.weight.quant_state.code == 0).nonzero()[0]),
)


def _torchao_rows(layer: Any, rows: slice) -> Tensor:
    codes = layer.weight.qdata[rows]
    scale = layer.weight.scale.reshape(len(layer.weight.qdata), -1)[rows].float()
    return (codes.float().unflatten(1, (scale.shape[1], -1)) * scale[:, :, None]).flatten(1)  # type: ignore[no-any-return]


TORCHAO = Format(
    name="torchao",
    shape=lambda layer: tuple(layer.weight.qdata.shape),
    rows=_torchao_rows,
    codes=lambda layer: layer.weight.qdata,
    store=lambda layer, codes: layer.weight.qdata.copy_(codes),
    zero=lambda layer: 0,
)


# --- the model without them ------------------------------------------------------------------------------------------


def dense_copy(module: nn.Module, *, device: str | None = None) -> nn.Module:
    """The module with plain linear layers in place of those with weights in few bits, its other tensors shared.

    Weights have the type of the rest of the model. With ``device="meta"`` the copy has shapes and no values.

    Raises:
        CaptureError: the module can't be copied.
    """
    quantised = quantised_weights(module)
    dtype = _dtype_of(module, quantised)
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        memo[id(tensor)] = tensor if device is None else _without_values(tensor)
    for each in quantised.values():
        memo[id(each.layer)] = _linear(each, dtype, device)
    try:
        copied = copy.deepcopy(module, memo)
    except Exception as error:
        raise CaptureError(f"{type(module).__name__} can't be copied without its quantised weights: {error}") from error
    for child in copied.modules():
        _forget_format(child)
    return copied


def _without_values(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, nn.Parameter):
        return torch.empty_like(tensor, device="meta")
    shape = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return nn.Parameter(shape, requires_grad=tensor.requires_grad)


def _linear(weight: QuantisedWeight, dtype: torch.dtype, device: str | None) -> nn.Linear:
    out, width = weight.shape
    bias = weight.layer.bias
    linear = nn.Linear(width, out, bias=bias is not None, dtype=dtype, device="meta")
    linear.requires_grad_(False)
    linear.train(weight.layer.training)
    if device is None:
        linear.weight = nn.Parameter(weight.rows(slice(None)).to(dtype), requires_grad=False)
        if bias is not None:
            linear.bias = bias
    return linear


def _dtype_of(module: nn.Module, quantised: Mapping[str, QuantisedWeight]) -> torch.dtype:
    """The type of the weights that are not in few bits."""
    for name, parameter in module.named_parameters():
        if name not in quantised and ".lora_" not in name and parameter.is_floating_point():
            return parameter.dtype
    return torch.float32


def _forget_format(module: nn.Module) -> None:
    """Remove what transformers and peft remember of the format, so that they treat the copy as a plain model."""
    for name in ("hf_quantizer", "quantization_method", "is_quantized", "is_loaded_in_8bit", "is_loaded_in_4bit"):
        vars(module).pop(name, None)
    config = vars(module).get("config")
    if config is not None and hasattr(config, "quantization_config"):
        del config.quantization_config
    if type(module).__module__ in ("peft.tuners.lora.bnb", "peft.tuners.lora.torchao"):
        from peft.tuners.lora import Linear

        # it has all that a plain LoRA layer has, but merges into a weight of its own format only
        module.__class__ = Linear
        vars(module).update(fan_in_fan_out=False, is_target_conv_1d_layer=False)
