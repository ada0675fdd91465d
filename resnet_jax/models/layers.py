"""The layers of all networks: convolution, BatchNorm, squeeze-and-excitation, and how their parameters start."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from resnet_jax import ops
from resnet_jax.errors import ConfigError
from resnet_jax.models.initialization import kaiming, ones, zeros

Images = Float[Array, "batch height width channels"]
Maps = Float[Array, "batch height width channels"]
OutMaps = Float[Array, "batch out_height out_width out_channels"]
Axes = str | tuple[str, ...] | None

BLURRED = 16  # input channels from which on a strided convolution is blurred, where a network asks for it

# Normal with variance 2 / (kernel height * kernel width * output channels): He et al. 2015 (arXiv:1502.01852), section
# 2.2, in the fan-out form of fb.resnet.torch and torchvision.
kaiming_fan_out = kaiming("fan_out")
# The same of input channels: torch's kaiming_normal_ as it is, with which torchvision starts DenseNet.
kaiming_fan_in = kaiming("fan_in")
# Uniform within 1 / sqrt(inputs), the linear layer of torch; the bias starts at 0, as in fb.resnet.torch.
torch_linear = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Conv(nn.Module):
    """A convolution; `groups` is the cardinality of Xie et al. 2017 (arXiv:1611.05431). A bias starts at 0.

    Both sides are padded by `(kernel_size - 1) // 2 * dilation`. `padding="SAME"` would pad (0, 1) where the stride is
    2, and weights of other libraries would then give other logits.

    Attributes:
      channels: of the output.
      kernel_size: rows and columns of the kernel, whose shape is (rows, columns, in_channels / groups, channels).
      stride: pixels between two outputs.
      groups: in which the channels are convolved.
      dilation: the kernel reads every `dilation`-th pixel.
      bias: whether a bias is added.
      blurs: average what a stride skips (`ops.blur`), if there are at least `BLURRED` input channels.
      dtype: of the computation.
      implementation: of `ops.convolve`.
      kernel_init: of the kernel.
    """

    channels: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    bias: bool = False
    blurs: bool = False
    dtype: Any = jnp.float32
    implementation: str = "fast"
    kernel_init: Callable = kaiming_fan_out

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width in"]) -> Float[Array, "batch out_height out_width channels"]:
        """Return feature maps of `ceil(size / stride)` pixels a side."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.channels)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x = jnp.asarray(x, self.dtype)
        if self.blurs and self.stride > 1 and x.shape[-1] >= BLURRED:
            x = ops.blur(x)
        window = ops.Window(self.stride, self.dilation, self.groups)
        y = ops.convolve(x, jnp.asarray(kernel, self.dtype), window, self.implementation)
        if self.bias:
            y = y + self.param("bias", zeros, (self.channels,), jnp.float32).astype(self.dtype)
        return y


