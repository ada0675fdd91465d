"""BatchNorm, with the ReLU and max-pooling that may follow it.

A train step is bound by memory, and most of what it reads and writes is for normalization. JAX's own gradient of
BatchNorm and ReLU reads and writes seven arrays of the size of the maps, and the fast one five: the active values are
recomputed from what the convolution returned wherever they are needed.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.ops.max_pool import Pooling, max_pool

Maps = Float[Array, "*batch channels"]
OutMaps = Float[Array, "... channels"]
Channels = Float[Array, " channels"]
Axes = str | tuple[str, ...] | None


def batch_norm(
    x: Maps,
    scale: Channels,
    bias: Channels,
    *,
    epsilon: float,
    activate: bool = False,
    pooling: Pooling | None = None,
    axes: Axes = None,
    implementation: str = "fast",
) -> tuple[OutMaps, Channels, Channels]:
    """Return maps normalized by their own mean and variance, and these two, which carry no gradient.

    y = (x - mean) / sqrt(var + epsilon) * scale + bias (Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1).

    Args:
      x: maps whose last axis holds the channels.
      scale, bias: one value for each channel.
      epsilon: added to the variance, which is over N, the values of a channel on all devices along `axes`.
      activate: whether a ReLU follows.
      pooling: the max-pooling that follows the ReLU, if any.
      axes: names of mesh axes over which the statistics are shared.
      implementation: "fast" or "reference" (`resnet_jax.ops`).
    """
    if implementation == "reference":
        return _reference(x, scale, bias, epsilon, activate, pooling, axes)
    return _fast(x, scale, bias, epsilon, activate, pooling, axes)


def _reference(x, scale, bias, epsilon, activate, pooling, axes):
    mean, var = moments(x, axes)
    y = normalize(x, mean, var, scale, bias, epsilon, activate)
    y = y if pooling is None else max_pool(y, *pooling, implementation="reference")
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


# A program of its own, as those below, so that equal ones of a network are traced and lowered once.
@functools.partial(jax.jit, static_argnums=(5, 6))
def normalize(
    x: Maps, mean: Channels, var: Channels, scale: Channels, bias: Channels, epsilon: float, activate: bool
) -> Maps:
    """Return (x - mean) / sqrt(var + epsilon) * scale + bias, and ReLU of it if asked, in the type of `x`.

    The arithmetic is float32, or float64 where `mean` is.
    """
    factor = scale * lax.rsqrt(var + epsilon)
    y = ((x.astype(mean.dtype) - mean) * factor + bias).astype(x.dtype)
    return jax.nn.relu(y) if activate else y


def moments(x: Maps, axes: Axes = None) -> tuple[Channels, Channels]:
    """Return mean and variance (over N) of each channel in one pass over `x`, in float32 or a wider type.

    The variance is E[(x - s)^2] - E[x - s]^2 for a shift s near the mean (`shift`): with s = 0 float32 loses all of it
    where the mean is thousands of times the deviation.
    """
    s = shift(x, axes)
    mean, square = _sums(x, s)
    if axes is not None:
        mean, square = lax.pmean(jnp.stack([mean, square]), axes)
    return s + mean, jnp.maximum(square - mean * mean, 0)


def moments_by_platform(x: Maps, axes: Axes = None) -> tuple[Channels, Channels]:
    """`moments`, as fast on a CPU as with a shift of 0: it is used only where a channel needs it.

    There, in float32, subtracting a shift takes as long as a sum (`results/step/against.json`).
    """
    if x.dtype == jnp.bfloat16:
        return moments(x, axes)
    mean, var = lax.platform_dependent(x, cpu=_moments_on_cpu, default=moments)
    if axes is None:
        return mean, var
    own, mean = mean, lax.pmean(mean, axes)
    return mean, lax.pmean(var + (own - mean) ** 2, axes)


def _moments_on_cpu(x):
    mean, square = _sums(x, 0.0)
    var = square - mean * mean  # its error is 2**-24 of `square`
    return lax.cond(jnp.all(square <= 64 * var), lambda x: (mean, var), moments, x)


def _sums(x, s):
    x, over = x.astype(jnp.promote_types(x.dtype, jnp.float32)) - s, tuple(range(x.ndim - 1))
    return jnp.mean(x, over), jnp.mean(x * x, over)


def shift(x: Maps, axes: Axes) -> Channels | float:
    """Return a value near the mean of each channel, the same on all devices along `axes`, which carries no gradient.

    It is the mean of the pixels at the centre: a few values to read. bfloat16 needs none, since its 8 bits cannot hold
    a mean that is many times the deviation; there the statistics stay part of the convolution's program on a TPU.
    """
    if x.dtype == jnp.bfloat16:
        return 0.0
    centre = x[(slice(None), *(size // 2 for size in x.shape[1:-1]))]
    mean = jnp.mean(centre.astype(jnp.promote_types(x.dtype, jnp.float32)), 0)
    return lax.stop_gradient(mean if axes is None else lax.pmean(mean, axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _fast(x, scale, bias, epsilon, activate, pooling, axes):
    return _forward(x, scale, bias, epsilon, activate, pooling, axes)[0]


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _forward(x, scale, bias, epsilon, activate, pooling, axes):
    """Return the results, and what the gradient needs.

    The pooling is done before the rest, so that the large maps need not be normalized: y rises with x, or where the
    scale is negative with -x, and so its largest value in a window is that of the largest one, to the bit.
    """
    flipped, sign = _flip(x, scale, pooling)
    mean, var = moments_by_platform(flipped, axes)
    seen = flipped if pooling is None else max_pool(flipped, *pooling)
    y = normalize(seen, mean, var, scale * sign, bias, epsilon, activate)
    return (y, mean * sign, var), (x, seen, mean, var, scale, bias)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _backward(epsilon, activate, pooling, axes, kept, cotangents):
    x, seen, mean, var, scale, bias = kept
    inverse = lax.rsqrt(var + epsilon)
    dy, over, kind = cotangents[0], tuple(range(x.ndim - 1)), mean.dtype
    sign = _flip(x, scale, pooling)[1]
    factor = scale * sign * inverse
    recomputed = recompute if activate else lambda *arrays: arrays

    def through_relu(seen, dy, mean, factor, bias):
        """Return the gradient by what the ReLU reads."""
        dy = dy.astype(kind)
        return jnp.where((seen.astype(kind) - mean) * factor + bias > 0, dy, 0) if activate else dy

    seen_, dy, *rest = recomputed(seen, dy, mean, factor, bias)
    along = through_relu(seen_, dy, *rest)
    to_bias, to_scale = jnp.sum(along, over), jnp.sum(along * (seen_.astype(kind) - mean), over) * inverse
    share = jnp.stack([to_bias, to_scale]) / (x.size // x.shape[-1])
    if axes is not None:
        share = lax.pmean(share, axes)

    # Recomputed, and not kept: reading two arrays again is less than writing one and reading that.
    x_, seen_, share, dy, *rest = recomputed(x, None if pooling is None else seen, share, dy, *rest)
    flipped, _ = _flip(x_, scale, pooling)
    dx = through_relu(flipped if pooling is None else seen_, dy, *rest) * factor
    if pooling is not None:
        dx = jax.vjp(lambda x: max_pool(x, *pooling), flipped)[1](dx.astype(x.dtype))[0].astype(kind)
    dx -= factor * (share[0] + (flipped.astype(kind) - mean) * inverse * share[1])
    return (dx * sign).astype(x.dtype), (to_scale * sign).astype(scale.dtype), to_bias.astype(bias.dtype)


_fast.defvjp(_forward, _backward)


def _flip(x, scale, pooling):
    """Return what the result rises with, x or -x by channel, and the sign of each; without a pooling, simply x."""
    if pooling is None:
        return x, 1.0
    sign = jnp.where(scale < 0, -1.0, 1.0)
    return x * sign.astype(x.dtype), sign


@jax.jit
def recompute(*arrays: Array | None) -> tuple[Array | None, ...]:
    """Return the arrays as if they were others: a GPU's XLA then computes from them what it would otherwise keep."""
    return lax.platform_dependent(arrays, cpu=tuple, tpu=tuple, default=lax.optimization_barrier)
