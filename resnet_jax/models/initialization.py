"""The first variables of a network, drawn without compiling the network."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Var, jaxpr_as_fun
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, UInt32

from resnet_jax.models import lowerings

CHUNK = 2**16  # normal numbers that one call draws


def initialize(model: nn.Module, key: jax.Array, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return `model.init(key, images)` for images of a shape (height, width, channels), up to rounding.

    `jax.jit(model.init)` compiles for half a minute where a network is deep, and without `jit` the network runs. Here
    it is traced, and of the program only that is run which a variable depends on: the random numbers. Normal ones
    come from one small program for kernels of all shapes, where JAX would compile one for each.
    """
    arguments = (key, jnp.zeros((1, *image_shape)))
    with lowerings.use("xla"):  # the quickest to trace; no variable depends on it
        traced, shapes = jax.make_jaxpr(model.init, return_shape=True)(*arguments)
    program = traced.jaxpr
    draws = [equation for equation in program.eqns if _is_normal(equation)] if _knows_bits(key) else []

    def run(program, *given):
        return jaxpr_as_fun(ClosedJaxpr(without_idle_equations(program), traced.consts))(*arguments, *given)

    keys = run(program.replace(outvars=[equation.invars[0] for equation in draws])) if draws else ()
    drawn = [equation.outvars[0] for equation in draws]
    others = [equation for equation in program.eqns if equation not in draws]
    program = program.replace(invars=[*program.invars, *drawn], eqns=others)
    numbers = [normal(each, made.aval.shape) for each, made in zip(keys, drawn, strict=True)]
    # What is left are constants and factors: compiled as one they take less than one after the other, and are kept.
    return jax.tree.unflatten(jax.tree.structure(shapes), jax.jit(lambda *given: run(program, *given))(*numbers))


def without_idle_equations(program: Any) -> Any:
    """Return a program (a jaxpr) without the equations that none of its results depends on."""
    needed, kept = set(program.outvars), []
    for equation in reversed(program.eqns):
        if not needed.isdisjoint(equation.outvars):
            kept.append(equation)
            needed.update(operand for operand in equation.invars if isinstance(operand, Var))
    return program.replace(eqns=kept[::-1])


def normal(key: jax.Array, shape: tuple[int, ...]) -> Float[np.ndarray, "*shape"]:
    """Return `jax.random.normal(key, shape)`, up to rounding, by a program that does not depend on the shape.

    Number i depends on the key and i alone ("partitionable" in JAX), so that chunks put one after the other are it.
    """
    count, bits = math.prod(shape), jax.random.key_data(key)
    chunks = [_chunk(bits, np.uint32(start)) for start in range(0, count, CHUNK)]
    return np.concatenate([np.asarray(chunk) for chunk in chunks])[:count].reshape(shape)


@jax.jit
def _chunk(bits: UInt32[Array, "2"], start: UInt32[Array, ""]) -> Float[Array, " chunk"]:
    places = jnp.stack([jnp.zeros(CHUNK, jnp.uint32), start + jnp.arange(CHUNK, dtype=jnp.uint32)])
    high, low = threefry_2x32(bits, places)
    mantissa = ((high ^ low) >> 9) | np.float32(1).view(np.uint32)
    uniform = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1  # [0, 1)
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(jnp.maximum(lowest, uniform * (1 - lowest) + lowest))


def _is_normal(equation: Any) -> bool:
    made = equation.outvars[0].aval
    return equation.params.get("name") == "_normal" and made.dtype == jnp.float32 and made.size < 2**32


def _knows_bits(key: jax.Array) -> bool:
    return jax.config.jax_threefry_partitionable and jax.random.key_impl(key) == "threefry2x32"
