"""Every command of docs/exercises.md can be given, and the blocks are those of d2l.ai."""

import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import pytest

from resnet_jax import create_model
from resnet_jax.__main__ import main
from resnet_jax.commands import train
from resnet_jax.config import typed_config
from resnet_jax.lab.sweep import is_sweep

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "exercises.md").read_text()
COMMANDS = re.findall(r"\| `(python [^`]*)` \|$", PAGE, re.MULTILINE)
TRAINED = [command for command in COMMANDS if command.startswith("python main.py ")]
VERBS = [command for command in COMMANDS if command.startswith("python -m resnet_jax ")]
PRINT = ("models", "summary", "estimate")  # verbs that need neither a run nor weights


def test_each_exercise_and_question_has_a_command():
    exercises, questions = PAGE.split("\n## ")[2:]
    rows = [line for line in (exercises + questions).splitlines() if line.startswith("| ") and "command |" not in line]
    assert len(rows) == len(COMMANDS) == len(TRAINED) + len(VERBS) > 30
    for exercise in ("1", "2", "3", "4", "5", "ResNeXt"):
        assert f"\n| {exercise} | " in exercises


@pytest.mark.parametrize("command", TRAINED)
def test_a_command_that_trains_has_a_config_and_a_network(command, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command)[1:]
    arguments = [f"--workdir={tmp_path}/run" if word.startswith("--workdir=") else word for word in arguments]
    config = train.parse(arguments).config
    if is_sweep(config):
        assert train.main([*arguments, "--mode=list"]) == 0
        new = sum(map(int, re.findall(r"(\d+) new", capsys.readouterr().out)))
        assert new == len(config.variants) * len(config.seeds)
        return
    model_fields = typed_config(config).model
    model = create_model(model_fields.name, **model_fields.overrides)
    size = config.data.input_size or 32
    assert jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 1)))["params"]


@pytest.mark.parametrize("command", VERBS)
def test_a_command_of_a_verb_is_understood(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command)[3:]
    if arguments[0] in PRINT:
        assert main(arguments) == 0 and len(capsys.readouterr().out.splitlines()) > 5
        return
    with pytest.raises(SystemExit) as shown:  # the flags are read before the help is shown
        main([*arguments, "--help"])
    assert shown.value.code == 0
    known = capsys.readouterr().out
    assert [word for word in arguments if word.startswith("--") and word.partition("=")[0] not in known] == []


def test_the_blocks_in_one_line():
    [block] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names = {}
    exec(block, names)
    assert names["z"].shape == (4, 3, 3, 6) and names["y"].shape == (4, 96, 96, 32)
    # nn.Conv2d(32, 32, 3, groups=32 // 16) of torch has a weight of (32, 16, 3, 3).
    assert names["variables"]["params"]["conv2"]["kernel"].shape == (3, 3, 16, 32)
    # Residual(3) without the biases of its convolutions: two 3x3 from 3 to 3 channels, and two BatchNorms.
    _, residual = names["BasicBlock"](3).init_with_output(jax.random.key(0), names["x"], train=True)
    assert sum(array.size for array in jax.tree.leaves(residual["params"])) == 2 * 3 * 3 * 3 * 3 + 2 * 2 * 3
