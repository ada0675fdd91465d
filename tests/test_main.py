import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import main as command
from resnet_jax.config import default_config
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.setup import build
from tests import processes

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = "--config=configs/digits.py"


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([DIGITS, "--config.trainng.epochs=3"], "no field 'trainng', did you mean 'training'"),
        ([DIGITS, "--config.training.epoch=3"], "no field 'epoch', did you mean 'epochs'"),
        ([DIGITS, "--config.training.zzz=3"], "no field 'zzz'"),
        ([DIGITS, "--config.model.overrides.cardinalty=3"], "did you mean 'cardinality'"),
        ([DIGITS, "--config.training.epochs=many"], "--config.training.epochs=many"),
        ([DIGITS, "--config.training.batch_size=1.5"], "--config.training.batch_size=1.5"),
        ([DIGITS, "--config.model.overrides.cardinality=two"], "--config.model.overrides.cardinality=two"),
        ([DIGITS, "--workdri=x"], "workdir"),
        ([DIGITS, "--mode=tain"], "train|eval|replay"),
        ([DIGITS, "runs/x"], "'runs/x' is no flag"),
        (["--config=configs/nope.py"], "no config file configs/nope.py"),
        (["digts", "--workdir=DIR"], "no config file digts, did you mean 'digits'"),
        (["configs/sweeps/shortcut.py", "--workdir=DIR"], "did you mean 'sweeps/shortcuts'"),
        ([], "--config=FILE"),
        ([DIGITS], "--workdir=DIR"),
        ([DIGITS, "--workdir=DIR", "--config.optimizer.name=sdg"], "did you mean 'sgd'"),
        ([DIGITS, "--workdir=DIR", "--config.schedule.name=cosin"], "did you mean 'cosine'"),
        ([DIGITS, "--workdir=DIR", "--config.model.name=cifar_resnet21"], "6n + 2: use 20 or 26"),
        ([DIGITS, "--workdir=DIR", "--config.model.name=cifar_resnest20"], "did you mean 'cifar_resnet20'"),
        ([DIGITS, "--workdir=DIR", "--config.data.source=digit"], "did you mean 'digits'"),
        ([DIGITS, "--workdir=DIR", "--config.training.batch_size=100"], "training.batch_size is 100, which 8 devices"),
        ([DIGITS, "--workdir=DIR", "--config.training.batch_size=0"], "training.batch_size is 0"),
        ([DIGITS, "--workdir=DIR", "--config.training.microbatches=3"], "training.microbatches is 3"),
        ([DIGITS, "--workdir=DIR", "--config.model.overrides.cardinality=4"], "set block to bottleneck"),
        ([DIGITS, "--workdir=DIR", "--config.training.init_from=no.safetensors"], "no weights file no.safetensors"),
        (["--config=configs/resnet50.py", "--workdir=DIR"], "set data.path"),
    ],
)
def test_wrong_input_ends_with_2_and_one_sentence(arguments, said, capsys, tmp_path):
    arguments = [
        argument.replace("DIR", str(tmp_path / "run")) if "DIR" in argument else argument for argument in arguments
    ]
    assert command.main(["main.py", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def get_config():\n    raise ValueError('no such thing')\n", ", line 2: ValueError: no such thing"),
        ("import nowhere_at_all\n", ", line 1: ModuleNotFoundError"),
        ("x = 1\ndef get_config(:\n", ", line 2: SyntaxError"),
        ("def get_config():\n    return 5\n", ": get_config returns int and must return a config"),
        ("def get_config():\n    return {'model': {}}\n", ": get_config returns dict and must return a config"),
        ("def get_config():\n    pass\n", ": get_config returns NoneType and must return a config"),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'model': {}})\n",
            ": get_config returns a config without augment, checkpoint, data",
        ),
        ("config = 1\n", " has no function get_config"),
    ],
)
def test_what_is_wrong_with_a_config_file_is_one_sentence_with_its_place(code, said, tmp_path, capsys):
    file = tmp_path / "broken.py"
    file.write_text(code)
    assert command.main(["main.py", f"--config={file}", f"--workdir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert f"{file}{said}" in error and error.count("\n") == 1 and "Traceback" not in error


@pytest.mark.parametrize(
    ("config", "field", "meant"),
    [
        ("configs/digits.py", "training.learning_rate", "optimizer.learning_rate?"),
        ("configs/digits.py", "batch_size", "evaluation.batch_size or training.batch_size?"),
        ("configs/digits.py", "model.stem_width", "model.overrides.stem_width?"),
        ("configs/sweeps/shortcuts.py", "training.epochs", "base.training.epochs?"),
        ("configs/sweeps/shortcuts.py", "base.training.learning_rate", "base.optimizer.learning_rate?"),
    ],
)
def test_a_field_in_the_wrong_group_names_the_right_one(config, field, meant, capsys):
    assert command.main(["main.py", f"--config={config}", "--workdir=runs/x", f"--config.{field}=3"]) == 2
    assert capsys.readouterr().err == f"error: the config has no field {field}, did you mean {meant}\n"


@pytest.mark.parametrize("named", ["digits", "configs/digits.py", "configs/digits"])
def test_a_config_of_the_project_is_found_by_its_name_in_any_folder(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = command.parse(["main.py", f"--config={ROOT / 'configs' / 'digits.py'}"]).config
    assert (
        command.parse(["main.py", named]).config == command.parse(["main.py", f"--config={named}"]).config == expected
    )


def test_a_file_of_the_user_comes_before_a_config_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits.py").write_text("from resnet_jax.config import default_config as get_config")
    assert command.parse(["main.py", "--config=configs/digits.py"]).config == default_config()


def test_help_shows_the_usage(capsys):
    assert command.main(["main.py", "--help"]) == 0
    assert "--config=FILE --workdir=DIR" in capsys.readouterr().out


RUN = [
    DIGITS,
    "--config.model.overrides.stage_sizes=(1,1)",
    "--config.model.overrides.stage_widths=(16,32)",
    "--config.training.steps=120",
    "--config.parallel.devices=1",
]


def start(workdir, *more, platform="cpu", flags=""):
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": platform}
    command = [sys.executable, "main.py", *RUN, f"--workdir={workdir}", *more]
    return processes.start(command, env=environment, stderr=subprocess.STDOUT)


def saved_steps(workdir):
    return [int(step.name) for step in (workdir / "checkpoints").glob("*") if step.name.isdigit()]


def final_arrays(workdir):
    config = command.parse(["main.py", *RUN]).config
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    state = jax.device_get(checkpoints.restore(build(config).initial_state()))
    checkpoints.close()
    return state


def test_a_run_that_was_asked_to_stop_ends_with_the_bits_of_one_that_was_not(tmp_path):
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    process = start(stopped)
    processes.wait_until(lambda: (stopped / "metrics.jsonl").exists(), process)
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0]
    assert process.returncode == 128 + signal.SIGINT, output
    assert "the same command resumes there" in output and "Traceback" not in output
    assert max(saved_steps(stopped)) < 120 and not (stopped / "summary.json").exists()

    for workdir in (stopped, whole):
        process = start(workdir)
        output = process.communicate()[0]
        assert process.returncode == 0, output
        assert ("Resuming at step" in output) == (workdir != whole)
        assert json.loads((workdir / "summary.json").read_text())["steps"] == 120
    jax.tree.map(np.testing.assert_array_equal, final_arrays(whole), final_arrays(stopped))


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="this machine has no GPU")
def test_a_run_repeats_to_the_bit_on_a_gpu_with_deterministic_operations(tmp_path):
    for workdir in (tmp_path / "one", tmp_path / "two"):
        process = start(workdir, platform="cuda", flags="--xla_gpu_deterministic_ops=true")
        output = process.communicate()[0]
        assert process.returncode == 0, output
    jax.tree.map(np.testing.assert_array_equal, *(final_arrays(tmp_path / run) for run in ("one", "two")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_has_nothing_to_save_yet_ends_at_once_with_a_sentence(tmp_path, number):
    process = start(tmp_path / "run")
    processes.wait_until(lambda: (tmp_path / "run" / "parameters.txt").exists(), process)  # what follows is compilation
    process.send_signal(number)
    output = process.communicate()[0]
    assert process.returncode == 128 + number and "Traceback" not in output
    assert output.splitlines()[-1] == "Stopped before there was anything to save: start the same command again."
    assert not saved_steps(tmp_path / "run") and not (tmp_path / "run" / "metrics.jsonl").exists()


def test_training_needs_no_tensorflow_and_writes_no_escape_codes_to_a_log(tmp_path):
    code = "import sys, main; code = main.main(sys.argv); assert 'tensorflow' not in sys.modules; sys.exit(code)"
    run = subprocess.run(
        [sys.executable, "-c", code, *RUN[:3], "--config.training.steps=2", f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "FORCE_COLOR": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "\x1b" not in run.stdout
    last = run.stdout.strip().splitlines()[-1]
    assert last.startswith("top-1 ") and "on 359 examples after 2 steps" in last and str(tmp_path / "run") in last