class BatchNorm(nn.Module):
    """BatchNorm with torch's running variance: the sum of squares over N - 1, where Flax divides by N.

    A training batch is normalized by the variance over N in both libraries: only what evaluation uses later differs.
    N counts the batch and the pixels, on all devices that share statistics.

    Attributes:
      momentum: share of the running statistics that a batch leaves; torch's momentum is 1 less this.
      epsilon: added to the variance.
      unbiased: keep the variance over N - 1; else over N.
      axis_name: mesh axis or axes over which a training batch's statistics are shared.
      frozen: use the running statistics in training too, and leave them as they are.
      scale_init: of the scales; the biases start at 0.
      dtype: of the result; the arithmetic is float32.
      implementation: of `ops.batch_norm`.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased: bool = True
    axis_name: Axes = None
    frozen: bool = False
    scale_init: Callable = ones
    dtype: Any = jnp.float32
    implementation: str = "fast"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch channels"],
        use_running_average: bool,
        activate: bool = False,
        pooling: ops.Pooling | None = None,
    ) -> Float[Array, "... channels"]:
        """Return the normalized maps, after a ReLU with `activate` and a max-pooling with `pooling`.

        In training the running statistics move too. Raises ConfigError if a channel then has a single value, which
        would be normalized to 0.
        """
        x, channels = jnp.asarray(x, self.dtype), x.shape[-1:]
        mean = self.variable("batch_stats", "mean", zeros, None, channels)
        var = self.variable("batch_stats", "var", ones, None, channels)
        scale = jnp.asarray(self.param("scale", self.scale_init, channels, jnp.float32))
        bias = jnp.asarray(self.param("bias", zeros, channels, jnp.float32))
        if use_running_average or self.frozen:
            y = ops.normalize(x, jnp.asarray(mean.value), var.value, scale, bias, self.epsilon, activate)
            return y if pooling is None else ops.max_pool(y, *pooling, implementation=self.implementation)
        fields: dict[str, Any] = dict(epsilon=self.epsilon, implementation=self.implementation)
        axes = None if self.is_initializing() else self.axis_name
        y, batch_mean, batch_var = ops.batch_norm(
            x, scale, bias, activate=activate, pooling=pooling, axes=axes, **fields
        )
        self.update(batch_mean, batch_var, x.size // x.shape[-1])
        return y

    def update(self, mean: Float[Array, " channels"], var: Float[Array, " channels"], values: int) -> None:
        """Move the running statistics towards those of a batch with `values` values a channel on this device."""
        if self.is_initializing():
            return
        count = values * (1 if self.axis_name is None else lax.psum(1, self.axis_name))
        if isinstance(count, int) and count < 2:
            raise ConfigError(
                "BatchNorm cannot train on one value a channel, which it would normalize to 0: use larger images, more "
                "of them on each device, shared statistics (parallel.norm_scope), or norm_frozen."
            )
        if not self.is_mutable_collection("batch_stats"):
            return
        unbiased = count / (count - 1) if self.unbiased else 1.0
        for name, new in (("mean", mean), ("var", unbiased * var)):
            old = self.get_variable("batch_stats", name)
            self.put_variable("batch_stats", name, self.momentum * old + (1 - self.momentum) * new)


def conv_norm(conv: nn.Module, norm: nn.Module, x: Maps, train: bool, activate: bool = False) -> OutMaps:
    """Return norm(conv(x)): in one operation where `ops.project` has one (on a TPU in training), else in two."""
    if not (train and isinstance(conv, Conv) and isinstance(norm, BatchNorm) and _projects(conv, norm, x)):
        return norm(conv(x), not train, activate=activate)
    kernel = conv.get_variable("params", "kernel")
    scale, bias = (norm.get_variable("params", name) for name in ("scale", "bias"))
    x = jnp.asarray(x, norm.dtype)
    y, mean, var = ops.project(x, kernel, scale, bias, norm.epsilon, norm.axis_name, norm.implementation)
    norm.update(mean, var, x.size // x.shape[-1])
    return ops.relu(y) if activate else y


def _projects(conv: Conv, norm: BatchNorm, x: Maps) -> bool:
    """Return whether `ops.project` serves a convolution and the BatchNorm after it."""
    pointwise = conv.kernel_size == conv.stride == conv.groups == 1 and not conv.bias
    trained = not norm.frozen and norm.implementation != "reference" and not conv.is_initializing()
    return pointwise and trained and ops.widens(x.shape[-1], conv.channels)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate that sees the mean of every channel (Hu et al. 2018, arXiv:1709.01507, section 3).

    gates = sigmoid(W2 relu(W1 means + b1) + b2). The hidden layer has `channels / reduction` units, rounded to a
    multiple of 8 and at least 8, as timm rounds them. Both layers are 1x1 convolutions, as in timm's files.
    """

    reduction: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        """Return `x` with its channels scaled."""
        channels = x.shape[-1]
        hidden = max(8, int(channels / self.reduction + 4) // 8 * 8)
        dense = functools.partial(nn.Conv, kernel_size=(1, 1), dtype=self.dtype, kernel_init=kaiming_fan_out)
        means = jnp.mean(x, axis=(1, 2), keepdims=True)
        return x * nn.sigmoid(dense(channels, name="fc2")(nn.relu(dense(hidden, name="fc1")(means))))


def drop_path(x: Maps, rate: float, key: jax.Array) -> Maps:
    """Zero whole examples with probability `rate` and scale the others up (Huang et al. 2016, arXiv:1603.09382)."""
    keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0], 1, 1, 1))
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


def layers_of(net: Any, **conv_fields: Any) -> dict[str, Callable[..., Any]]:
    """Return `conv` and `norm`, which make the layers of a network as its fields say."""
    common = dict(dtype=net.dtype, implementation=net.implementation)
    norm = functools.partial(
        BatchNorm,
        momentum=net.norm_momentum,
        epsilon=net.norm_epsilon,
        unbiased=net.norm_unbiased,
        frozen=net.norm_frozen,
        axis_name=net.norm_axis,
        **common,
    )
    return dict(conv=functools.partial(Conv, **common, **conv_fields), norm=norm)


def check_choices(net: nn.Module, **choices: tuple[str, ...]) -> None:
    """Raise ConfigError if a field of `net` has none of its allowed values."""
    for field, allowed in choices.items():
        if (value := getattr(net, field)) not in allowed:
            names = ", ".join(name or "empty" for name in allowed)
            raise ConfigError(f"the network's {field} is {value!r}: use one of {names}.")


def check_at_least(net: nn.Module, least: int, *fields: str) -> None:
    """Raise ConfigError if a field of `net`, a number or several, is below `least`."""
    for field in fields:
        value = getattr(net, field)
        if min(value if isinstance(value, tuple) else (value,), default=math.inf) < least:
            raise ConfigError(f"the network's {field} is {value!r}: use {least} or more.")
