"""A 1x1 convolution and the BatchNorm after it, in one operation.

The statistics of y = w'x follow from the mean m and the covariance C of x: mean w'm and variance w'Cw for each column w
of the kernel. The kernel is then scaled before it is used, and neither y before normalization nor its gradient is read.
A bottleneck ends in maps four times as wide as x, so that C costs a quarter of the convolution and the gradient
another. On a TPU a step of ResNet-50 moves a fifth of its bytes less (results/accelerators/tpu.json: counted, not
timed); on a CPU it takes 1.1 times as long (results/step/cpu_covariance.json), and on a GPU it was not timed.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.ops.batch_norm import Axes, batch_norm, shift
from resnet_jax.ops.convolution import Window, convolve

InMaps = Float[Array, "*batch in"]
OutMaps = Float[Array, "*batch out"]
Projection = Float[Array, "1 1 in out"]
Out = Float[Array, " out"]


def widens(in_channels: int, out_channels: int) -> bool:
    """Return whether a 1x1 convolution at least doubles its channels, so that the covariance is the cheaper way."""
    return out_channels >= 2 * in_channels


def project(
    x: InMaps, kernel: Projection, scale: Out, bias: Out, epsilon: float, axes: Axes, implementation: str = "fast"
) -> tuple[OutMaps, Out, Out]:
    """Return `batch_norm(convolve(x, kernel))` with its mean and variance, which carry no gradient.

    Args:
      x: maps of shape (batch, height, width, in_channels).
      kernel: float32 of shape (1, 1, in_channels, out_channels).
      scale, bias: one value for each of the out_channels.
      epsilon, axes: as in `batch_norm`.
      implementation: "reference", "fast" (by covariance on a TPU, else by the maps), or to measure them
        "fast_covariance" and "fast_maps".
    """
    if implementation == "fast":
        return _by_platform(x, kernel, scale, bias, epsilon, axes)
    if implementation == "fast_covariance":
        return by_covariance(x, kernel, scale, bias, epsilon, axes)
    return by_maps(x, kernel, scale, bias, epsilon, axes, implementation)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _by_platform(x, kernel, scale, bias, epsilon, axes):
    covariance, maps = (functools.partial(way, epsilon=epsilon, axes=axes) for way in (by_covariance, by_maps))
    return lax.platform_dependent(x, kernel, scale, bias, tpu=covariance, default=maps)


def by_maps(x, kernel, scale, bias, epsilon, axes, implementation="fast"):
    """`project` as a convolution and then BatchNorm."""
    y = convolve(x, kernel.astype(x.dtype), Window(), implementation)
    return batch_norm(y, scale, bias, epsilon=epsilon, axes=axes, implementation=implementation)


def by_covariance(x, kernel, scale, bias, epsilon, axes):
    """`project` by mean and covariance of `x`, which is shifted first as in `moments`."""
    over, weights, exact = tuple(range(x.ndim - 1)), kernel[0, 0], lax.Precision.HIGHEST
    kind, s = jnp.promote_types(x.dtype, jnp.float32), shift(x, axes)
    x = (x - s).astype(x.dtype)
    mean = jnp.mean(x.astype(kind), over)
    products = lax.dot_general(x, x, ((over, over), ((), ())), precision=exact, preferred_element_type=kind)
    square = products / (x.size // x.shape[-1])
    if axes is not None:
        mean, square = lax.pmean((mean, square), axes)
    covariance = square - jnp.outer(mean, mean)
    var = jnp.maximum(jnp.sum(weights * jnp.dot(covariance, weights, precision=exact), 0), 0)
    factor = scale * lax.rsqrt(var + epsilon)
    y = convolve(x, (kernel * factor).astype(x.dtype), Window())
    y = (y + (bias - jnp.dot(mean, weights, precision=exact) * factor)).astype(x.dtype)
    mean = jnp.dot(mean + s, weights, precision=exact)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)
