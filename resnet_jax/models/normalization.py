"""BatchNorm, and the ReLU and max-pooling that may follow it, with gradients that read the maps as seldom as possible.

A train step is bound by memory, and most of what it reads and writes is for normalization. XLA's own gradient of
BatchNorm and ReLU reads and writes seven maps for each, and this one five: what was active is computed again, from what
the convolution gave, wherever it is needed.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.models.lowerings import Window, convolve
from resnet_jax.models.pooling import Pooling, max_pool

Maps = Float[Array, "*batch channels"]
OutMaps = Float[Array, "... channels"]
Channels = Float[Array, " channels"]
InMaps = Float[Array, "*batch in"]
Projection = Float[Array, "1 1 in out"]
ProjectedMaps = Float[Array, "*batch out"]
Out = Float[Array, " out"]
Axes = str | tuple[str, ...] | None


@jax.custom_vjp
def relu(x: Array) -> Array:
    """Return max(x, 0), whose gradient reads the result: it is kept anyway, for the convolution that comes next."""
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = relu(x)
    return y, y


def _relu_gradient(y, dy):
    (y,) = _anew(y)
    return (jnp.where(y > 0, dy, jnp.zeros_like(dy)),)


relu.defvjp(_relu_forward, _relu_gradient)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def normalize(
    x: Maps, scale: Channels, bias: Channels, epsilon: float, activate: bool, pooling: Pooling | None, axes: Axes
) -> tuple[OutMaps, Channels, Channels]:
    """Return maps normalized by their own mean and variance, and these two, which carry no gradient.

    y = (x - mean) / sqrt(var + epsilon) * scale + bias (Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1), then
    ReLU if `activate`, then a max-pooling if `pooling` is one. The variance is over N, the values of a channel on all
    devices along the mesh `axes`.

    The pooling is done before the rest, so that the large maps need not be normalized: y rises with x, or where the
    scale is negative with -x, and so its largest value in a window is that of the largest one, to the bit.
    """
    return _normalize(x, scale, bias, epsilon, activate, pooling, axes)[0]


# Programs of their own, so that equal ones of a network are traced and lowered once.
@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _normalize(x, scale, bias, epsilon, activate, pooling, axes):
    rising, sign = _rising(x, scale, pooling)
    over, wide = tuple(range(x.ndim - 1)), rising.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, square = jnp.mean(wide, over), jnp.mean(wide * wide, over)
    if axes is not None:
        mean, square = lax.pmean(jnp.stack([mean, square]), axes)
    var = jnp.maximum(square - mean * mean, 0)
    inverse = lax.rsqrt(var + epsilon)
    seen = rising if pooling is None else max_pool(rising, *pooling)
    y = affine(seen, mean, scale * sign * inverse, bias, activate)
    return (y, mean * sign, var), (x, seen, mean, inverse, scale, bias)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _gradients(epsilon, activate, pooling, axes, kept, cotangents):
    x, seen, mean, inverse, scale, bias = kept
    dy, over, kind = cotangents[0], tuple(range(x.ndim - 1)), mean.dtype
    sign = _rising(x, scale, pooling)[1]
    factor = scale * sign * inverse
    anew = _anew if activate else lambda *arrays: arrays

    def inside(seen, dy, factor, limit):
        """Return the gradient by what is activated."""
        dy = dy.astype(kind)
        return jnp.where(seen.astype(kind) * factor > limit, dy, 0) if activate else dy

    seen_, *rest = anew(seen, dy, factor, mean * factor - bias)
    along = inside(seen_, *rest)
    to_bias, to_scale = jnp.sum(along, over), jnp.sum(along * (seen_.astype(kind) - mean), over) * inverse
    share = jnp.stack([to_bias, to_scale]) / (x.size // x.shape[-1])
    if axes is not None:
        share = lax.pmean(share, axes)

    # Once more, and not kept: reading two maps again is less than writing one and reading that.
    x_, seen_, share, *rest = anew(x, None if pooling is None else seen, share, *rest)
    rising, _ = _rising(x_, scale, pooling)
    dx = inside(rising if pooling is None else seen_, *rest) * factor
    if pooling is not None:
        dx = jax.vjp(lambda x: max_pool(x, *pooling), rising)[1](dx.astype(x.dtype))[0].astype(kind)
    dx -= factor * (share[0] + (rising.astype(kind) - mean) * inverse * share[1])
    return (dx * sign).astype(x.dtype), (to_scale * sign).astype(scale.dtype), to_bias.astype(bias.dtype)


normalize.defvjp(_normalize, _gradients)


def project(
    x: InMaps, kernel: Projection, scale: Out, bias: Out, epsilon: float, axes: Axes
) -> tuple[ProjectedMaps, Out, Out]:
    """Return the maps of a 1x1 convolution normalized by their own mean and variance, and these two, as `normalize`."""
    ways = {None: _project_by_platform, True: project_by_covariance, False: project_by_maps}
    return ways[_by_covariance.get()](x, kernel, scale, bias, epsilon, axes)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _project_by_platform(x, kernel, scale, bias, epsilon, axes):
    by_covariance = functools.partial(project_by_covariance, epsilon=epsilon, axes=axes)
    by_maps = functools.partial(project_by_maps, epsilon=epsilon, axes=axes)
    return lax.platform_dependent(x, kernel, scale, bias, tpu=by_covariance, default=by_maps)


_by_covariance = contextvars.ContextVar("by_covariance", default=None)


@contextlib.contextmanager
def covariances(told: bool = True) -> Iterator[None]:
    """Let every projection that is traced inside be told by covariance, or none, whatever the platform."""
    before = _by_covariance.set(told)
    try:
        yield
    finally:
        _by_covariance.reset(before)


def project_by_maps(x, kernel, scale, bias, epsilon, axes):
    """`project` as it is said: a convolution, and then `normalize`."""
    y = convolve(x, kernel.astype(x.dtype), Window(1, 1, 1))
    return normalize(y, scale, bias, epsilon, False, None, axes)


def project_by_covariance(x, kernel, scale, bias, epsilon, axes):
    """`project` without the maps that are normalized: neither they nor their gradient are read again.

    With the mean m and the covariance C of what the convolution reads, y = w'x has the mean w'm and the variance w'Cw,
    for each column w of the kernel; the kernel is scaled before it is used. A bottleneck ends in maps four times as
    wide as x, so that C costs a quarter of the convolution and the gradient another. On a TPU a step of ResNet-50
    moves a fifth of its bytes less (`docs/performance.md`).
    """
    over, weights, exact = tuple(range(x.ndim - 1)), kernel[0, 0], lax.Precision.HIGHEST
    kind = jnp.promote_types(x.dtype, jnp.float32)
    mean = jnp.mean(x.astype(kind), over)
    products = lax.dot_general(x, x, ((over, over), ((), ())), precision=exact, preferred_element_type=kind)
    square = products / (x.size // x.shape[-1])
    if axes is not None:
        mean, square = lax.pmean((mean, square), axes)
    covariance = square - jnp.outer(mean, mean)
    var = jnp.maximum(jnp.sum(weights * jnp.dot(covariance, weights, precision=exact), 0), 0)
    mean = jnp.dot(mean, weights, precision=exact)
    factor = scale * lax.rsqrt(var + epsilon)
    y = convolve(x, (kernel * factor).astype(x.dtype), Window(1, 1, 1))
    return (y + (bias - mean * factor)).astype(x.dtype), lax.stop_gradient(mean), lax.stop_gradient(var)


def affine(x: Maps, mean: Channels, factor: Channels, bias: Channels, activate: bool) -> Maps:
    """Return (x - mean) * factor + bias, and ReLU of it if asked, in the type of `x`; the arithmetic is float32."""
    y = ((x.astype(mean.dtype) - mean) * factor + bias).astype(x.dtype)
    return nn.relu(y) if activate else y


def _rising(x, scale, pooling):
    """Return what the result rises with, x or -x by channel, and the sign of each; without a pooling, simply x."""
    if pooling is None:
        return x, 1.0
    sign = jnp.where(scale < 0, -1.0, 1.0)
    return x * sign.astype(x.dtype), sign


@jax.jit
def _anew(*arrays):
    """Return the arrays as if they were others: a GPU's XLA then computes from them what it would keep from before."""
    return lax.platform_dependent(arrays, cpu=tuple, tpu=tuple, default=lax.optimization_barrier)


