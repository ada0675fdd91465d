import json

import pytest

from resnet_jax.__main__ import main


def test_summary_has_every_layer_and_their_sums(capsys):
    assert main(["summary", "resnet18", "--format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["params"], found["macs"], found["image_size"]) == (11_689_512, 1_814_073_344, 224)
    assert found["layers"][0] == {
        "name": "stem_conv",
        "kind": "convolution",
        "output": [112, 112, 64],
        "parameters": 9408,
        "multiply_adds": 118_013_952,
        "receptive_field": 7,
    }


def test_summary_is_shown_as_a_table_and_as_markdown(capsys):
    assert main(["summary", "cifar_resnet8"]) == 0
    assert "75,290" in capsys.readouterr().out
    assert main(["summary", "cifar_resnet8", "--format=markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| stem_conv | 32x32x16 | 432 | 442,368 | 3 |"
    assert lines[-1].startswith("| all |  | 75,290 |")


def test_fields_and_sizes_can_be_set(capsys):
    arguments = ["--image-size=64", "--channels=1", "--set=cardinality=8", "--set", "base_width=16", "--format=json"]
    assert main(["summary", "resnet50", *arguments]) == 0
    found = {layer["name"]: layer for layer in json.loads(capsys.readouterr().out)["layers"]}
    assert found["stem_conv"]["parameters"] == 49 * 64
    assert found["stage1_block1/conv2"]["parameters"] == 128 * 16 * 9
    assert found["stage4_block3/conv3"]["output"] == [2, 2, 2048]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet5"], "no network is registered as 'resnet5', did you mean 'resnet50'?"),
        (["resnet50", "--set=cardinalty=8"], "no field 'cardinalty', did you mean 'cardinality'?"),
        (["resnet50", "--set=cardinality=many"], "the field cardinality cannot be many: it takes int"),
        (["resnet50", "--set=cardinality"], "--set takes FIELD=VALUE"),
        (["resnet50", "--image-size=-3"], "an image of -3 pixels"),
        (["densenet121", "--image-size=8"], "the images are too small"),
    ],
)
def test_what_cannot_be_summarized_is_refused(arguments, sentence, capsys):
    assert main(["summary", *arguments]) == 2
    assert sentence in capsys.readouterr().err
