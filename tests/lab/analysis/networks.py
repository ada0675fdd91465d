"""Networks whose measurements are known, and small ones of each kind."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import create_model
from resnet_jax.models.blocks import Block
from resnet_jax.models.layers import Conv
from tests.models.reference import scrambled

SMALL = dict(stage_widths=(4,), stem_width=4, num_classes=5, stem="cifar")
KINDS = {
    "post-activation": dict(),
    "pre-activation": dict(activation_order="preactivation"),
    "bottleneck with gates": dict(block="bottleneck", expansion=1, se_reduction=4),
    "plain": dict(shortcut="none"),
}


class Times(Block):
    """A block whose branch multiplies by a number."""

    factor: float = 0.5

    def __call__(self, x, train):
        return self.join(self.factor * x, x)


class Linear(nn.Module):
    """A linear network: a 1x1 convolution, blocks that each multiply by 1 + factor, the mean, and a head."""

    factors: tuple[float, ...]
    num_classes: int = 3
    dtype: type = jnp.float32
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    norm_unbiased: bool = True
    norm_frozen: bool = False
    norm_axis: str | None = None
    implementation: str = "fast"

    @nn.compact
    def __call__(self, images, train=False):
        x = Conv(4, 1, name="conv")(images)
        for i, factor in enumerate(self.factors, start=1):
            x = Times(4, factor=factor, name=f"stage1_block{i}")(x, train)
        return nn.Dense(self.num_classes, name="head")(jnp.mean(x, axis=(1, 2)))


def small(kind, blocks=(3,), **fields):
    """Return a small network of a kind, its scrambled variables, and images and labels."""
    model = create_model("resnet18", stage_sizes=blocks, **SMALL | KINDS.get(kind, {}) | fields)
    images, labels = examples(6)
    return model, scrambled(jax.eval_shape(model.init, jax.random.key(0), images)), images, labels


def linear(*factors):
    """Return a linear network, its variables, and images and labels."""
    model, (images, labels) = Linear(factors), examples(6)
    return model, scrambled(jax.eval_shape(model.init, jax.random.key(0), images)), images, labels % 3


def examples(count):
    random = np.random.default_rng(1)
    return jnp.asarray(random.normal(size=(count, 8, 8, 2)), jnp.float32), np.arange(count, dtype=np.int32) % 5


def softmax(logits):
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)
