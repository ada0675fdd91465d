"""The kernels change what moves, not what comes out: values, gradients and running statistics are the plain block's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from benchmarks.fused import FusedBottleneckBlock
from resnet_jax.models.blocks import BottleneckBlock
from resnet_jax.models.normalization import BatchNorm
from tests.models.reference import scrambled

WIDTHS = {FusedBottleneckBlock: dict(widths=(4, 32)), BottleneckBlock: {}}


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def results(block, variables, x, axes=None):
    """The output, its running statistics, and the gradients of a function whose slope is nowhere the same."""
    slopes = jnp.cos(jnp.arange(x.shape[0] * 2**11, dtype=jnp.float32))

    def function(params, x):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        y, updates = block.apply(given, x, True, mutable=["batch_stats"])
        return jnp.sum(y.astype(jnp.float32) * slopes[: y.size].reshape(y.shape)), (y, updates)

    gradients, aside = jax.grad(function, argnums=(0, 1), has_aux=True)(variables["params"], x)
    return aside, gradients if axes is None else (jax.lax.psum(gradients[0], axes), gradients[1])


def both(channels, inputs, dtype=jnp.float32, axes=None, **fields):
    """What the fused and the plain block make of the same variables."""
    norm = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-5, dtype=dtype, axis_name=axes)
    x = noise(4, 4, 4, inputs).astype(dtype)
    made = []
    for kind in (FusedBottleneckBlock, BottleneckBlock):
        block = kind(norm=norm, channels=channels, dtype=dtype, **WIDTHS[kind], **fields)
        variables = scrambled(jax.eval_shape(lambda block=block: block.init(jax.random.key(0), x, True)))
        run = functools.partial(results, block, axes=axes)
        if axes:
            rows = PartitionSpec(axes)
            run = jax.shard_map(
                run,
                mesh=Mesh(np.asarray(jax.devices()[:2]), (axes,)),
                in_specs=(PartitionSpec(), rows),
                out_specs=((rows, PartitionSpec()), (PartitionSpec(), rows)),
                check_vma=False,
            )
        made.append(jax.jit(run)(variables, x))
    return made


def close(one, other, tolerance):
    """Each array differs by less than `tolerance` of its largest value."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize("channels, inputs, stride", [(4, 16, 1), (32, 24, 2)])  # narrow maps, and wide ones of 128
def test_a_fused_block_is_the_plain_block(channels, inputs, stride):
    close(*both(channels, inputs, stride=stride), 1e-5)


def test_a_fused_block_is_the_plain_block_in_half_precision():
    close(*both(4, 16, jnp.bfloat16), 3e-2)


def test_devices_share_its_statistics():
    close(*both(4, 16, axes="devices"), 1e-5)


def test_variables_and_evaluation_are_those_of_the_plain_block():
    norm, x = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-5), noise(2, 4, 4, 16)
    plain, fused = (kind(norm=norm, channels=4, **WIDTHS[kind]) for kind in (BottleneckBlock, FusedBottleneckBlock))
    shapes = [jax.eval_shape(lambda block=block: block.init(jax.random.key(0), x, True)) for block in (plain, fused)]
    assert shapes[0] == shapes[1]
    variables = scrambled(shapes[0])
    np.testing.assert_array_equal(fused.apply(variables, x, False), plain.apply(variables, x, False))
