import csv
import dataclasses
import importlib.resources

import pytest

from resnet_jax import create_model, list_models
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.weights.presets import Preset, default, imagenet_classes, named, of_weights, presets

RUN = Preset(
    network="cifar_resnet8",
    overrides={"stage_sizes": (1, 1), "num_classes": 2},
    dataset="folder",
    classes=("n01440764", "mine"),
    resize=9,
    size=8,
    interpolation="bicubic",
    mean=(0.5,),
    std=(0.25,),
)


def test_every_preset_is_of_a_registered_network_and_of_fields_that_it_has():
    networks = set(list_models())
    for preset in presets().values():
        assert preset.network in networks and preset.name.startswith(f"{preset.network}.")
        create_model(preset.network, **preset.overrides)
        assert preset.weights.startswith(("https://", "hf:timm/"))
        assert preset.resize >= preset.size and len(preset.mean) == len(preset.std) == 3


# torchvision's `weights.transforms()`, and timm's default_cfgs with their test size.
@pytest.mark.parametrize(
    ("name", "resize", "size", "interpolation", "top1", "top5"),
    [
        ("resnet50.IMAGENET1K_V1", 256, 224, "bilinear", 0.76130, 0.92862),
        ("resnet50.IMAGENET1K_V2", 232, 224, "bilinear", 0.80858, 0.95434),
        ("resnext101_64x4d.IMAGENET1K_V1", 232, 224, "bilinear", 0.83246, 0.96454),
        ("resnet50.a1_in1k", 288, 288, "bicubic", 0.81240, 0.95112),
        ("resnet50.a3_in1k", 235, 224, "bicubic", 0.78052, 0.93780),
        ("resnet50.tv2_in1k", 232, 224, "bilinear", 0.80846, 0.95430),
        ("cifar_resnet20.akamaster", 32, 32, "bilinear", 0.9173, None),
    ],
)
def test_a_preset_has_the_values_of_its_source(name, resize, size, interpolation, top1, top5):
    preset = named(name)
    assert (preset.resize, preset.size, preset.interpolation) == (resize, size, interpolation)
    assert (preset.top1, preset.top5) == (top1, top5)
    assert (preset.mean, preset.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_the_accuracies_are_those_of_the_table_of_published_results():
    text = importlib.resources.files("resnet_jax.lab.report").joinpath("published.csv").read_text()
    for row in csv.DictReader(text.splitlines()):
        if row["source"].startswith("torchvision"):
            assert named(f"{row['name']}.IMAGENET1K_V1").top1 == float(row["top1"])


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ("resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("timm/resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("hf:timm/resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("resnet50-0676ba61.pth", "resnet50.IMAGENET1K_V1"),
        ("files/resnet50-11ad3fa6.pth", "resnet50.IMAGENET1K_V2"),
        ("files/akamaster_resnet20-12fca82f.th", "cifar_resnet20.akamaster"),
        ("resnet50-00000000.pth", None),
        ("resnet50.pth", None),
    ],
)
def test_the_preset_of_weights_is_known_by_their_name_or_by_the_hash_in_it(weights, name):
    preset = of_weights(weights)
    assert (preset and preset.name) == name


def test_the_default_of_a_network_is_its_first_weights_of_torchvision_or_timms_own_default():
    assert default("resnet50").name == "resnet50.IMAGENET1K_V1"
    assert default("seresnet50").name == "seresnet50.a1_in1k"
    with pytest.raises(ConfigError, match="no published weights are known for plain18"):
        default("plain18")


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'resnet50.a1_ink', did you mean 'resnet50.a1_in1k'\?"):
        named("resnet50.a1_ink")


# Labels of ILSVRC2012 as they are widely quoted.
@pytest.mark.parametrize(
    ("label", "wnid", "name"),
    [
        (0, "n01440764", "tench"),
        (207, "n02099601", "golden retriever"),
        (281, "n02123045", "tabby"),
        (999, "n15075141", "toilet tissue"),
    ],
)
def test_the_classes_of_imagenet_are_in_the_order_of_their_labels(label, wnid, name):
    assert list(imagenet_classes().items())[label] == (wnid, name)
    assert list(imagenet_classes()) == sorted(imagenet_classes()) and len(imagenet_classes()) == 1000
    assert named("resnet18.IMAGENET1K_V1").classes[label] == name


def test_the_preset_of_a_run_comes_back_with_names_for_imagenets_classes(tmp_path):
    (tmp_path / "preset.json").write_text(RUN.write())
    assert of_weights(tmp_path) == dataclasses.replace(RUN, classes=("tench", "mine"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"classes": [], "mean": [], "std": [], "overrides": {}}'])
def test_a_damaged_preset_of_a_run_is_refused(tmp_path, content):
    (tmp_path / "preset.json").write_text(content)
    with pytest.raises(DataError, match=r"preset\.json is damaged"):
        of_weights(tmp_path)
