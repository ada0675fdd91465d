import contextlib
import json

import jax
import numpy as np
import pytest

from resnet_jax import save_weights
from resnet_jax.__main__ import main
from resnet_jax.commands import analyze, measurements
from resnet_jax.commands.loading import called
from resnet_jax.config import to_dict
from resnet_jax.lab.report.analysis import draw_analysis
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.setup import build
from tests import small

RECORDS = {
    "deletion": ["deletion"],
    "deletion_count": ["deletion", "--count", "--draws=2"],
    "reordering": ["reordering", "--swaps", "1", "--draws=2"],
    "correlation": ["correlation", "--at", "image", "stage1_block2", "--points=5"],
    "paths": ["paths", "--draws=2"],
    "responses": ["responses"],
    "surface_1d": ["surface", "--dimensions=1", "--points=5"],
    "surface_2d": ["surface", "--points=3", "--reach=0.5"],
    "spectrum": ["spectrum", "--steps=4"],
    "features": ["features", "--index=7", "--channels=3"],
    "gradcam": ["gradcam"],
}


@pytest.fixture(scope="module")
def beginning(tmp_path_factory):
    """The folder of a run on the digits with a checkpoint of step 0, and a file of these weights."""
    config, folder = small.config(), tmp_path_factory.mktemp("run")
    config.model.overrides.stage_sizes, config.model.overrides.stage_widths = (2,), (4,)
    config.model.overrides.stem_width = 4
    config.training.seed = 3
    trainer = build(config)
    state = trainer.initial_state()
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    (folder / "preset.json").write_text(trainer.preset.write())
    with contextlib.closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        checkpoints.save(0, state, {"top1": 0.1})
    weights = tmp_path_factory.mktemp("weights") / "beginning.safetensors"
    save_weights(trainer.model, {"params": state.params, "batch_stats": state.batch_stats}, weights)
    return folder, weights


OF_WEIGHTS = ["--model=cifar_resnet8", "--set=stage_sizes=(2,)", "--set=stage_widths=(4,)", "--set=stem_width=4"]


@pytest.mark.parametrize("name", RECORDS)
def test_a_measurement_writes_numbers_and_a_figure_that_can_be_drawn_again(name, beginning, tmp_path, capsys):
    what, *options = RECORDS[name]
    file = tmp_path / "there" / "numbers.json"
    examples = [] if what == "features" else ["--examples=4"]
    arguments = [what, str(beginning[1]), *options, *examples, *OF_WEIGHTS, "--data.source=digits", f"--out={file}"]
    assert main(["analyze", *arguments]) == 0
    record = json.loads(file.read_text())
    assert record["what"] == name
    (network,) = record["networks"]
    assert (network["name"], network["network"], network["data"]) == (
        "beginning.safetensors",
        "cifar_resnet8",
        "digits",
    )
    (tmp_path / "again.png").write_bytes(draw_analysis(record))
    drawn = file.with_suffix(".png").read_bytes()
    assert drawn == (tmp_path / "again.png").read_bytes()
    assert drawn.startswith(b"\x89PNG")
    assert sorted(path.name for path in file.parent.iterdir()) == ["numbers.json", "numbers.png"]
    assert "beginning.safete" in capsys.readouterr().out


def test_a_run_is_measured_in_its_folder_and_begins_with_the_weights_that_it_began_with(beginning):
    run, _ = beginning
    assert main(["analyze", "gradients", str(run), "--examples=4"]) == 0
    record = json.loads((run / "analysis" / "gradients.json").read_text())
    (network,) = record["networks"]
    assert network["examples"] == 4
    assert list(network["initial"]["inputs"]) == ["stage1_block1", "stage1_block2"]
    for kind in ("kernels", "inputs"):
        values = [list(network[state][kind].values()) for state in ("initial", "trained")]
        np.testing.assert_allclose(*values, rtol=1e-4)