class BatchNorm(nn.Module):
    """BatchNorm, whose running variance is torch's: of N values the sum of squares over N - 1, where Flax has N.

    A training batch is normalized by the variance over N in both libraries: only what evaluation uses later differs.
    N counts the batch and the pixels, on all devices that share statistics. A single value has no such variance, and
    its own, 0, is kept.

    Attributes:
      momentum: share of the running statistics that a batch leaves; torch's momentum is 1 less this.
      epsilon: added to the variance.
      unbiased: over N - 1; else over N.
      axis_name: mesh axis or axes over which a training batch's statistics are shared.
      scale_init: of the scales; the biases start at 0.
      dtype: of the result; the arithmetic is float32.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased: bool = True
    axis_name: Axes = None
    scale_init: Callable = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch _"],
        use_running_average: bool,
        activate: bool = False,
        pooling: Pooling | None = None,
        kernel: Projection | None = None,
    ) -> OutMaps:
        """Return the normalized maps; in training, also move the statistics.

        With `activate`, they pass a ReLU, and with `pooling` a max-pooling after it. With a `kernel`, of (1, 1, in,
        channels), they are the maps of that convolution of `x`, and are not pooled.
        """
        x, channels = jnp.asarray(x, self.dtype), (x if kernel is None else kernel).shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale = jnp.asarray(self.param("scale", self.scale_init, channels, jnp.float32))
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, channels, jnp.float32))
        if use_running_average:
            x = x if kernel is None else convolve(x, kernel.astype(x.dtype), Window(1, 1, 1))
            y = affine(x, jnp.asarray(mean.value), scale * lax.rsqrt(var.value + self.epsilon), bias, activate)
            return y if pooling is None else max_pool(y, *pooling)
        axes = None if self.is_initializing() else self.axis_name
        if kernel is None:
            y, batch_mean, batch_var = normalize(x, scale, bias, self.epsilon, activate, pooling, axes)
        else:
            y, batch_mean, batch_var = project(x, kernel, scale, bias, self.epsilon, axes)
            y = relu(y) if activate else y
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            count = x.size // x.shape[-1] * (1 if axes is None else lax.psum(1, axes))
            over = count / max(count - 1, 1) if self.unbiased else 1.0
            mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
            var.value = self.momentum * var.value + (1 - self.momentum) * over * batch_var
        return y


class FrozenBatchNorm(BatchNorm):
    """A BatchNorm that uses its running statistics in training too, and leaves them as they are."""

    def __call__(self, x: Float[Array, "*batch _"], use_running_average: bool, *given: Any, **more: Any) -> OutMaps:
        """Return `x` normalized by the running statistics, whatever is asked for."""
        return super().__call__(x, True, *given, **more)
