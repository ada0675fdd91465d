import json
import pathlib

import pytest

from resnet_jax.__main__ import main

FOLDER = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_folder_of_the_project(monkeypatch):
    monkeypatch.chdir(FOLDER)


def test_the_time_and_cost_of_a_recipe_are_shown_with_their_assumptions(capsys):
    arguments = ["--config=configs/resnet50.py:ffcv_16", "--images-per-second=2470", "--devices=8", "--price=3.5"]
    assert main(["estimate", *arguments, "--input-images-per-second=5000"]) == 0
    shown = capsys.readouterr().out
    # 16 epochs of 1,281,167 images, 50,000 and their mirror images 16 times; all read at 5,000 a second: 4,099.7 s.
    assert "20,498,672 of 160 and 192" in shown and "1,600,000 of 256" in shown
    assert "1.14 hours" in shown and "100 % of the training" in shown
    assert "2,470 images a second of one device, as given, at 224 pixels" in shown


@pytest.mark.parametrize("steps", [True, False])
def test_a_throughput_is_read_of_a_record_of_steps_or_of_a_run(steps, tmp_path, capsys):
    file = tmp_path / "summary.json"
    if steps:
        row = {"network": "cifar_resnet20", "image": 32, "images_per_second": {"ours": 5000.0}}
        file.write_text(json.dumps({"mode": "train", "rows": [row]}))
    else:
        file.write_text(json.dumps({"images_per_second": 5000.0, "wall_seconds": 9.0}))
        run = {"model": {"name": "cifar_resnet20"}, "data": {"source": "cifar10", "input_size": None}}
        (tmp_path / "config.json").write_text(json.dumps(run))
    assert main(["estimate", "--config=configs/cifar10.py:resnet20", f"--from={file}"]) == 0
    # 64,000 steps of 128 images at 5,000 a second.
    assert "27.3 minutes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config=configs/none.py", "--images-per-second=1"], "there is no config file configs/none.py"),
        (["--config=configs/resnet50.py:rsb_a4", "--images-per-second=1"], "did you mean 'rsb_a"),
        (["--config=README.md", "--images-per-second=1"], "README.md, line "),
        (["--config=configs/recipes.py", "--images-per-second=1"], "configs/recipes.py has no function get_config"),
        (
            ["--config=configs/resnet50.py", "--images-per-second=0"],
            "--images-per-second is 0.0 and must be",
        ),
        (["--config=configs/resnet50.py", "--images-per-second=1", "--devices=0"], "--devices is 0 and must be more"),
        (["--config=configs/resnet50.py", "--images-per-second=1", "--examples", "0", "5"], "give 1 or more of both"),
        (["--config=configs/resnet50.py", "--from=README.md"], "README.md is no JSON file"),
        (
            ["--config=configs/resnet101.py", "--from=results/step/cpu_train.json"],
            "no measurement of resnet101",
        ),
        (
            ["--config=configs/cifar10.py", "--from=results/digits.zip/seed0/summary.json"],
            "config has cifar_resnet20",
        ),
        (
            ["--config=configs/cifar10.py", "--from=results/digits.zip/seed0/config.json"],
            "has no throughput of training",
        ),
    ],
)
def test_what_gives_no_estimate_is_reported_in_a_sentence(arguments, message, capsys):
    assert main(["estimate", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
