"""Devices: the mesh, BatchNorm scope, and how a function of one shard becomes a program for all of them.

Nothing else in the project knows how many devices or hosts there are. The whole step runs inside `jax.shard_map`: left
to jit's automatic partitioner, every grouped convolution would gather the whole batch on every device (openxla/xla
issue 47945).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from resnet_jax.errors import ConfigError

Tree = Any

# The batch is sharded over both axes. A BatchNorm group is the devices along the second one.
AXES = ("replica", "norm_group")
REPLICATED = PartitionSpec()
ROWS = PartitionSpec(None, AXES)  # (steps, batch, ...)


class Dispatch(NamedTuple):
    """What travels to the devices for some steps.

    Attributes:
      rows: arrays of (steps, batch, ...), of which the last steps may be there to fill up and are not taken.
      steps: how many of them are taken.
    """

    rows: Tree
    steps: Any


DISPATCH = Dispatch(ROWS, REPLICATED)


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run, as a mesh of (replica, norm_group)."""

    mesh: jax.sharding.Mesh
    norm_axis: str | tuple[str, ...] | None

    @classmethod
    def create(cls, count: int, norm_scope: str, norm_group: int = 1) -> "Devices":
        """Take the first `count` devices (0: all).

        Args:
          count: devices to use.
          norm_scope: "local": each device normalizes by its own part of the batch; "group": `norm_group` neighbouring
            devices share statistics; "global": all do.
          norm_group: devices a group.

        Raises:
          ConfigError: more devices than there are, an unknown scope, or groups that do not divide the devices.
        """
        available = jax.devices()
        count = count or len(available)
        if not 1 <= count <= len(available):
            raise ConfigError(
                f"parallel.devices is {count} and this machine has {len(available)}: ask for as many, or 0 for all."
            )
        if norm_scope not in ("local", "group", "global"):
            raise ConfigError(f"parallel.norm_scope is {norm_scope!r}: use local, group or global.")
        group = norm_group if norm_scope == "group" else 1
        if group < 1 or count % group:
            raise ConfigError(
                f"parallel.norm_group is {group} and does not divide {count} devices: use one of "
                f"{', '.join(str(n) for n in range(1, count + 1) if count % n == 0)}."
            )
        mesh = jax.sharding.Mesh(np.asarray(available[:count]).reshape(-1, group), AXES)
        return cls(mesh, {"local": None, "group": "norm_group", "global": AXES}[norm_scope])

    @property
    def count(self) -> int:
        """Devices in use, on all hosts."""
        return self.mesh.size

    def rows_of_host(self, batch_size: int, field: str) -> range:
        """Return which rows of a global batch this host reads.

        Raises ConfigError that names `field` if the devices can not share the batch equally.
        """
        if batch_size % self.count:
            fits = max(self.count, batch_size // self.count * self.count)
            raise ConfigError(
                f"{field} is {batch_size}, which {self.count} devices can not share equally: use a multiple of "
                f"{self.count}, such as {fits}."
            )
        share = batch_size // jax.process_count()
        return range(jax.process_index() * share, (jax.process_index() + 1) * share)

    def replicate(self, tree: Tree) -> Tree:
        """Lay host arrays, or arrays of one device, whole on every device."""
        sharding = NamedSharding(self.mesh, REPLICATED)
        if jax.process_count() == 1:
            return jax.device_put(tree, sharding)

        def place(x):
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(place(jax.random.key_data(x)))
            return jax.make_array_from_process_local_data(sharding, np.asarray(x))

        return jax.tree.map(place, tree)

    def shard(self, rows: Tree, length: int = 1) -> Dispatch:
        """Lay this host's rows, arrays of (steps, rows, ...), over its devices, filled up to `length` steps.

        A program is compiled for each number of steps that it is given, and takes a minute on a GPU: so all dispatches
        of a run have the same.
        """
        steps = jax.tree.leaves(rows)[0].shape[0]
        if steps < length:
            rows = jax.tree.map(lambda x: np.concatenate([x, np.zeros((length - steps, *x.shape[1:]), x.dtype)]), rows)
        sharding = NamedSharding(self.mesh, ROWS)
        with jax.transfer_guard("allow"):  # this one is asked for
            laid = jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), rows)
            return Dispatch(laid, self.replicate(np.int32(steps)))

    def average(self, tree: Tree) -> Tree:
        """Return the mean of float32 arrays over all devices (inside a program). XLA joins the all-reduces."""
        return tree if self.count == 1 else jax.lax.pmean(tree, AXES)

    def train_program(self, step: Callable, read: Callable) -> Callable:
        """Return (state, data, dispatch, key) to (state, means of each step): several steps in one program.

        `step(state, batch, key)` is the train step of one shard and `read(data, row)` makes its batch. The means are
        arrays as long as the dispatch's rows, 0 for the steps that are not taken. The state that goes in is donated.
        """

        def steps(state, data, dispatch, key):
            return repeat(lambda state, row: step(state, read(data, row), key), state, dispatch)

        return self._program(steps, (REPLICATED, REPLICATED, DISPATCH, REPLICATED), donate=(0,))

    def eval_program(self, step: Callable, read: Callable) -> Callable:
        """Return (params, batch_stats, data, dispatch) to the sums of what `step` returns, over rows and devices."""

        def steps(params, batch_stats, data, dispatch):
            _, sums = repeat(lambda _, row: (None, step(params, batch_stats, read(data, row))), None, dispatch)
            sums = jax.tree.map(lambda each: jnp.sum(each, axis=0, dtype=each.dtype), sums)
            return sums if self.count == 1 else jax.lax.psum(sums, AXES)

        return self._program(steps, (REPLICATED, REPLICATED, REPLICATED, DISPATCH))

    def _program(self, function: Callable, specs: Sequence[Tree], donate: tuple[int, ...] = ()) -> Callable:
        # Without check_vma gradients stay those of one shard until `average` joins them; with it, jax would
        # insert an all-reduce for each parameter.
        program = jax.shard_map(function, mesh=self.mesh, in_specs=tuple(specs), out_specs=REPLICATED, check_vma=False)
        return jax.jit(program, donate_argnums=donate)


def repeat(body: Callable, carry: Tree, dispatch: Dispatch) -> tuple[Tree, Tree]:
    """Call `body(carry, row)` for each step that is taken, as `lax.scan`, but that their number is known when it runs.

    Where there is room for one step only it is called without a loop: XLA on CPU runs convolutions inside a loop on one
    thread, and ResNet-20 then takes 22 s a step where it took 0.75 s.
    """

    def at(number):
        return jax.tree.map(lambda x: x[number], dispatch.rows)

    length = jax.tree.leaves(dispatch.rows)[0].shape[0]
    if length == 1:
        carry, result = body(carry, at(0))
        return carry, jax.tree.map(lambda x: x[None], result)

    def one(number, state):
        carry, results = state
        carry, result = body(carry, at(number))
        return carry, jax.tree.map(lambda all_, x: all_.at[number].set(x), results, result)

    shapes = jax.eval_shape(body, carry, at(0))[1]
    results = jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), shapes)
    return jax.lax.fori_loop(0, dispatch.steps, one, (carry, results))
