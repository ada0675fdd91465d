"""Gradient norm by layer: what reaches each convolution, and each block, from the loss."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet_jax.lab.analysis.hooks import Images, Labels, Variables, blocks, calls, tapped, without_chance
from resnet_jax.models.layers import Conv
from resnet_jax.training.losses import cross_entropy


class GradientNorms(NamedTuple):
    """Norms of gradients, in the order in which the network computes its layers.

    Attributes:
      kernels: path of a convolution to the root mean square of the gradient of the mean loss by its kernel's values.
      inputs: name of a block to the norm of the gradient of an example's loss by the block's input, of which the root
        mean square over examples is taken. Empty for a network without blocks.
    """

    kernels: dict[str, float]
    inputs: dict[str, float]


def gradient_norms(
    model: nn.Module,
    variables: Variables,
    images: Images,
    labels: Labels,
) -> GradientNorms:
    """Return the norms of the gradients of the cross-entropy, with batch statistics as in training.

    Under batch statistics a loss depends on the others' inputs too: the gradient is that of the summed loss.
    """
    model, images = without_chance(model), jnp.asarray(images)
    targets = jax.nn.one_hot(labels, model.num_classes)
    order = calls(model, variables, images[:1], (Conv, nn.Conv))
    seen = blocks(model, variables, images)
    zeros = {block.name: jnp.zeros(block.input) for block in seen}

    key = jax.random.key(0)

    def loss(params, taps):
        with tapped(taps):
            everything = variables | {"params": params}
            logits, _ = model.apply(everything, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        return jnp.sum(cross_entropy(logits, targets))

    @jax.jit
    def norms(params, taps):
        by_params, by_input = jax.grad(loss, argnums=(0, 1))(params, taps)
        by_kernel = {path: jnp.sqrt(jnp.mean(kernel(by_params, path) ** 2)) / len(images) for path in order}
        return by_kernel, {name: jnp.sqrt(jnp.sum(taps**2) / len(images)) for name, taps in by_input.items()}

    kernels, inputs = jax.device_get(norms(variables["params"], zeros))
    return GradientNorms(
        {path: float(kernels[path]) for path in order}, {block.name: float(inputs[block.name]) for block in seen}
    )


def kernel(params: dict, path: str) -> Float[np.ndarray | Array, "height width in out"]:
    """Return the kernel of the convolution at a path such as "stage1_block1/conv1"."""
    for part in path.split("/"):
        params = params[part]
    return params["kernel"]
