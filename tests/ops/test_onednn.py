import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.ops import Window, onednn
from resnet_jax.ops.choice import choose


@pytest.fixture
def forgetful(monkeypatch, tmp_path):
    """A machine on which nothing has been compiled yet."""
    monkeypatch.setattr(onednn.pooch, "os_cache", lambda name: tmp_path)
    onednn.missing.cache_clear()
    yield monkeypatch
    onednn.missing.cache_clear()


def test_without_a_compiler_xla_does_the_work_and_the_reason_is_given(forgetful):
    forgetful.setattr(onednn.shutil, "which", lambda name: None)
    forgetful.delenv("CXX", raising=False)
    if onednn.platform.system() == "Linux" and onednn.platform.machine() == "x86_64":
        assert onednn.missing() == "there is no C++ compiler: install g++."
    assert choose("cpu", "forward", 64, Window()) == "reference"
    assert choose("cpu", "kernel_gradient", 128, Window(groups=32)) == "dense"
    with pytest.raises(RuntimeError, match="oneDNN cannot be used"):
        onednn.convolve("forward", jnp.ones((1, 3, 3, 1)), jnp.ones((1, 1, 1, 1)), Window())


def test_a_compiler_that_fails_is_named(forgetful):
    forgetful.setenv("CXX", "false")
    forgetful.setattr(onednn.platform, "system", lambda: "Linux")
    forgetful.setattr(onednn.platform, "machine", lambda: "x86_64")
    assert "false failed" in onednn.missing()


def test_on_another_processor_there_is_none(forgetful):
    forgetful.setattr(onednn.platform, "machine", lambda: "aarch64")
    assert "aarch64" in onednn.missing()


def python(program, **environment):
    """Run in another process: what XLA has been told to call stays for as long as a process lives."""
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_what_was_compiled_is_used_again(tmp_path):
    if onednn.missing():
        pytest.skip(onednn.missing())
    program = "from resnet_jax.ops import onednn; print(onednn.missing())"
    assert python(program, XDG_CACHE_HOME=str(tmp_path)).stdout == "None\n"
    (made,) = tmp_path.rglob("*.so")
    assert python(program, XDG_CACHE_HOME=str(tmp_path), CXX="false").stdout == "None\n"
    assert [made] == list(tmp_path.rglob("*.so"))


def test_shapes_that_do_not_fit_are_an_error_and_not_a_crash():
    if onednn.missing():
        pytest.skip(onednn.missing())
    program = (
        "import jax.numpy as jnp; from resnet_jax.ops import Window, onednn\n"
        "onednn.convolve('kernel_gradient', jnp.ones((1, 4, 4, 2)), jnp.ones((1, 9, 9, 4)), Window(), (3, 3))"
        ".block_until_ready()"
    )
    run = python(program)
    assert run.returncode == 1 and "could not create a primitive descriptor" in run.stderr


def test_it_computes_the_same_bits_again():
    if onednn.missing():
        pytest.skip(onednn.missing())
    random = np.random.default_rng(0)
    x, dy = (jnp.asarray(random.normal(size=(8, 16, 16, 32)), jnp.float32) for _ in range(2))
    first, *others = (onednn.convolve("kernel_gradient", x, dy, Window(), (3, 3)) for _ in range(5))
    for other in others:
        np.testing.assert_array_equal(first, other)
