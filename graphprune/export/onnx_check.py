"""Whether an ONNX file computes what its module computes: onnx's checker, and onnxruntime against torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import ExportError
from ..passes.trace import inference_mode_of
from ..quiet import first_line
from .rounding import Precision, halved, rounded

TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 5e-2}
"""Largest difference from torch, relative to the largest value of an output (and absolute where that is below 1)."""

ROUNDING = 4
"""A difference is rounding where onnxruntime is at most this many times as far off as torch itself: in single precision
from double precision, and in fewer bits from single precision.

Single precision alone moves the logits of SmolLM2 by 1e-4, and those of a badly pruned one by 2e-3.
"""

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Agreement:
    """How far onnxruntime is from torch on one sample: the largest difference, and as a share of the largest value."""

    difference: float
    relative: float
    note: str | None = None


def resized(value: Tensor, sizes: Mapping[int, int]) -> Tensor:
    """A tensor with other sizes: the positions that it has, again and again."""
    for dim, size in sizes.items():
        value = value.index_select(dim, torch.arange(size, device=value.device) % value.shape[dim])
    return value


def is_spec(value: Any) -> bool:
    """Whether ``value`` says which dims of one input are free: a mapping from dims to names, or None."""
    return value is None or (isinstance(value, dict) and all(isinstance(key, int) for key in value))


Described = tuple[dict[str, tuple[int | str, ...]], dict[str, tuple[int | str, ...]], int]


def describe(path: Path) -> Described:
    """The dims of the inputs and outputs of a file that passes onnx's checker, and its opset."""
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ExportError(f"onnx.checker refuses the exported model: {first_line(error)}") from error
    proto = onnx.load(str(path), load_external_data=False)
    opset = next(each.version for each in proto.opset_import if each.domain == "")
    return _shapes(proto.graph.input), _shapes(proto.graph.output), opset


def _shapes(values: Sequence[Any]) -> dict[str, tuple[int | str, ...]]:
    return {
        value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in values
    }


def samples(module: nn.Module, example: Inputs, spec: Any) -> list[Inputs]:
    """The example inputs, and such with one row and other lengths where those are free."""
    if spec is None:
        return [example]
    leaves, dims = tree_leaves(example), tree_leaves(spec, is_leaf=is_spec)
    found = [example]
    for grow in (3, -1):
        others = iter(
            resized(value, {dim: 1 if dim == 0 else max(1, value.shape[dim] + grow) for dim in free}) if free else value
            for value, free in zip(leaves, dims, strict=True)
        )
        args, kwargs = tree_map(lambda _: next(others), example)  # noqa: B023 (used up at once)
        with suppress(Exception), inference_mode_of(module):
            module(*args, **kwargs)
            found.append((args, kwargs))
            break  # a model may refuse to take more than it was traced with: then it is checked with less
    return found


def feeds(session: Any, sample: Inputs) -> dict[str, Any]:
    """The inputs by the names that the file has for them."""
    names = [each.name for each in session.get_inputs()]
    tensors = {name: value for name, value in sample[1].items() if isinstance(value, Tensor)}
    if not set(names) <= set(tensors):
        leaves = [leaf for leaf in tree_leaves(sample) if isinstance(leaf, Tensor)]
        tensors = dict(zip(names, leaves, strict=True))
    found = {each.name: tensors[each.name].detach().cpu().numpy() for each in session.get_inputs()}
    halves = [each.name for each in session.get_inputs() if each.type == "tensor(float16)"]
    return {**found, **{name: found[name].astype("float16") for name in halves}}


def compare(module: nn.Module, session: Any, sample: Inputs, precision: Precision = "fp32") -> Agreement:
    """How far onnxruntime is from torch, in single precision, on one sample.

    Positions that an input ``attention_mask`` ``[batch, sequence]`` leaves out are not compared: a row of attention
    that sees nothing has no meaning, and its value is another in torch and in ONNX.

    Raises:
        ExportError: it does not run, or differs by more than rounding; the message names the output.
    """
    named = feeds(session, sample)
    sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in named.items())
    expected = _outputs(module, sample)
    try:
        found = [torch.from_numpy(value) for value in session.run(None, named, _silent())]
    except Exception as error:
        raise ExportError(f"onnxruntime can't run the exported model on {sizes}: {first_line(error)}") from error
    other: list[Tensor] | None = None
    worst = Agreement(0.0, 0.0)
    for index, (spec, a, b) in enumerate(zip(session.get_outputs(), expected, found, strict=True)):
        if a.shape != b.shape:
            raise ExportError(f"{spec.name} is {list(b.shape)} in onnxruntime and {list(a.shape)} in torch on {sizes}")
        a, b = _attended(a, sample), _attended(b, sample)
        gap, largest = _gap(a, b), _largest(a)
        note = None
        if not gap <= TOLERANCES[precision] * max(1.0, largest):
            other = other or _otherwise(module, sample, precision)
            near = _attended(other[index], sample) if other else a
            rounding, off = _gap(a, near), _gap(near if precision == "fp32" else a, b)
            if not off <= ROUNDING * rounding:
                raise ExportError(
                    f"{spec.name} of the exported model differs from torch by {gap:.1e} on {sizes}, where its largest "
                    f"value is {largest:.1e}: export with another opset, or with check=False if that is enough"
                )
            note = f"{spec.name} differs by {gap:.1e}, and torch's own rounding by {rounding:.1e}"
        worst = Agreement(max(worst.difference, gap), max(worst.relative, gap / max(1.0, largest)), worst.note or note)
    return worst


def _attended(output: Tensor, sample: Inputs) -> Tensor:
    mask = sample[1].get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and output.shape[:2] == mask.shape:
        return output[mask.cpu() != 0]
    return output


def _outputs(module: nn.Module, sample: Inputs) -> list[Tensor]:
    with inference_mode_of(module):
        outputs = module(*sample[0], **sample[1])
    return [leaf.detach().cpu() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _otherwise(module: nn.Module, sample: Inputs, precision: Precision) -> list[Tensor] | None:
    """The outputs of torch in double precision, or in the fewer bits of the file, where the module computes in them."""
    kind = {"fp32": torch.float64, "fp16": torch.float16, "int8": torch.float32}[precision]

    def cast(value: Any) -> Any:
        return value.to(kind) if isinstance(value, Tensor) and value.is_floating_point() else value

    try:
        other = {"fp32": lambda: copy.deepcopy(module).double(), "fp16": lambda: halved(module)}.get(
            precision, lambda: rounded(module)
        )()
        return _outputs(other, tree_map(cast, sample))
    except Exception:
        return None


def _gap(a: Tensor, b: Tensor) -> float:
    """The largest difference; equal infinities, and NaN in both, do not differ."""
    a, b = a.double(), b.double()
    same = (a == b) | (a.isnan() & b.isnan())
    return float(torch.where(same, 0.0, (a - b).abs()).nan_to_num(torch.inf).max()) if a.numel() else 0.0


def _largest(a: Tensor) -> float:
    finite = a.double()[a.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0


def _silent() -> Any:
    """onnxruntime writes to the terminal what it raises anyway."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    return options
