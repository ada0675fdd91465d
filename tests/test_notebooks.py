"""Each notebook runs from its first to its last cell, and shows what its text says.

A notebook in jupytext's percent format is a Python program in which the magics are comments: each runs as one here.
"""

import ast
import os
import pathlib
import pickle
import re
import sys

import pytest

from tests import processes

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = ("fine_tune_on_pictures", "use_a_network", "why_shortcuts")
RUN = """
import pickle, runpy, sys
names = runpy.run_path(sys.argv[1])
pickle.dump({name: names[name] for name in sys.argv[3:]}, open(sys.argv[2], "wb"))
"""


@pytest.fixture
def run(tmp_path):
    """A function that runs a notebook in an empty folder and returns the values of some of its names."""

    def run(notebook, *names):
        # MPLBACKEND=Agg draws every figure and shows none; plt.show() warns of that, which is no error here.
        environment = os.environ | {"MPLBACKEND": "Agg", "XLA_FLAGS": "", "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", RUN, FOLDER / f"{notebook}.py", tmp_path / "names", *names]
        said, failed = processes.start(command, cwd=tmp_path, env=environment).communicate()
        assert (tmp_path / "names").exists(), f"{said[-2000:]}\n{failed[-4000:]}"
        return pickle.loads((tmp_path / "names").read_bytes())

    return run


def cells(notebook):
    """The cells of a notebook as (kind, text)."""
    parts = re.split(r"^# %%(.*)\n", (FOLDER / f"{notebook}.py").read_text(), flags=re.MULTILINE)
    return list(zip([kind.strip() for kind in parts[1::2]], parts[2::2], strict=True))


def test_these_are_the_notebooks():
    assert tuple(sorted(file.stem for file in FOLDER.iterdir())) == NOTEBOOKS


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_first_cell_of_code_installs_the_package_before_anything_else_is_imported(notebook):
    first, *others = [text for kind, text in cells(notebook) if kind == ""]
    assert 'find_spec("resnet_jax") is None:\n    # %pip install --quiet "resnet-flax[all]"' in first
    assert "import resnet_jax" in others[0] and len(cells(notebook)) <= 30
    [imported] = [each for each in ast.parse(first).body if isinstance(each, ast.Import)]
    assert imported.names[0].name == "importlib.util"


def test_a_network_is_used_and_explained(run):
    names = ("accuracy", "summary", "images", "heat", "heat_of_3", "maps", "predicted", "shown", "test")
    found = run("use_a_network", *names)
    assert found["accuracy"] > 0.9 and abs(found["accuracy"] - found["summary"]["top1"]) < 1e-6
    assert found["heat"].shape == found["heat_of_3"].shape == (10, 8, 8) and found["images"].shape == (359, 8, 8, 1)
    assert found["heat"].min() >= 0 and found["heat"].max() > 0
    assert {name: values.shape for name, values in found["maps"].items()}["stage3"] == (10, 8, 8, 64)
    ink = found["test"].images[found["shown"], ..., 0] / 255
    # A heat map of the right class is on the digit more than beside it.
    seen = (found["heat"] * ink).sum() / found["heat"].sum()
    assert seen > ink.mean()


def test_fine_tuning_gains_from_the_weights_and_predicts_as_it_evaluates(run):
    names = ("before", "tuned", "scratch", "evaluation", "predictions", "mistakes", "worst")
    found = run("fine_tune_on_pictures", *names)
    tuned, scratch = found["tuned"]["top1"], found["scratch"]["top1"]
    assert found["before"]["top1"] > 0.9 and tuned > scratch and tuned > 0.85
    assert found["evaluation"]["top1"] == tuned and found["evaluation"]["eval_examples"] == len(found["predictions"])
    assert 1 - found["mistakes"] / len(found["predictions"]) == pytest.approx(
        tuned, abs=1.5 / len(found["predictions"])
    )
    # Its folder says what a picture is: the likeliest class of the worst ones is another.
    likeliest = [each["classes"][0]["class"] != pathlib.Path(each["file"]).parent.name for each in found["worst"]]
    assert sum(likeliest) == min(found["mistakes"], len(likeliest))


def test_the_plain_network_fails_where_the_residual_one_does_not(run):
    found = run("why_shortcuts", "errors", "losses", "parameters", "growth", "without", "deleted", "norms")
    plain, residual = "plain", "residual"
    assert found["parameters"][plain] == found["parameters"][residual] > 800_000
    assert found["errors"][plain] > 0.5 > 0.15 > found["errors"][residual]
    assert found["losses"][plain] > 3 * found["losses"][residual]
    assert found["growth"][plain] > 20 * found["growth"][residual]
    assert len(found["without"]) == len(found["norms"][plain]) == 27
    assert sorted(found["without"])[13] < found["deleted"].whole.error + 0.1
