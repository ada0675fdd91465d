import os
import shutil
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.ops import max_pool


def of_flax(maps, window, stride, padding):
    return nn.max_pool(maps, (window, window), (stride, stride), ((padding, padding),) * 2)


@pytest.mark.parametrize(("window", "stride", "padding", "size"), [(3, 2, 1, 8), (3, 2, 1, 7), (3, 1, 1, 5)])
@pytest.mark.parametrize("equal", [False, True])
def test_values_and_gradients_are_those_of_xlas_pooling_also_where_values_are_equal(
    window, stride, padding, size, equal
):
    random = np.random.default_rng(0)
    maps = random.normal(size=(2, size, size, 3))
    maps = jnp.asarray(np.round(maps) if equal else maps, jnp.float32)
    out = of_flax(maps, window, stride, padding)
    weights = jnp.asarray(random.normal(size=out.shape), jnp.float32)

    def gradient(pool):
        return jax.jit(jax.grad(lambda maps: jnp.sum(weights * pool(maps, window, stride, padding))))(maps)

    own = jax.jit(max_pool, static_argnums=(1, 2, 3))(maps, window, stride, padding)
    np.testing.assert_array_equal(own, out)
    np.testing.assert_allclose(gradient(max_pool), gradient(of_flax), atol=1e-6)


def test_nan_stays_nan():
    maps = jnp.zeros((1, 4, 4, 1)).at[0, 1, 2, 0].set(jnp.nan)
    assert np.isnan(max_pool(maps, 2, 2, 0)).ravel().tolist() == [False, True, False, False]


def test_no_select_and_scatter_is_in_the_gradient():
    text = jax.jit(jax.grad(lambda maps: max_pool(maps, 3, 2, 1).sum())).lower(jnp.zeros((1, 8, 8, 1))).as_text()
    assert "scatter" not in text and "reduce_window" not in text


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="this machine has no GPU")
def test_the_gradient_repeats_to_the_bit_on_a_gpu():
    code = """if True:
        import jax, jax.numpy as jnp, numpy as np
        from resnet_jax.ops import max_pool
        maps = jax.random.normal(jax.random.key(0), (16, 112, 112, 64))
        gradient = jax.jit(jax.grad(lambda maps: jnp.sum(max_pool(maps, 3, 2, 1) ** 2)))
        first = np.asarray(gradient(maps))
        for _ in range(5):
            np.testing.assert_array_equal(gradient(maps), first)"""
    environment = os.environ | {"JAX_PLATFORMS": "cuda", "XLA_FLAGS": ""}  # this process has the CPU only
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
