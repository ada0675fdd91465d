import pathlib

import pytest

from resnet_jax.__main__ import main

FOLDER = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_folder_of_the_project(monkeypatch):
    monkeypatch.chdir(FOLDER)


def test_the_page_of_recipes_is_what_the_command_prints(capsys):
    assert main(["recipes", "--format=markdown"]) == 0
    assert capsys.readouterr().out == (FOLDER / "docs" / "recipes.md").read_text()


def test_a_recipe_is_shown_beside_its_source(capsys):
    assert main(["recipes", "torchvision_v2"]) == 0
    shown = capsys.readouterr().out
    assert "references/classification" in shown
    row = next(line for line in shown.splitlines() if "training.ema_decay" in line)
    assert "0.99996585" in row and "0.99998" in row and "32nd" in row


def test_an_unknown_recipe_is_refused_with_the_nearest(capsys):
    assert main(["recipes", "rsb_a4"]) == 2
    assert "no recipe is called 'rsb_a4', did you mean 'rsb_a" in capsys.readouterr().err
