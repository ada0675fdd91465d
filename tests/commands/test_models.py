import json
import pathlib
import subprocess
import sys

from resnet_jax.__main__ import main
from resnet_jax.commands import models
from resnet_jax.models.registry import image_shape, list_models
from tests.models.test_costs import TORCH


def test_models_lists_costs_and_what_was_published(capsys):
    assert main(["models", "resnext50_32*", "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": "resnext50_32x4d",
            "params": 25_028_904,
            "macs": 4_230_479_872,
            "image_size": 224,
            "top1": 0.77618,
            "source": "imagenet, torchvision 0.28 IMAGENET1K_V1",
        }
    ]


def test_models_are_sorted_as_people_do_and_shown_as_a_table(capsys):
    assert main(["models", "cifar_resnet[28]*", "--format=markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("|")[1].strip() for line in lines if line.startswith("| cifar")]
    assert names == ["cifar_resnet8", "cifar_resnet20"]
    assert main(["models", "cifar_resnet20"]) == 0
    assert "269,722" in capsys.readouterr().out


def test_a_pattern_that_matches_nothing_is_refused(capsys):
    assert main(["models", "vgg*"]) == 2
    assert "no network matches 'vgg*'" in capsys.readouterr().err


def test_a_network_that_is_not_listed_is_shown_by_its_name(capsys):
    assert main(["models", "cifar_resnet14", "--format=json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["params"], row["top1"]) == ("cifar_resnet14", 172_506, None)


def test_the_table_of_costs_is_torch_s_for_every_listed_network():
    """Our own are held to torch's in tests/models/test_network_summary.py."""
    table = {row["name"]: (row["params"], row["macs"]) for row in models.rows("*")}
    assert table == {name: TORCH[name] for name in list_models()}
    assert list(table) == list_models()
    assert all(row["image_size"] == image_shape(row["name"])[0] for row in models.rows("*"))


def test_the_page_of_networks_is_what_the_command_prints(capsys):
    assert main(["models", "--format=markdown"]) == 0
    page = pathlib.Path(__file__).parents[2] / "docs" / "networks.md"
    assert capsys.readouterr().out == page.read_text()


def test_listing_the_networks_does_not_import_jax():
    code = "import sys; from resnet_jax.commands import models; models.rows('*'); print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
