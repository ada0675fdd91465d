"""What is installed from the wheel, without the extras, does in an empty folder what the checkout does."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from resnet_jax.errors import EXTRAS

ROOT = pathlib.Path(__file__).parents[1]
LISTED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
TRACKED = [file for file in LISTED.splitlines() if (ROOT / file).exists()]
# In place of an environment without the libraries of the extras: they cannot be imported.
WITHOUT = "import sys; sys.modules.update(dict.fromkeys({absent}))"
COMMAND = "import sys; sys.argv[0] = 'resnet-jax'; from resnet_jax.__main__ import console; console()"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The files of the wheel, built from the tracked files alone."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, which says what belongs to the project")
    folder = tmp_path_factory.mktemp("wheel")
    for file in TRACKED:
        if file.startswith("resnet_jax/") or "/" not in file:
            (folder / "source" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / "source" / file, follow_symlinks=False)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([*build, folder / "source"], check=True)
    (wheel,) = folder.glob("resnet_flax-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture
def installed(unpacked, tmp_path):
    """A function that runs the installed command in an empty folder."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(absent=(*EXTRAS, "sklearn")))
    empty = tmp_path / "empty"
    empty.mkdir()

    def run(*arguments, code=0):
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{unpacked}", "XLA_FLAGS": ""}
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments], cwd=empty, env=environment, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    run.folder = empty
    return run


def test_the_wheel_has_the_command_the_configs_and_nothing_beside_the_package(unpacked):
    (metadata,) = unpacked.glob("*.dist-info")
    assert {entry.name for entry in unpacked.iterdir()} == {"resnet_jax", metadata.name}
    assert "resnet-jax = resnet_jax.__main__:console" in (metadata / "entry_points.txt").read_text()
    there = {str(file.relative_to(unpacked)) for file in (unpacked / "resnet_jax").rglob("*") if file.is_file()}
    assert there == {file for file in TRACKED if file.startswith("resnet_jax/")}
    # A package index shows no file of the repository.
    assert "](docs/" not in (metadata / "METADATA").read_text()


def test_a_run_needs_neither_the_checkout_nor_an_extra(installed):
    fields = ["--config.training.steps=2", "--config.training.batch_size=8", "--config.parallel.devices=1"]
    said = installed("train", "digits", "--workdir=run", *fields)
    assert "on 359 examples after 2 steps" in said and "pip install 'resnet-flax[lab]'" in said
    assert "2 steps" in installed("train", "--workdir=run", "--mode=eval")
    assert installed("train", "configs/digits.py", "--workdir=run", *fields)  # of a checkout's name; it was done
    assert "3 new" in installed("train", "sweeps/shortcuts", "--mode=list", "--workdir=sweep")
    assert not (installed.folder / "sweep").exists()


def test_the_verbs_work_in_an_empty_folder(installed):
    assert "torchvision_v1" in installed("recipes")
    assert "device-hours" in installed("estimate", "--config=resnet50:rsb_a2", "--images-per-second=2470")
    assert "resnet50" in installed("models")
    assert "usage: resnet-jax pack" in installed("pack", "--help")


def test_what_an_extra_would_do_says_which(installed):
    assert installed("report", "run", code=2) == "error: matplotlib is not installed: pip install 'resnet-flax[lab]'.\n"
    assert "'resnet-flax[data]'" in installed(
        "train", "resnet50", "--workdir=run", "--config.data.source=tfds:mnist", code=2
    )


def test_the_doctor_names_what_is_missing_and_checks_the_rest(installed):
    said = installed("doctor")
    assert "not installed: pip install 'resnet-flax[data]'" in said and "Self-check passed" in said
