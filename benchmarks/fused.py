"""An experiment of `accelerators.py`: bottlenecks that end, in training, in two Pallas kernels, one for each direction.

XLA's convolution, too, normalizes what it reads and sums the statistics of what it writes. But its gradients are two
convolutions, each of which reads the wide maps and their gradient; the backward kernel here reads them once for both.
Over a whole ResNet-50 it does not pay (docs/performance.md), so that no network has it.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from resnet_jax.models.blocks import BottleneckBlock
from resnet_jax.models.normalization import BatchNorm

LANES = 128  # of a TPU: XLA lays maps out with the channels innermost where they fill them, else with the batch
BLOCK_BYTES = 2**22  # of a kernel's maps that are on the chip at once

Maps = Float[Array, "batch height width in"]
OutMaps = Float[Array, "batch height width out"]
In = Float[Array, "in"]
Out = Float[Array, "out"]
Axes = str | tuple[str, ...] | None


class FusedBottleneckBlock(BottleneckBlock):
    """A bottleneck of ResNet-50 or ResNeXt-50 with the same variables, that ends in the kernels.

    Attributes:
      widths: of the stages whose blocks do.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)

    @nn.compact
    def __call__(self, x: Maps, train: bool) -> OutMaps:
        """Return what the bottleneck returns, up to rounding."""
        if not train or self.is_initializing() or self.channels not in self.widths:
            return super().__call__(x, train)
        first, second, last = self.branch()
        bn2, bn3 = self.norm(name="bn2"), self.norm(name="bn3")
        y = second(nn.relu(self.norm(name="bn1")(first(x), use_running_average=False)))
        mean, variance = statistics(y, bn2.axis_name)
        remember(bn2, mean, variance, y.size // y.shape[-1])
        factor = bn2.get_variable("params", "scale") * jax.lax.rsqrt(variance + bn2.epsilon)
        offset = bn2.get_variable("params", "bias") - mean * factor
        kernel = last.get_variable("params", "kernel")[0, 0].astype(self.dtype)
        after = (bn3.get_variable("params", name) for name in ("scale", "bias"))
        shortcut = x
        if self.stride != 1 or x.shape[-1] != last.channels:
            shortcut = self.conv(last.channels, 1, self.stride, name="shortcut_conv")(x)
            shortcut = self.norm(name="shortcut_bn")(shortcut, use_running_average=False)
        y, mean, variance = end_of_block(
            y, factor, offset, kernel, *after, shortcut, epsilon=bn3.epsilon, axes=bn3.axis_name
        )
        remember(bn3, mean, variance, y.size // y.shape[-1])
        return y


def remember(bn: BatchNorm, mean: Float[Array, " channels"], variance: Float[Array, " channels"], count: int) -> None:
    """Move the running statistics by those of a training batch, of `count` values a device."""
    if not bn.is_mutable_collection("batch_stats"):
        return
    if bn.axis_name is not None:
        count *= jax.lax.psum(1, bn.axis_name)
    if bn.unbiased:
        variance = variance * (count / max(count - 1, 1))
    for name, new in (("mean", mean), ("var", variance)):
        before = bn.get_variable("batch_stats", name)
        bn.put_variable("batch_stats", name, bn.momentum * before + (1 - bn.momentum) * new)


def statistics(x: Maps, axes: Axes = None) -> tuple[In, In]:
    """Return the mean and the variance of each channel in float32, over all devices along mesh `axes`."""
    x = x.astype(jnp.float32)
    return _mean_and_variance(jnp.sum(x, (0, 1, 2)), jnp.sum(x * x, (0, 1, 2)), x.size // x.shape[-1], axes)


def _mean_and_variance(total, squares, count, axes):
    mean, square = _mean((total / count, squares / count), axes)
    return mean, jnp.maximum(square - mean * mean, 0)


def _mean(tree, axes):
    return tree if axes is None else jax.lax.pmean(tree, axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7, 8))
def end_of_block(
    x: Maps,
    factor: In,
    offset: In,
    kernel: Float[Array, "in out"],
    scale: Out,
    bias: Out,
    shortcut: OutMaps,
    epsilon: float,
    axes: Axes = None,
) -> tuple[OutMaps, Out, Out]:
    """Return relu(BatchNorm(relu(x * factor + offset) @ kernel) + shortcut), and that BatchNorm's mean and variance.

    These two are for the running statistics, and have no gradient.

    Args:
      x: maps as the 3x3 convolution left them.
      factor, offset: float32, of the BatchNorm after it and the statistics of `x`.
      kernel: of the 1x1 convolution, of the type of `x`.
      scale, bias: float32, of the BatchNorm after it.
      shortcut: of the type of `x`.
      epsilon: of that BatchNorm.
      axes: of the mesh, over which its statistics are shared.
    """
    return _forward(x, factor, offset, kernel, scale, bias, shortcut, epsilon, axes)[0]


def _forward(x, factor, offset, kernel, scale, bias, shortcut, epsilon, axes):
    y, total, squares = _on_each_platform(_convolve, x, factor, offset, kernel)
    mean, variance = _mean_and_variance(total, squares, y.size // y.shape[-1], axes)
    slope = scale * jax.lax.rsqrt(variance + epsilon)
    normalized = (y.astype(jnp.float32) * slope + (bias - mean * slope)).astype(y.dtype)
    out = jnp.maximum(normalized + shortcut, 0)
    return (out, mean, variance), (x, factor, offset, kernel, scale, y, mean, variance, out)


def _backward(epsilon, axes, kept, gradients):
    """The gradient of BatchNorm is linear in `dsum` and `y`, channel by channel: the kernel puts it together."""
    x, factor, offset, kernel, scale, y, mean, variance, out = kept
    y = jax.lax.optimization_barrier(y)  # else XLA keeps it in float32 from the forward pass on
    dsum = jnp.where(out > 0, gradients[0], 0).astype(y.dtype)
    dwide, ywide, count = dsum.astype(jnp.float32), y.astype(jnp.float32), y.size // y.shape[-1]
    deviation = jax.lax.rsqrt(variance + epsilon)
    dbias = jnp.sum(dwide, (0, 1, 2))
    dscale = (jnp.sum(dwide * ywide, (0, 1, 2)) - mean * dbias) * deviation
    along, constant = _mean((dscale / count, dbias / count), axes)
    along *= deviation
    terms = [scale * deviation * each for each in (jnp.ones_like(mean), -along, along * mean - constant)]
    dx, dfactor, doffset, dkernel = _on_each_platform(_gradients, x, y, dsum, factor, offset, kernel, *terms)
    return dx, dfactor, doffset, dkernel.astype(kernel.dtype), dscale, dbias, dsum


end_of_block.defvjp(_forward, _backward)


def _convolve(x, factor, offset, kernel, interpret):
    """Return y = relu(x * factor + offset) @ kernel, and the sums of y and of its squares."""
    axis, out_axis = _channel_axis(x.shape[-1]), _channel_axis(kernel.shape[1])
    dot = functools.partial(_dot, wide=interpret)

    def body(x, factor, offset, kernel, y, total, squares):
        _clear_first(total, squares)

        @pl.loop(0, x.shape[0])
        def _(pixel):
            z = _activated(x[pixel], factor, offset)[0].astype(kernel.dtype)
            made = dot(z, kernel[...], axis, 0) if out_axis else dot(kernel[...], z, 0, axis)
            y[pixel] = made.astype(y.dtype)
            made = y[pixel].astype(jnp.float32)
            total[...] += made
            squares[...] += made * made

    maps = _laid(x, axis)
    sums = jax.ShapeDtypeStruct(_sides(out_axis, len(x), kernel.shape[1]), jnp.float32)
    made = (jax.ShapeDtypeStruct((len(maps), *sums.shape), x.dtype), sums, sums)
    y, total, squares = _call(
        body, (maps, _column(factor, axis), _column(offset, axis), kernel), made, x.size * kernel.shape[1], interpret
    )
    return _unlaid(y, out_axis, x.shape), jnp.sum(total, 1 - out_axis), jnp.sum(squares, 1 - out_axis)


def _gradients(x, y, dsum, factor, offset, kernel, of_dsum, of_y, constant, interpret):
    """Return the gradients of x, factor, offset and kernel, where that of y is dsum * of_dsum + y * of_y + constant."""
    axis, out_axis = _channel_axis(x.shape[-1]), _channel_axis(kernel.shape[1])
    dot = functools.partial(_dot, wide=interpret)

    def body(x, y, dsum, factor, offset, kernel, of_dsum, of_y, constant, dx, dfactor, doffset, dkernel):
        _clear_first(dfactor, doffset, dkernel)

        @pl.loop(0, x.shape[0])
        def _(pixel):
            dy = dsum[pixel].astype(jnp.float32) * of_dsum[...] + y[pixel].astype(jnp.float32) * of_y[...]
            dy = (dy + constant[...]).astype(kernel.dtype)
            z, positive = _activated(x[pixel], factor, offset)
            dz = dot(dy, kernel[...], out_axis, 1) if axis else dot(kernel[...], dy, 1, out_axis)
            dz = jnp.where(positive, dz, 0)
            dx[pixel] = (dz * factor[...]).astype(dx.dtype)
            dfactor[...] += dz * x[pixel].astype(jnp.float32)
            doffset[...] += dz
            dkernel[...] += dot(z.astype(kernel.dtype), dy, 1 - axis, 1 - out_axis)

    maps = _laid(x, axis)
    given = (maps, _laid(y, out_axis), _laid(dsum, out_axis), _column(factor, axis), _column(offset, axis), kernel)
    given += tuple(_column(each, out_axis) for each in (of_dsum, of_y, constant))
    sums = jax.ShapeDtypeStruct(maps.shape[1:], jnp.float32)
    made = (jax.ShapeDtypeStruct(maps.shape, x.dtype), sums, sums, jax.ShapeDtypeStruct(kernel.shape, jnp.float32))
    dx, dfactor, doffset, dkernel = _call(body, given, made, 2 * x.size * kernel.shape[1], interpret)
    return _unlaid(dx, axis, x.shape), jnp.sum(dfactor, 1 - axis), jnp.sum(doffset, 1 - axis), dkernel


def _on_each_platform(work, *arrays):
    """Run a kernel on a TPU; elsewhere Pallas interprets it, slowly."""
    by_interpreter = functools.partial(work, interpret=True)
    return jax.lax.platform_dependent(*arrays, tpu=functools.partial(work, interpret=False), default=by_interpreter)


def _call(body, given, made, multiplies, interpret):
    """Run a kernel that multiplies so often over blocks of pixels; arrays without an axis of them are there whole."""
    pixels = len(given[0])
    maps = [array for array in (*given, *made) if array.ndim == 3]
    each = sum(array.size // pixels * array.dtype.itemsize for array in maps)
    block = max(n for n in range(1, pixels + 1) if pixels % n == 0 and (n == 1 or n * each <= BLOCK_BYTES))

    def spec(array):
        shape = (block, *array.shape[1:]) if array.ndim == 3 else array.shape
        return pl.BlockSpec(shape, lambda i: (i, 0, 0) if array.ndim == 3 else (0, 0))

    return pl.pallas_call(
        body,
        grid=(pixels // block,),
        in_specs=[spec(array) for array in given],
        out_specs=[spec(array) for array in made],
        out_shape=made,
        cost_estimate=pl.CostEstimate(flops=2 * multiplies, transcendentals=0, bytes_accessed=pixels * each),
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=2**26),
        interpret=interpret,
    )(*given)


def _clear_first(*totals):
    """Begin sums at the first block of pixels."""

    @pl.when(pl.program_id(0) == 0)
    def _():
        for total in totals:
            total[...] = jnp.zeros_like(total)


def _activated(x, factor, offset):
    """Return a normalized and activated pixel, and where it is positive."""
    normalized = x.astype(jnp.float32) * factor[...] + offset[...]
    return jnp.maximum(normalized, 0), normalized > 0


def _channel_axis(channels):
    """Return which axis of a pixel, a matrix of batch and channels, XLA gives to the channels."""
    return 1 if channels % LANES == 0 else 0


def _sides(axis, batch, channels):
    return (batch, channels) if axis else (channels, batch)


def _laid(maps, axis):
    """Return maps as a matrix a pixel, as they lie in a TPU's memory: no copy there."""
    batch, _, _, channels = maps.shape
    return maps.transpose((1, 2, 0, 3) if axis else (1, 2, 3, 0)).reshape(-1, *_sides(axis, batch, channels))


def _unlaid(pixels, axis, shape):
    pixels = pixels.reshape(*shape[1:3], *pixels.shape[1:])
    return pixels.transpose((2, 0, 1, 3) if axis else (3, 0, 1, 2))


def _column(values, axis):
    return values[None, :] if axis else values[:, None]


def _dot(a, b, axis, other, wide):
    """Contract an axis of a matrix with one of another, in float32; XLA on CPU wants them `wide` for it."""
    a, b = (each.astype(jnp.float32) if wide else each for each in (a, b))
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    axes = (((axis,), (other,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, precision=precision, preferred_element_type=jnp.float32)
