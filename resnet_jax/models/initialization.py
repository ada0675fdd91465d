"""The first variables of a network, drawn without compiling the network."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Var, jaxpr_as_fun


def initialize(model: nn.Module, key: jax.Array, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return `model.init(key, images)` for images of a shape (height, width, channels), up to rounding.

    `jax.jit(model.init)` compiles for half a minute where a network is deep, and without `jit` the network runs. Here
    it is traced, and of the program only that is run which a variable depends on: the random numbers.
    """
    program, shapes = jax.make_jaxpr(model.init, return_shape=True)(key, jnp.zeros((1, *image_shape)))
    draws = jaxpr_as_fun(ClosedJaxpr(without_idle_equations(program.jaxpr), program.consts))
    return jax.tree.unflatten(jax.tree.structure(shapes), draws(key, jnp.zeros((1, *image_shape))))


def without_idle_equations(program: Any) -> Any:
    """Return a program (a jaxpr) without the equations that none of its results depends on."""
    needed, kept = set(program.outvars), []
    for equation in reversed(program.eqns):
        if not needed.isdisjoint(equation.outvars):
            kept.append(equation)
            needed.update(operand for operand in equation.invars if isinstance(operand, Var))
    return program.replace(eqns=kept[::-1])
