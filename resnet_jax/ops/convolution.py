"""Convolution, dense or in groups, padded as torch pads.

A convolution is bilinear, and so are its two gradients; each of the three is a transpose of the others. The fast
implementation is therefore one primitive with three directions, which differentiate into one another to any order and
in either mode. `choice.py` says what each becomes when a program is compiled for a platform.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

Maps = Float[Array, "batch height width in"]
OutMaps = Float[Array, "batch out_height out_width out"]
Kernel = Float[Array, "rows columns group_in out"]

DIRECTIONS = ("forward", "input_gradient", "kernel_gradient")


@dataclasses.dataclass(frozen=True)
class Window:
    """The static fields of a convolution: stride of its output, dilation of its kernel, and groups."""

    stride: int = 1
    dilation: int = 1
    groups: int = 1

    def padding(self, kernel_size: int) -> int:
        """Return the zeros on each of the four sides."""
        return self.dilation * (kernel_size - 1) // 2

    def size(self, pixels: int, kernel_size: int) -> int:
        """Return the number of outputs along a side of `pixels`."""
        reach = self.dilation * (kernel_size - 1) + 1
        return (pixels + 2 * self.padding(kernel_size) - reach) // self.stride + 1


def convolve(x: Maps, kernel: Kernel, window: Window, implementation: str = "fast") -> OutMaps:
    """Return the convolution of images with a kernel, padded by `window.padding` zeros on all four sides.

    Args:
      x: images of shape (batch, height, width, in_channels).
      kernel: of shape (rows, columns, in_channels / groups, out_channels), of the type of `x`.
      window: stride, dilation and groups.
      implementation: "fast" or "reference" (`resnet_jax.ops`).

    Raises ValueError if kernel and groups do not fit the channels of `x`.
    """
    if kernel.shape[2] * window.groups != x.shape[-1] or kernel.shape[3] % window.groups:
        raise ValueError(f"a kernel of shape {kernel.shape} in {window.groups} groups does not fit maps {x.shape}")
    if implementation == "reference":
        return reference(x, kernel, window)
    return _bind("forward", x, kernel, window)


def reference(x: Maps, kernel: Kernel, window: Window) -> OutMaps:
    """The convolution as JAX has it."""
    pad = window.padding(kernel.shape[0])
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(window.stride, window.stride),
        padding=((pad, pad), (pad, pad)),
        rhs_dilation=(window.dilation, window.dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=window.groups,
    )


def result_shape(direction: str, a: Any, b: Any, window: Window, sides: Any = None) -> tuple[Any, ...]:
    """Return the shape of what `gradient_by` returns; the batch may be symbolic."""
    if direction == "forward":
        return (a.shape[0], *(window.size(pixels, b.shape[0]) for pixels in a.shape[1:3]), b.shape[3])
    if direction == "input_gradient":
        return (a.shape[0], *sides, b.shape[2] * window.groups)
    return (*sides, a.shape[-1] // window.groups, b.shape[-1])


def gradient_by(convolution: Callable, direction: str, a: Array, b: Array, window: Window, sides: Any) -> Array:
    """Return one direction of a convolution, the gradients by transposing `convolution(x, kernel, window)`.

    Args:
      convolution: computes the forward direction.
      direction: one of `DIRECTIONS`.
      a, b: images and kernel; output gradient and kernel for "input_gradient"; images and output gradient for
        "kernel_gradient".
      window: stride, dilation and groups.
      sides: (height, width) of the images, or of the kernel, that the result has; None for "forward".
    """
    shape = result_shape(direction, a, b, window, sides)
    if direction == "input_gradient":
        images = jax.ShapeDtypeStruct(shape, a.dtype)
        return jax.linear_transpose(lambda x: convolution(x, b, window), images)(a)[0]
    if direction == "kernel_gradient":
        kernel = jax.ShapeDtypeStruct(shape, b.dtype)
        return jax.linear_transpose(lambda kernel: convolution(a, kernel, window), kernel)(b)[0]
    return convolution(a, b, window)


convolution_p = Primitive("resnet_convolution")


def _bind(direction: str, a: Array, b: Array, window: Window, sides: Any = None) -> Array:
    return convolution_p.bind(a, b, direction=direction, window=window, sides=sides)


def _transpose_a(ct, a, b, *, direction, window, sides):
    if direction == "forward":
        return _bind("input_gradient", ct, b, window, a.aval.shape[1:3])
    if direction == "input_gradient":
        return _bind("forward", ct, b, window)
    return _bind("input_gradient", b, ct, window, a.aval.shape[1:3])


def _transpose_b(ct, a, b, *, direction, window, sides):
    if direction == "forward":
        return _bind("kernel_gradient", a, ct, window, b.aval.shape[:2])
    if direction == "input_gradient":
        return _bind("kernel_gradient", ct, a, window, b.aval.shape[:2])
    return _bind("forward", a, ct, window)


def _by_reference(a, b, *, direction, window, sides):
    return gradient_by(reference, direction, a, b, window, sides)


@functools.partial(jax.jit, static_argnames=("direction", "window", "sides"))
def _evaluate(a, b, *, direction, window, sides):
    return _bind(direction, a, b, window, sides)


def _batched(arrays, axes, **fields):
    """Return the results of a batch: one call where the batch can join that of the images, else one for each."""
    size = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
    a, b = (
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(arrays, axes, strict=True)
    )
    if axes[1] is None and fields["direction"] != "kernel_gradient":
        joined = convolution_p.bind(a.reshape(-1, *a.shape[2:]), arrays[1], **fields)
        return joined.reshape(size, -1, *joined.shape[1:]), 0

    def in_turn(a, b):
        return lax.map(lambda pair: convolution_p.bind(*pair, **fields), (a, b))

    together = jax.vmap(functools.partial(_by_reference, **fields))
    return lax.platform_dependent(a, b, cpu=in_turn, default=together), 0


convolution_p.def_impl(_evaluate)
convolution_p.def_abstract_eval(lambda a, b, **fields: a.update(shape=result_shape(a=a, b=b, **fields)))
ad.defbilinear(convolution_p, _transpose_a, _transpose_b)
batching.primitive_batchers[convolution_p] = _batched
mlir.register_lowering(convolution_p, mlir.lower_fun(_by_reference, multiple_results=False))
