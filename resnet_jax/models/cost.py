"""What a network costs: its parameters, and the multiply-adds of one image."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.models import lowerings


def parameters(model: nn.Module, image_size: int, channels: int = 3) -> int:
    """Return the number of trained values; running statistics are none."""
    images = jnp.zeros((1, image_size, image_size, channels))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def multiply_adds(model: nn.Module, image_size: int, channels: int = 3) -> int:
    """Return the multiply-adds of all convolutions and dense layers for one image, as torchvision and papers count.

    They are read off the traced program, so they are those of the function that runs.
    """
    images = jnp.zeros((1, image_size, image_size, channels))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    with lowerings.use("xla"):  # the others multiply by zeros too, or inside a library
        program = jax.make_jaxpr(lambda variables: model.apply(variables, images, train=False))(variables)
    return _count(program.jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel, layout = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec
            total += equation.outvars[0].aval.size * math.prod(kernel) // kernel[layout[0]]
        elif equation.primitive.name == "dot_general":
            left, ((contracted, _), _) = equation.invars[0].aval.shape, equation.params["dimension_numbers"]
            total += equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            total += _count(inner) if hasattr(inner, "eqns") else 0
    return total
