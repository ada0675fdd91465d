"""Every block of docs/other_libraries.md runs, and each library computes and trains what linen does."""

import importlib.util
import pathlib
import re

import jax
import numpy as np
import pytest

import resnet_jax
from resnet_jax.configs import digits

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "other_libraries.md"
LIBRARIES = ("Plain JAX", "Flax NNX", "Equinox")


def sections():
    """The blocks of Python of each section, and under "" those before the first."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    blocks = [re.findall(r"^```python\n(.*?)^```$", part, re.MULTILINE | re.DOTALL) for part in parts[::2]]
    return dict(zip(["", *parts[1::2]], blocks, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder in which a reader has trained on the digits."""
    folder = tmp_path_factory.mktemp("reader")
    config = digits.get_config()
    config.training.epochs = 2.0
    config.parallel.devices = 1
    resnet_jax.train(config, str(folder / "runs" / "digits"))
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    """A function that runs the first blocks of a section, or all of them, and returns their names."""
    monkeypatch.chdir(folder)

    def run(library, blocks=None, **changed):
        if library == "Equinox" and importlib.util.find_spec("equinox") is None:
            pytest.skip("equinox is not installed: pip install equinox")
        names = {}
        exec("\n".join(sections()[""]), names)
        names["loaded"] = names["variables"]
        names |= changed
        exec("\n".join(sections()[library][:blocks]), names)
        return names

    return run


def close(ours, theirs, tolerance=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), ours, theirs)


def test_the_page_has_a_section_for_each_library():
    assert list(sections()) == ["", *LIBRARIES] and all(sections().values())


@pytest.mark.parametrize("library", LIBRARIES)
def test_loaded_weights_give_the_logits_of_linen(library, run):
    names = run(library, None if library == "Plain JAX" else 1, steps=0)
    want = names["model"].apply(names["loaded"], names["images"], train=False)
    assert float(np.std(want)) > 0.1
    np.testing.assert_allclose(names["logits"], want, rtol=1e-6, atol=1e-6)
    if library == "Flax NNX":
        assert list(names["maps"]) == ["stem", "stage1", "stage2", "stage3"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_step_moves_the_running_statistics_towards_those_of_the_batch(library, run):
    names = run(library, steps=1)
    before, after = (names[kind]["batch_stats"]["stem_bn"] for kind in ("loaded", "trained"))
    kernel = names["loaded"]["params"]["stem_conv"]["kernel"]
    maps = np.asarray(
        jax.lax.conv_general_dilated(
            names["images"], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    ).reshape(-1, kernel.shape[-1])
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * maps.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * maps.var(0, ddof=1), rtol=1e-4, atol=1e-5)
    assert np.abs(after["mean"] - before["mean"]).max() > 1e-3


@pytest.mark.parametrize("library", LIBRARIES)
def test_training_lowers_the_loss(library, run):
    losses = run(library)["losses"]
    assert len(losses) == 20 and losses[-1] < losses[0] / 2


@pytest.mark.parametrize("library", LIBRARIES[1:])
def test_three_steps_give_the_variables_of_plain_jax(library, run):
    names, plain = run(library, steps=3), run("Plain JAX", steps=3)
    close(names["trained"], plain["trained"])
    with pytest.raises(AssertionError):
        close(names["trained"], names["loaded"])


def test_nnx_without_mutable_leaves_the_statistics(run):
    names = run("Flax NNX", steps=1)
    before = np.array(names["net"].stem_bn["mean"][...])
    names["net"](names["images"] + 1, train=True)
    np.testing.assert_array_equal(names["net"].stem_bn["mean"][...], before)


def test_weights_trained_by_nnx_are_read_again(run):
    names = run("Flax NNX", steps=1)
    read = resnet_jax.load_weights(names["model"], "trained.safetensors")
    close(read, names["trained"], tolerance=0)


def test_forward_mode_needs_the_reference_implementation(run):
    names = run("Plain JAX", steps=0)
    images = names["images"]

    def forward(model):
        return jax.jvp(
            lambda x: model.apply(names["loaded"], x, train=True, mutable=["batch_stats"])[0], *[(images,)] * 2
        )

    assert np.isfinite(forward(names["model"].clone(implementation="reference"))[1]).all()
    with pytest.raises(TypeError, match="forward-mode"):
        forward(names["model"])
