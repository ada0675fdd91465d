import ast
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from resnet_jax import create_model, list_models
from resnet_jax.errors import ConfigError
from resnet_jax.models.registry import NETWORKS, named
from resnet_jax.models.resnet import ResNet, check
from resnet_jax.weights import torch_arrays

LISTINGS = Path(__file__).parents[2].parent / "shared" / "reference" / "state_dict_keys"


@functools.cache
def shapes(name, **overrides):
    model = create_model(name, **overrides)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))


def count(name, **overrides):
    return sum(array.size for array in jax.tree.leaves(shapes(name, **overrides)["params"]))


PUBLISHED = {
    # The stride's place changes no count: the authors' Caffe networks are as large as torchvision's.
    "resnet50_v1": 25_557_032,
    "resnet101_v1": 44_549_160,
    "resnet152_v1": 60_192_808,
    # akamaster/pytorch_resnet_cifar10, the networks of He et al. 2015, table 6
    "cifar_resnet20": 269_722,
    "cifar_resnet32": 464_154,
    "cifar_resnet44": 658_586,
    "cifar_resnet56": 853_018,
    "cifar_resnet110": 1_727_962,
    "cifar_resnet1202": 19_421_274,
    # He et al. 2016, table 4: 1.7 M for both
    "cifar_preact_resnet110": 1_727_962,
    "cifar_preact_resnet164": 1_703_258,
    # Xie et al. 2017, table 7: 34.4 M and 68.1 M; 1x64d is ResNet
    "cifar_resnext29_8x64d": 34_426_698,
    "cifar_resnext29_16x64d": 68_155_210,
    "resnext50_1x64d": 25_557_032,
    "resnext101_1x64d": 44_549_160,
    # Zagoruyko and Komodakis 2016, table 4: 36.5 M
    "cifar_wrn28_10": 36_479_194,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_network_has_as_many_parameters_as_published(name):
    assert count(name) == PUBLISHED[name]


def test_resnet_1001_has_the_ten_million_parameters_of_its_paper():
    assert count("cifar_preact_resnet1001") == pytest.approx(10.33e6, abs=0.005e6)  # szagoruyko/wide-residual-networks


# The projections of resnet18 and resnet34: three 1x1 convolutions, each with a BatchNorm.
PROJECTIONS = 64 * 128 + 128 * 256 + 256 * 512 + 2 * (128 + 256 + 512)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain18", 11_689_512 - PROJECTIONS),
        ("plain34", 21_797_672 - PROJECTIONS),
        ("cifar_plain20", PUBLISHED["cifar_resnet20"]),
        ("cifar_plain56", PUBLISHED["cifar_resnet56"]),
    ],
)
def test_a_plain_network_lacks_only_the_projections(name, expected):
    assert count(name) == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (dict(shortcut="A_both"), 269_722),
        # One 1x1 convolution and BatchNorm more in stages 2 and 3; chenyaofo/pytorch-cifar-models gives this number.
        (dict(shortcut="B"), 272_474),
        (dict(num_classes=100), 269_722 + 90 * 65),
    ],
)
def test_overrides_of_a_cifar_network_make_the_published_ones(overrides, expected):
    assert count("cifar_resnet20", **overrides) == expected


@pytest.mark.parametrize(
    ("overrides", "expected"), [(dict(cardinality=4), 17_562_442), (dict(num_classes=100), 34_518_948)]
)
def test_overrides_of_resnext29_make_the_published_ones(overrides, expected):
    assert count("cifar_resnext29_8x64d", **overrides) == expected


LISTED = sorted(
    path.stem
    for path in LISTINGS.glob("*.tsv")
    if not re.search(r"legacy|blur|resnetaa|_gn|resnetrs|_bit|ecaresnet", path.stem)
)


def listing(file):
    """Names and shapes in a state_dict, without torch's counters."""
    entries = (line.split("\t")[:2] for line in (LISTINGS / f"{file}.tsv").read_text().splitlines()[1:])
    return {name: ast.literal_eval(shape) for name, shape in entries if not name.endswith("num_batches_tracked")}


@pytest.mark.skipif(not LISTED, reason="the listings are not next to this checkout")
@pytest.mark.parametrize("file", LISTED)
def test_names_and_shapes_are_those_of_torchvision_and_timm(file):
    name = file.partition("_")[2]
    assert name in list_models()
    variables = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes(name))
    ours = {key: array.shape for key, array in torch_arrays(create_model(name), variables).items()}
    assert ours == listing(file)


@pytest.mark.parametrize("name", [name for name in list_models() if NETWORKS[name][0] is ResNet])
def test_every_registered_resnet_passes_the_check_of_its_fields(name):
    check(create_model(name))


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110, 1202])
def test_a_cifar_network_has_as_many_layers_as_its_name_says(depth):
    """He et al. 2015, section 4.2: 6n + 2 with weights, counted as kernels; shortcut A has none."""
    params = flatten_dict(shapes(f"cifar_resnet{depth}")["params"], sep="/")
    assert sum(path.endswith("kernel") for path in params) == depth


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("kind", ["2x40d", "4x24d", "8x14d"])
def test_other_cardinalities_cost_about_as_much_as_resnet(kind, depth):
    """Xie et al. 2017, table 2: width is traded for cardinality at the same complexity."""
    assert count(f"resnext{depth}_{kind}") == pytest.approx(count(f"resnet{depth}"), rel=0.02)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152, 200])
@pytest.mark.parametrize("family", ["resnet", "resnetv2_"])
def test_an_imagenet_network_has_as_many_layers_as_its_name_says(family, depth):
    """He et al. 2015, table 1: projections do not count."""
    params = flatten_dict(shapes(f"{family}{depth}")["params"], sep="/")
    assert sum(path.endswith("kernel") and "shortcut" not in path for path in params) == depth


