"""Fourier transforms and complex numbers: the transformed dims are frozen, the others pass through."""

from __future__ import annotations

from .registry import Call, Dims, Result, axis_rule, dim_index

TRANSFORMED = "it is transformed as a whole (FFT)"


@axis_rule(
    "fft_fft",
    "fft_ifft",
    "fft_rfft",
    "fft_irfft",
    "fft_hfft",
    "fft_ihfft",
    "fft_fft2",
    "fft_ifft2",
    "fft_rfft2",
    "fft_irfft2",
    "fft_fftn",
    "fft_ifftn",
    "fft_rfftn",
    "fft_irfftn",
    "fft_fftshift",
    "fft_ifftshift",
    "_fft_r2c",
    "_fft_c2c",
    "_fft_c2r",
)
def transform(call: Call) -> Result:
    """``a b -> a b'`` with b transformed: linear, so zeros of a stay zeros."""
    x = call.tensor("self")
    dims = call.arguments.get("dim")
    chosen = range(len(x)) if dims is None else [dims] if isinstance(dims, int) else dims
    result = x
    for dim in (dim_index(each, len(x)) for each in chosen):
        call.freeze(x.axes[dim], TRANSFORMED)
        result = result.replace(dim, call.fixed(call.shape[dim], TRANSFORMED), False)
    return result


@axis_rule("view_as_real", "view_as_real_copy")
def view_as_real(call: Call) -> Result:
    """``a -> a 2``"""
    x = call.tensor("self")
    return Dims((*x.axes, call.fixed(2, "it holds real and imaginary parts")), (*x.zero, False))


@axis_rule("view_as_complex", "view_as_complex_copy")
def view_as_complex(call: Call) -> Result:
    """``a 2 -> a``"""
    x = call.tensor("self")
    call.freeze(x.axes[-1], "it holds real and imaginary parts")
    return x.take(range(len(x) - 1))
