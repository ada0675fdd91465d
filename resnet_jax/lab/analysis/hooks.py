"""The parts of a network, watched and changed from outside while it is computed: the network has no code for it.

Each of the contexts here intercepts methods of Flax modules (`nn.intercept_methods`). What is computed, or traced for a
compiled program, within the context is changed; the network's fields and variables stay as they are.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from resnet_jax.errors import ConfigError
from resnet_jax.models.blocks import Block
from resnet_jax.models.layers import BatchNorm
from resnet_jax.ops import max_pool

Images = Float[Array | np.ndarray, "batch height width channels"]
Labels = Int[Array | np.ndarray, " batch"]
Variables = dict[str, Any]


class SeenBlock(NamedTuple):
    """A block of a network, as images pass it.

    Attributes:
      name: of its module, such as "stage1_block1".
      input, output: shapes of its feature maps, (batch, height, width, channels).
      residual: it has a shortcut.
    """

    name: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    residual: bool

    @property
    def keeps_shape(self) -> bool:
        """The output has the shape of the input."""
        return self.input == self.output


def blocks(model: nn.Module, variables: Variables, images: Images) -> list[SeenBlock]:
    """Return the blocks of a network in the order in which they are computed; a DenseNet has none.

    The network is traced, and nothing is computed.
    """
    found, joined = [], set()

    def watch(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if isinstance(context.module, Block):
            name = str(context.module.name)
            if context.method_name == "join":
                joined.add(name)
            elif context.method_name == "__call__":
                found.append(SeenBlock(name, args[0].shape, result.shape, name in joined))
        return result

    _trace(watch, model, variables, images)
    return found


def calls(
    model: nn.Module, variables: Variables, images: Images, kind: type[nn.Module] | tuple[type[nn.Module], ...]
) -> list[str]:
    """Return the paths of the modules of a class, such as "stage1_block1/conv1", in the order of their first calls."""
    paths = {}

    def watch(call, args, kwargs, context):
        if isinstance(context.module, kind) and context.method_name == "__call__":
            paths["/".join(context.module.path)] = None
        return call(*args, **kwargs)

    _trace(watch, model, variables, images)
    return list(paths)


@contextlib.contextmanager
def gated(gates: dict[str, Array]) -> Iterator[None]:
    """Take blocks out: one whose gate is 0 gives its shortcut alone, or where it has none, its input.

    An identity shortcut then passes the maps as they are: what comes into a block of ReLU(shortcut + branch) is 0 or
    more. A projection, or a shortcut that subsamples and adds channels, stays. Gates are scalars by the block's name,
    and may be traced; 1 changes nothing.

    Raises ValueError at the end if no block of a name was computed.
    """
    unseen = set(gates)

    def change(call, args, kwargs, context):
        module, method = context.module, context.method_name
        gate = gates.get(str(module.name)) if isinstance(module, Block) else None
        unseen.discard(str(module.name))
        if gate is not None and method == "join":
            branch, shortcut = args
            return call(jnp.where(gate, branch, jnp.zeros_like(branch)), shortcut)
        if gate is not None and method == "__call__" and module.shortcut == "none":
            return jnp.where(gate, call(*args, **kwargs), args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(change):
        yield
    if unseen:
        raise ValueError(f"the network has no blocks {sorted(unseen)}: `blocks` lists those that it has")


@contextlib.contextmanager
def routed(through_branch: dict[str, Array]) -> Iterator[None]:
    """Let gradients pass each block on one way alone: its branch where `through_branch` is 1, its shortcut where 0.

    Values stay what they are. The gates are scalars by the block's name, and may be traced.
    """

    def change(call, args, kwargs, context):
        if isinstance(context.module, Block) and context.method_name == "join":
            branch, shortcut = args
            chosen = jnp.asarray(through_branch[str(context.module.name)], branch.dtype)
            return call(_scale_gradient(branch, chosen), _scale_gradient(shortcut, 1 - chosen))
        return call(*args, **kwargs)

    with nn.intercept_methods(change):
        yield


@contextlib.contextmanager
def tapped(taps: dict[str, Array]) -> Iterator[None]:
    """Add arrays to the inputs of blocks, by the block's name: a gradient by one of 0 is that by the block's input."""

    def change(call, args, kwargs, context):
        if isinstance(context.module, Block) and context.method_name == "__call__" and context.module.name in taps:
            args = (args[0] + taps[str(context.module.name)].astype(args[0].dtype), *args[1:])
        return call(*args, **kwargs)

    with nn.intercept_methods(change):
        yield


@contextlib.contextmanager
def recorded(kind: type[nn.Module]) -> Iterator[dict[str, Array]]:
    """Give a dict that fills with what the modules of a class return, by their paths."""
    results = {}

    def watch(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if isinstance(context.module, kind) and context.method_name == "__call__":
            results["/".join(context.module.path)] = result
        return result

    with nn.intercept_methods(watch):
        yield results


@contextlib.contextmanager
def normalized() -> Iterator[dict[str, Array]]:
    """Give a dict that fills with what BatchNorms return, before a ReLU or a pooling that ends them, by paths."""
    results = {}

    def watch(call, args, kwargs, context):
        if not isinstance(context.module, BatchNorm) or context.method_name != "__call__":
            return call(*args, **kwargs)
        path, after = "/".join(context.module.path), dict(kwargs)
        activate, pooling = after.pop("activate", False), after.pop("pooling", None)
        results[path] = y = call(*args, **after)
        y = nn.relu(y) if activate else y
        return y if pooling is None else max_pool(y, *pooling)

    with nn.intercept_methods(watch):
        yield results


def without_chance(model: nn.Module) -> nn.Module:
    """Return the network without stochastic depth and dropout: then an example's branches are all there in training.

    The dropout of shortcuts (`shortcut_gate`) stays: a network without it would be another one.
    """
    fields: dict[str, Any] = {name: 0.0 for name in ("stochastic_depth", "dropout") if getattr(model, name, 0.0)}
    return model.clone(**fields) if fields else model


def reference(model: nn.Module) -> nn.Module:
    """Return the network without chance, in the reference implementation, if it has more than one."""
    model = without_chance(model)
    return model.clone(implementation="reference") if hasattr(model, "implementation") else model


def require(model: nn.Module, *names: str) -> None:
    """Raise ConfigError if a network, of the user's, lacks a field or method that a measurement needs."""
    for name in names:
        if not hasattr(model, name):
            raise ConfigError(
                f"the network {type(model).__name__} has no {name}, which this needs: add it, as "
                "resnet_jax.models.resnet has it."
            )


def with_statistics_of(model: nn.Module, variables: Variables, images: Images) -> Variables:
    """Return the variables with the BatchNorm statistics of some images: new networks have those of no data."""
    if "batch_stats" not in variables:
        return variables
    require(model, "norm_momentum", "norm_frozen")
    model = without_chance(model).clone(norm_momentum=0.0, norm_frozen=False)
    images = jnp.asarray(images)

    @jax.jit
    def statistics(variables, key):
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})[1]

    return variables | statistics(variables, jax.random.key(0))


def _scale_gradient(x: Array, factor: Array) -> Array:
    """Return `x` as it is, whose gradient is scaled."""
    return jax.lax.stop_gradient(x * (1 - factor)) + x * factor


def _trace(watch: Any, model: nn.Module, variables: Variables, images: Images) -> None:
    with nn.intercept_methods(watch):
        jax.eval_shape(lambda variables, images: model.apply(variables, images, train=False), variables, images)
