"""What a network costs: its parameters, and the multiply-adds of one image."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Costs(NamedTuple):
    """Attributes:
    params: trained values; running statistics are none.
    macs: multiply-adds of all convolutions and dense layers for one image, as torchvision and papers count.
    """

    params: int
    macs: int


def costs(model: nn.Module, image_shape: tuple[int, int, int]) -> Costs:
    """Return what a network costs for one image of (height, width, channels).

    Both are read off the traced program, so they are those of the function that runs.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    trace = jax.make_jaxpr(lambda images: model.init_with_output(jax.random.key(0), images), return_shape=True)
    program, (_, variables) = trace(images)
    params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    return Costs(params, _count(program.jaxpr))


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
