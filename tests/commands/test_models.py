import json

from resnet_jax.__main__ import main


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
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["cifar_resnet8", "cifar_resnet20"]
    assert main(["models", "cifar_resnet20"]) == 0
    assert "269,722" in capsys.readouterr().out


def test_a_pattern_that_matches_nothing_is_told(capsys):
    assert main(["models", "vgg*"]) == 2
    assert "no network matches 'vgg*'" in capsys.readouterr().err
