"""Disks that are full or may not be written: real file systems in memory, which only root can mount."""

import contextlib
import gc
import json
import os
import pathlib
import subprocess
import sys

import pytest

import main as command
from resnet_jax.run.metrics import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
RUN = [
    "--config=configs/digits.py",
    "--config.model.overrides.stage_sizes=(1,1)",
    "--config.model.overrides.stage_widths=(8,16)",
    "--config.model.overrides.stem_width=8",
    "--config.training.batch_size=96",
    "--config.training.epochs=3",
    "--config.parallel.devices=1",
]


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """A function of mount options to a folder that is a file system of its own."""
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "disk"
    folder.mkdir()
    with contextlib.ExitStack() as stack:

        def mount(options):
            if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
                pytest.skip("this user may not mount")
            stack.callback(subprocess.run, ["umount", "-l", folder], check=True)
            return folder

        yield mount


def run(workdir):
    return command.main(["main.py", *RUN, f"--workdir={workdir}"])


# Orbax leaves callbacks behind where a write has failed; they are collected here, and not in another test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_ends_the_run_in_one_sentence_and_the_same_command_goes_on_where_there_is_space(mounted, capsys):
    disk = mounted("size=300k")
    assert run(disk / "run") == 2
    error = capsys.readouterr().err
    assert "the disk is full" in error and "same command" in error and error.count("\n") == 1
    subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
    before = read_metrics(disk / "run" / "metrics.jsonl")
    assert run(disk / "run") == 0
    assert json.loads((disk / "run" / "summary.json").read_text())["steps"] == 45
    after = read_metrics(disk / "run" / "metrics.jsonl")
    gc.collect()
    assert before and len({(record["step"], record["split"]) for record in after}) == len(after)


def test_a_folder_that_may_not_be_written_is_refused_in_one_sentence(mounted, capsys):
    disk = mounted("ro")
    assert run(disk / "run") == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error and error.count("\n") == 1


def test_a_disk_that_fills_in_the_middle_of_a_save_ends_in_one_sentence_and_no_traceback(mounted):
    """Another program takes the space after it was counted: TensorStore then reports to a save that has failed."""
    disk = mounted("size=1000k")
    code = """if True:
        import shutil, sys, types
        shutil.disk_usage = lambda folder: types.SimpleNamespace(free=2**60)
        import main
        sys.exit(main.main(sys.argv))"""
    arguments = ["--config=configs/digits.py", "--config.training.steps=60", "--config.parallel.devices=1"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments, f"--workdir={disk / 'run'}"],
        env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "the disk is full" in ended.stderr and ended.stderr.count("\n") == 1, ended.stderr
