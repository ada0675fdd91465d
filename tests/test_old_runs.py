"""Runs and weights of earlier versions are read: `golden/make_old_run.py` says which commit made them."""

import json
import pathlib
import tarfile

import jax.numpy as jnp
import numpy as np
import pytest

import main as command
from resnet_jax import __main__ as commands
from resnet_jax import create_model, load_weights
from tests.golden.make_old_run import ARCHIVE

NETWORK = dict(stage_sizes=(1, 1), stage_widths=(4, 8), stem_width=4)
ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The folder of what an earlier commit has left."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(ROOT)
    return tmp_path


@pytest.mark.parametrize("weights", ["weights.safetensors", "stopped", "stopped/checkpoints/12"])
def test_weights_of_an_earlier_version_give_its_logits(old, weights):
    model = create_model("cifar_resnet8", **NETWORK)
    variables = load_weights(model, str(old / weights), channels=1)
    golden = np.load(old / "logits.npz")
    logits = model.apply(variables, jnp.asarray(golden["images"]))
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-5)


def test_a_run_of_an_earlier_version_is_resumed_and_ends_as_it_would_have(old, capsys):
    """Within rounding: the sums of BatchNorm are taken in another order now."""
    assert command.main(["main.py", f"--workdir={old / 'stopped'}"]) == 0
    expected, found = (
        [json.loads(line) for line in (old / folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (".", "stopped")
    )
    assert [(row["step"], row["split"]) for row in found] == [(row["step"], row["split"]) for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=2e-4)


def test_a_run_of_an_earlier_version_is_evaluated_and_reported(old, capsys):
    assert command.main(["main.py", f"--workdir={old / 'stopped'}", "--mode=eval"]) == 0
    assert "on 359 examples after 12 steps" in capsys.readouterr().out
    assert commands.main(["report", str(old / "stopped"), f"--out={old / 'report.html'}"]) == 0
    assert "cifar_resnet8" in (old / "report.html").read_text()