def test_patterns_list_the_names_that_match_them_in_order():
    assert list_models("resnext*_[36]*") == [
        "resnext50_32x4d",
        "resnext50d_32x4d",
        "resnext101_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
    ]
    assert list_models("wide_resnet*_2") == ["wide_resnet50_2", "wide_resnet101_2"]
    assert list_models("resnet[13]*[48]") == ["resnet18", "resnet34"]
    assert list_models("cifar_resnet?0") == ["cifar_resnet20"]
    assert list_models("RESNET*") == []


def test_without_a_pattern_every_name_is_listed():
    assert sorted(list_models()) == sorted(NETWORKS)
    assert set(PUBLISHED) <= set(list_models())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("reznet152", "resnet152"), ("resnext50_32x4", "resnext50_32x4d"), ("cifar_resnet_20", "cifar_resnet20")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match=rf"registered as '{name}', did you mean '{nearest}'\?.*list_models"):
        create_model(name)


def test_a_name_that_is_near_to_none_is_answered_without_a_guess():
    with pytest.raises(ConfigError, match=r"registered as 'vgg'; resnet_jax\.list_models\(\) gives all names"):
        create_model("vgg")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("resnet50_v1", dict(stage_sizes=(3, 4, 6, 3), block="bottleneck", stride_in_1x1=True)),
        ("resnext50_16x8d", dict(stage_sizes=(3, 4, 6, 3), block="bottleneck", cardinality=16, base_width=8)),
        ("seresnext26d_32x4d", dict(stage_sizes=(2, 2, 2, 2), stem="deep", avg_down=True, se_reduction=16)),
        ("cifar_resnext29_4x32d", dict(stage_sizes=(3, 3, 3), cardinality=4, base_width=32, stem_width=64)),
        ("cifar_resnet26", dict(stage_sizes=(4, 4, 4), shortcut="A", num_classes=10)),
        ("cifar_plain14", dict(stage_sizes=(2, 2, 2), shortcut="none")),
        ("cifar_wrn40_4", dict(stage_sizes=(6, 6, 6), stage_widths=(64, 128, 256), activation_order="preactivation")),
        ("cifar_densenet_bc40_12", dict(block_sizes=(6, 6, 6), growth_rate=12, stem_width=24)),
        ("wide_resnet26_4", dict(base_width=256)),
        ("d2l_resnet18", dict(conv_bias=True, projection_norm=False)),
    ],
)
def test_a_name_says_its_numbers_whether_it_is_listed_or_not(name, fields):
    model = create_model(name)
    check(model) if isinstance(model, ResNet) else None
    assert {field: getattr(model, field) for field in fields} == fields


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cifar_resnet21", "has 21 layers, which are 6n \\+ 2: use 20 or 26"),
        ("cifar_resnet2", "use 8 or 14"),
        ("cifar_resnext30_4x32d", "which are 9n \\+ 2: use 29 or 38"),
        ("cifar_wrn27_10", "which are 6n \\+ 4: use 22 or 28"),
        ("resnext34_32x4d", "34 layers are in basic blocks"),
        ("resnet18_v1", "18 layers are in basic blocks"),
    ],
)
def test_a_depth_that_a_family_has_not_is_answered_with_those_it_has(name, said):
    with pytest.raises(ConfigError, match=said):
        create_model(name)


def test_an_unknown_field_is_answered_with_the_nearest_and_all_of_them():
    with pytest.raises(ConfigError, match=r"no field 'cardinalty', did you mean 'cardinality'.*base_width.*stem_width"):
        create_model("resnet50", cardinalty=32)


def test_flax_fields_of_a_module_are_no_fields_of_a_network():
    with pytest.raises(ConfigError, match="no field 'parent'"):
        create_model("resnet50", parent=None)


def test_an_override_replaces_what_the_name_says():
    assert create_model("resnext50_32x4d").cardinality == 32
    assert create_model("resnext50_32x4d", cardinality=16).cardinality == 16
    assert create_model("resnext50_32x4d").cardinality == 32


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("cifar_resnet8", dict(stem_width=32), "can only add channels"),
        ("cifar_resnet8", dict(stage_sizes=(), stage_widths=()), "give every stage one of each"),
        ("cifar_preact_resnet164", dict(base_width=1), "use 4 or more"),
        ("resnet18", dict(num_classes=-1), "num_classes is -1"),
        ("plain18", dict(zero_init_last=True), "need a shortcut"),
        ("plain18", dict(stochastic_depth=0.1), "need a shortcut"),
    ],
)
def test_fields_that_make_no_network_are_refused(name, overrides, said):
    model = create_model(name, **overrides)
    with pytest.raises(ConfigError, match=said):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))


@pytest.mark.parametrize(
    "name, fields, said",
    [
        ("cifar_resnet20", {"shortcut": "A"}, "cifar_resnet20"),
        ("cifar_resnet20", {"shortcut": "none"}, "cifar_resnet20 shortcut=none"),
        ("resnet50", {"se_reduction": "0", "zero_init_last": False}, "resnet50"),
        ("resnet50", {"zero_init_last": True, "se_reduction": 16}, "resnet50 se_reduction=16 zero_init_last=True"),
        ("cifar_resnet110", {"stochastic_depth": 0}, "cifar_resnet110"),
        ("resnext50_32x4d", {"cardinality": 32}, "resnext50_32x4d"),
        ("cifar_resnet21", {"shortcut": "A"}, "cifar_resnet21 shortcut=A"),
        ("none of ours", {"shortcut": "A"}, "none of ours shortcut=A"),
    ],
)
def test_a_network_is_named_with_the_fields_in_which_it_differs(name, fields, said):
    assert named(name, fields) == said
