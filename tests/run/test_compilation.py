import os
import subprocess
import sys

import jax
import pytest

from resnet_jax.run.compilation import keep_programs, processor

COMPILE = """
import jax, jax.numpy as jnp
from resnet_jax.run.compilation import keep_programs
keep_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: jnp.fft.fft(x) ** 2)(jnp.ones(8))
"""


def test_programs_are_kept_in_the_users_cache_and_found_again(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    kept = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", COMPILE], env=environment, check=True)
        kept.append({path.name for path in tmp_path.rglob("*-cache")})
        assert all(processor() in str(path) for path in tmp_path.rglob("*-cache"))
    assert kept[0] and kept[0] == kept[1]


@pytest.fixture
def cache_options():
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_folder_that_the_user_names_is_left_alone(monkeypatch, cache_options, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    keep_programs()
    assert jax.config.jax_compilation_cache_dir == before
