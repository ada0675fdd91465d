"""The first variables of a network, drawn without running or compiling the network."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray, eval_jaxpr
from jax.extend.core import Primitive, Var
from jax.extend.random import threefry_2x32
from jax.interpreters import batching, mlir
from jaxtyping import Array, Float, UInt32

CHUNK = 2**16  # normal numbers that one call draws
GENERATOR = "threefry2x32"


def initialize(model: nn.Module, key: jax.Array, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return `model.init(key, images)` for images of a shape (height, width, channels), up to rounding.

    The network is traced, and of the equations only those run on which its variables depend.
    """
    if hasattr(model, "implementation"):
        model = model.clone(implementation="reference")  # the quickest to trace; no variable depends on it
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    program, variables = jax.make_jaxpr(model.init, return_shape=True)(key, images)
    jaxpr = program.jaxpr
    needed, equations = set(filter(is_variable, jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(filter(is_variable, equation.invars))
            equations.insert(0, equation)
    if jaxpr.invars[1] in needed:
        images = jnp.zeros(images.shape, images.dtype)
    values = eval_jaxpr(jaxpr.replace(eqns=equations), program.consts, key, images)
    return jax.tree.unflatten(jax.tree.structure(variables), values)


def is_variable(atom: Any) -> bool:
    """Return whether an atom of a jaxpr is a variable, and not a literal."""
    return isinstance(atom, Var)


def constant(value: float) -> Callable[..., Array]:
    """Return an initializer whose arrays hold one value. They come from NumPy: JAX would compile one for each shape."""

    def init(key, shape, dtype=jnp.float32):
        return jnp.asarray(np.full(shape, value, dtype))

    return init


zeros, ones = constant(0.0), constant(1.0)


def kaiming(mode: Literal["fan_in", "fan_out"]) -> Callable[..., Array]:
    """Return an initializer: normal numbers with variance 2 / fan (He et al. 2015, arXiv:1502.01852).

    Outside of `jax.jit` it draws by one small program for kernels of all shapes: JAX would compile one for each, and
    take a quarter of a second for it.

    Args:
      mode: "fan_in" or "fan_out"; a fan is the kernel's rows times columns times input or output channels.
    """
    by_jax = nn.initializers.variance_scaling(2.0, mode, "normal")

    def init(key, shape, dtype=jnp.float32):
        if dtype != jnp.float32 or not draws_like_jax(key):
            return by_jax(key, shape, dtype)
        fan = math.prod(shape[:-2]) * shape[-1 if mode == "fan_out" else -2]
        return normal_p.bind(jax.random.key_data(key), shape=shape) * np.sqrt(np.float32(2.0 / fan))

    return init


def normal(bits: UInt32[Array, "2"], shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Return `jax.random.normal(key, shape)` for a key of these bits, up to rounding, by one program for all shapes.

    Number i depends on the key and i alone ("partitionable" in JAX), so that consecutive chunks form the whole.
    """
    count = math.prod(shape)
    chunks = [_chunk(bits, np.uint32(start)) for start in range(0, count, CHUNK)]
    return jnp.asarray(np.concatenate([np.asarray(chunk) for chunk in chunks])[:count].reshape(shape))


def _normal_by_jax(bits: UInt32[Array, "2"], *, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    return jax.random.normal(jax.random.wrap_key_data(bits, impl=GENERATOR), shape)


def _batched(arrays, axes, *, shape):
    return jax.vmap(functools.partial(_normal_by_jax, shape=shape), axes)(*arrays), 0


# Of the bits of a key to normal numbers of a shape: `normal` where it is called, JAX's own inside a program.
normal_p = Primitive("normal")
normal_p.def_impl(normal)
normal_p.def_abstract_eval(lambda bits, shape: ShapedArray(shape, jnp.float32))
mlir.register_lowering(normal_p, mlir.lower_fun(_normal_by_jax, multiple_results=False))
batching.primitive_batchers[normal_p] = _batched


@jax.jit
def _chunk(bits: UInt32[Array, "2"], start: UInt32[Array, ""]) -> Float[Array, " chunk"]:
    places = jnp.stack([jnp.zeros(CHUNK, jnp.uint32), start + jnp.arange(CHUNK, dtype=jnp.uint32)])
    high, low = threefry_2x32(bits, places)
    mantissa = ((high ^ low) >> 9) | np.float32(1).view(np.uint32)
    uniform = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1  # [0, 1)
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(jnp.maximum(lowest, uniform * (1 - lowest) + lowest))


def draws_like_jax(key: jax.Array) -> bool:
    """Return whether `normal` knows how JAX draws with this key."""
    config: Any = jax.config
    return config.jax_threefry_partitionable and jax.random.key_impl(key) == GENERATOR
