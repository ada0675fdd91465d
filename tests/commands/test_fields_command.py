import pathlib

from resnet_jax.__main__ import main

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "config.md"


def test_the_page_of_the_config_is_what_the_command_prints(capsys):
    assert main(["fields", "--format=markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text()


def test_a_word_selects_fields(capsys):
    assert main(["fields", "crop_scale"]) == 0
    assert capsys.readouterr().out.count("--config.") == 1
    assert main(["fields", "crop_scaling"]) == 2
    assert "did you mean 'crop_scale'?" in capsys.readouterr().err
