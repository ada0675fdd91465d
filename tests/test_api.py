"""What `import resnet_jax` offers."""

import json
import pathlib
import pydoc
import re
import subprocess
import sys

import pytest

import resnet_jax

ROOT = pathlib.Path(__file__).parents[1]
PUBLIC = (
    "ResNet",
    "DenseNet",
    "Preset",
    "create_model",
    "list_models",
    "load_weights",
    "save_weights",
    "default_config",
    "train",
    "evaluate",
)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_exported_and_documented(name):
    assert name in resnet_jax.__all__ and name in dir(resnet_jax)
    assert len(getattr(resnet_jax, name).__doc__) > 40


def test_help_shows_the_public_names_and_the_version():
    text = pydoc.plain(pydoc.render_doc(resnet_jax))
    assert [name for name in PUBLIC if not re.search(rf"^    (class )?{name}\(", text, re.MULTILINE)] == []
    assert resnet_jax.__version__ in text


def test_the_page_of_the_api_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text()
    assert [name for name in resnet_jax.__all__ if f".{name}\n" not in page] == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'resnet_jax' has no attribute 'Resnet'"):
        resnet_jax.Resnet  # noqa: B018


def test_the_import_alone_needs_no_jax():
    code = "import sys, resnet_jax; resnet_jax.__version__; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_run_is_trained_and_evaluated_from_python(small_config, tmp_path):
    summary = resnet_jax.train(small_config, str(tmp_path / "run"))
    assert 0 < summary["top1"] <= 1
    evaluation = resnet_jax.evaluate(small_config, str(tmp_path / "run"))
    assert evaluation["top1"] == summary["top1"] and evaluation["eval_examples"] == summary["eval_examples"]
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["top1"] == summary["top1"]


def test_both_commands_print_the_version():
    for command in (["main.py"], ["-m", "resnet_jax"]):
        shown = subprocess.run([sys.executable, *command, "--version"], capture_output=True, text=True, cwd=ROOT)
        assert (shown.stdout, shown.returncode) == (f"resnet_jax {resnet_jax.__version__}\n", 0)