def test_wrong_use_ends_with_a_sentence_and_code_2(beginning, tmp_path, capsys):
    run, weights = map(str, beginning)
    half = tmp_path / "half"
    (half / "checkpoints").mkdir(parents=True)
    (half / "config.json").write_text((beginning[0] / "config.json").read_text())
    (tmp_path / "empty").mkdir()
    file, digits = f"--out={tmp_path / 'x.json'}", "--data.source=digits"
    plain = [*OF_WEIGHTS, "--set=shortcut=none", digits, file]
    for arguments, told in (
        (["deletion", str(tmp_path / "none")], "there is no run"),
        (["deletion", "cifar_resnet20.akamastr", file], "did you mean 'cifar_resnet20.akamaster'?"),
        (["deletion", str(tmp_path / "empty")], "no run with checkpoints"),
        (["deletion", str(half)], "holds no run whose network is known"),
        (["deletion", str(half), "--model=cifar_resnet8"], "holds no checkpoint"),
        (["deletion", run, "--examples=360"], "there are 359 evaluation examples"),
        (["deletion", run, "--examples=0"], "ask for 1 to that"),
        (["deletion", run, "--count", "3"], "has 2 blocks that can be deleted"),
        (["deletion", run, "--out=numbers.txt"], "end its name with .json"),
        (["correlation", run, "--examples=1"], "two --examples or more"),
        (["correlation", run, "--points=1"], "--points is 1"),
        (["features", run, "--index=359"], "numbered 0 to 358"),
        (["surface", run, "--reach=0"], "--reach is 0.0"),
        (["deletion", weights, *OF_WEIGHTS, file], "name them by --data.source"),
        (["deletion", weights, *OF_WEIGHTS, digits], "say by --out"),
        (["paths", weights, *plain], "this network has no shortcuts"),
        (["deletion", run, "--data.source=synthetic"], "reads images of 1 channels"),
    ):
        assert main(["analyze", *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert told in error
        assert error.startswith("error: ")
        assert "\n" not in error
    with pytest.raises(SystemExit, match="2"):
        main(["analyze", "deletions", run])
    assert "'deletion'" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json.partial")) and not (tmp_path / "x.json").exists()


def test_ctrl_c_leaves_no_file(beginning, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    measurement = analyze.MEASUREMENTS["responses"]._replace(measure=interrupted)
    monkeypatch.setitem(analyze.MEASUREMENTS, "responses", measurement)
    with pytest.raises(SystemExit, match="130"):
        main(["analyze", "responses", str(beginning[0]), "--examples=2", f"--out={tmp_path / 'numbers.json'}"])
    assert "Stopped" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_networks_of_one_name_are_numbered():
    networks = analyze.distinct([{"name": "a"}, {"name": "b"}, {"name": "a"}])
    assert [network["name"] for network in networks] == ["a (1)", "b", "a (3)"]


def test_a_run_is_called_by_its_folder_and_in_a_sweep_by_its_variant_too(tmp_path):
    (tmp_path / "depth" / "plain-20" / "seed0").mkdir(parents=True)
    assert called(str(tmp_path / "depth" / "plain-20" / "seed0")) == "seed0"
    (tmp_path / "depth" / "sweep.json").write_text("{}")
    assert called(str(tmp_path / "depth" / "plain-20" / "seed0")) == "plain-20/seed0"
    assert called("resnet50.tv_in1k") == "resnet50.tv_in1k" and called("/") == "/"


def test_numbers_are_written_as_json_can_hold_them():
    numbers = {"a": np.array([1.23456789, np.nan]), "b": np.float32(2), "c": np.int64(3), "d": (True, "x")}
    assert analyze.rounded(numbers) == {"a": [1.23457, None], "b": 2.0, "c": 3, "d": [True, "x"]}
    assert jax.tree.leaves(measurements.spread(3)) == [1, 2, 3]
    assert measurements.spread(54)[0] == 1 and measurements.spread(54)[-1] == 54 and len(measurements.spread(54)) == 10
