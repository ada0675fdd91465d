import ast
import importlib
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import main
from resnet_jax import setup
from resnet_jax.config import check_config, typed_config
from resnet_jax.configs import recipes
from resnet_jax.data.sources import Dataset
from resnet_jax.errors import ConfigError
from resnet_jax.models.registry import list_models
from resnet_jax.weights.presets import named

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
FILES = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in ("recipes", "__init__"))
IMAGENET_FILES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d")
CIFAR_FILES = ("cifar10", "cifar100", "cifar10_short", "cifar10_fast", "fashion_mnist")
CIFAR_NAMES = [name.removeprefix("cifar_") for name in list_models("cifar_*")]
IMAGENET_IMAGES = 1_281_167


def load(file, *argument):
    return importlib.import_module(f"resnet_jax.configs.{file}").get_config(*argument)


def get(config, field):
    for part in field.split("."):
        config = config[part]
    return config


class Images:
    """A split of images that nobody reads."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return self.examples

    def __getitem__(self, index):
        raise AssertionError("a test has read an image")

    def name(self, index):
        raise AssertionError("a test has asked for the name of an image")


@pytest.fixture
def build(monkeypatch):
    """Build the trainer of a config on one device, as if its data were there."""

    def build(config, examples=IMAGENET_IMAGES, classes=1000):
        names = tuple(str(label) for label in range(classes))
        data = Dataset(Images(examples), Images(100), names, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        monkeypatch.setattr(setup, "open_dataset", lambda *args, **kwargs: data)
        config.parallel.devices = 1
        return setup.build(config)

    return build


def parameters(config, image_shape, classes):
    """The number of parameters of the network of a config, and the shape of its logits for two images."""
    model = setup.network(typed_config(config), classes, None)
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    logits, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), images)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])), logits.shape


@pytest.mark.parametrize("file", FILES)
def test_a_config_is_locked_and_valid_and_names_its_own_command(file):
    config = load(file)
    assert config.is_locked
    check_config(config)
    commands = re.findall(
        r"^    python main\.py (.*)$", importlib.import_module(f"resnet_jax.configs.{file}").__doc__, re.MULTILINE
    )
    assert len(commands) == 1
    command = re.fullmatch(
        r"--config=configs/(\w+)\.py(?::([\w.]+))?(?: --mode=eval)? --workdir=runs/\w+(?: --config\.data\.path=\w+)?",
        *commands,
    )
    assert command and command[1] == file
    check_config(load(file, *([command[2]] if command[2] else [])))


@pytest.mark.parametrize("file", FILES)
def test_a_config_says_what_to_expect_and_whether_that_was_measured(file):
    text = importlib.import_module(f"resnet_jax.configs.{file}").__doc__
    assert "published" in text or "easured" in text


def test_every_file_is_tested_as_what_it_is():
    assert set(FILES) == {"d2l_resnet18", "digits", "finetune", "pretrained", *IMAGENET_FILES, *CIFAR_FILES}


@pytest.mark.parametrize(
    ("name", "table"),
    [
        (
            "resnet50.a1_in1k",
            {
                "model.name": "resnet50",
                "data.source": "folder",
                "data.image_size": 288,
                "data.resize": 288,
                "data.interpolation": "bicubic",
                "data.mean": (0.485, 0.456, 0.406),
                "data.std": (0.229, 0.224, 0.225),
                "training.init_from": "resnet50.a1_in1k",
            },
        ),
        ("resnet50.IMAGENET1K_V2", {"data.image_size": 224, "data.resize": 232, "data.interpolation": "bilinear"}),
        (
            "cifar_resnet20.akamaster",
            {"model.name": "cifar_resnet20", "model.overrides.shortcut": "A_both", "data.source": "cifar10"},
        ),
    ],
)
def test_the_config_of_known_weights_has_the_values_of_their_preset(name, table):
    config = load("pretrained", name)
    assert {field: get(config, field) for field in table} == table


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'resnet50.a1_ink', did you mean 'resnet50.a1_in1k'"):
        load("pretrained", "resnet50.a1_ink")


def test_what_the_command_line_sets_comes_before_the_preset(monkeypatch):
    monkeypatch.chdir(FOLDER.parent)
    arguments = [
        "--config=configs/pretrained.py:resnet50.a1_in1k",
        "--config.data.resize=235",
        "--config.data.eval_size=224",
    ]
    config = main.parse(["main.py", *arguments]).config
    assert (config.data.resize, config.data.eval_size, config.data.interpolation) == (235, 224, "bicubic")


@pytest.mark.parametrize("file", CIFAR_FILES)
@pytest.mark.parametrize("name", CIFAR_NAMES)
def test_every_registered_cifar_network_has_a_config(file, name):
    config = load(file, name)
    assert config.is_locked and config.model.name == f"cifar_{name}"
    check_config(config)


@pytest.mark.parametrize("file", CIFAR_FILES)
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "plain18", "plain34", "densenet121"])
def test_imagenet_s_networks_get_the_stem_for_small_images(file, name):
    config = load(file, name)
    assert (config.model.name, config.model.overrides.stem) == (name, "cifar")
    check_config(config)


@pytest.mark.parametrize("file", CIFAR_FILES)
def test_an_unknown_cifar_network_is_refused_with_the_nearest(file):
    with pytest.raises(ConfigError, match=r"'resnet65'.*did you mean 'resnet56'"):
        load(file, "resnet65")


@pytest.mark.parametrize("file", IMAGENET_FILES)
@pytest.mark.parametrize("recipe", recipes.IMAGENET)
def test_every_imagenet_network_can_be_trained_by_every_recipe(file, recipe):
    config = load(file, recipe)
    assert config.is_locked and config.model.name == file
    check_config(config)
    setup.network(typed_config(config), 1000, None)


@pytest.mark.parametrize("file", IMAGENET_FILES)
def test_an_unknown_imagenet_recipe_is_refused_with_the_nearest(file):
    with pytest.raises(ConfigError, match=r"'torchvision_v3'.*did you mean 'torchvision_v"):
        load(file, "torchvision_v3")


# torchvision's own counts, as in the metadata of its weights.
@pytest.mark.parametrize(
    "file, params",
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnext50_32x4d", 25_028_904),
    ],
)
def test_the_imagenet_networks_have_the_published_parameters(file, params):
    assert parameters(load(file), (224, 224, 3), 1000) == (params, (2, 1000))


# Of networks with shortcut A, as commonly reported; preact_resnet164 as in hysts/pytorch_image_classification.
@pytest.mark.parametrize(
    "name, params",
    [
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("resnet1202", 19_421_274),
        ("plain20", 269_722),
        ("preact_resnet164", 1_703_258),
    ],
)
def test_the_cifar10_networks_have_the_published_parameters(name, params):
    assert parameters(load("cifar10", name), (32, 32, 3), 10) == (params, (2, 10))


@pytest.mark.parametrize(
    "file, image_shape, classes",
    [("cifar100", (32, 32, 3), 100), ("fashion_mnist", (28, 28, 1), 10), ("digits", (8, 8, 1), 10)],
)
def test_the_networks_of_other_data_sets_fit_their_images(file, image_shape, classes):
    assert parameters(load(file), image_shape, classes)[1] == (2, classes)


SHORT = {
    "data.source": "cifar10",
    "augment.pad": 4,
    "augment.flip": True,
    "training.batch_size": 128,
    "training.steps": None,
    "training.epochs": 10.0,
    "training.loss": "cross_entropy",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.2,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": True,
    "optimizer.weight_decay": 5e-4,
    "optimizer.weight_decay_mask": "all",
    "schedule.name": "cosine",
    "schedule.warmup_epochs": 1.0,
    "schedule.warmup_start": 0.0,
    "schedule.end": 0.0,
}


def test_the_short_recipe_has_its_own_values():
    config = recipes.cifar_short()
    assert {field: get(config, field) for field in SHORT} == SHORT


def test_the_moving_average_of_torchvisions_second_recipe_forgets_in_32_steps_what_its_update_forgets_in_one():
    # 8 devices of 128 images, one update in 32 steps, 600 epochs, --model-ema-decay 0.99998.
    assert recipes.imagenet_torchvision_v2().training.ema_decay ** 32 == pytest.approx(1 - 1.0922667e-3, abs=1e-9)


# The first step of an epoch, and the rate that the source has in it. Of the cosines, epochs at 1/5 and 3/5 of the way
# from the end of the warm-up to the end, for timm's from the start to the end: (1 + cos(pi / 5)) / 2 = 0.9045085 and
# (1 + cos(3 pi / 5)) / 2 = 0.3454915.
@pytest.mark.parametrize(
    "recipe, rates",
    [
        ("fb_resnet_torch", {0: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 0.001, 89: 0.001}),
        ("resnext", {0: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 0.001, 89: 0.001, 90: 0.0001, 99: 0.0001}),
        ("torchvision_v1", {0: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 0.001, 89: 0.001}),
        ("torchvision_v1_100_epochs", {0: 0.1, 30: 0.01, 60: 0.001, 89: 0.001, 90: 0.0001}),
        ("torchvision_v2", {0: 0.005, 1: 0.104, 4: 0.401, 5: 0.5, 124: 0.45225425, 362: 0.17274575}),
        ("rsb_a1", {0: 1e-4, 1: 1.08e-3, 5: 4.9991435e-3, 120: 4.522638e-3, 360: 1.728112e-3}),
        ("rsb_a2", {0: 1e-4, 1: 1.08e-3, 5: 4.9965745e-3, 60: 4.522638e-3, 180: 1.728112e-3}),
        ("rsb_a3", {0: 1e-4, 1: 1.68e-3, 5: 7.9507595e-3, 20: 7.236164e-3, 60: 2.764587e-3}),
    ],
)
def test_an_imagenet_recipe_has_its_rates_from_the_first_step_of_an_epoch_to_the_last(recipe, rates):
    config = recipes.imagenet(recipe, "resnet50")
    per_epoch = IMAGENET_IMAGES / config.training.batch_size
    schedule = jax.jit(setup.schedule(typed_config(config), per_epoch, config.training.epochs))
    for epoch, rate in rates.items():
        first, last = math.ceil(epoch * per_epoch), math.ceil((epoch + 1) * per_epoch) - 2
        np.testing.assert_allclose([schedule(first), schedule(last)], rate, rtol=1e-5)


@pytest.mark.parametrize("network, peak", [("resnet50", 1.7), ("resnet18", 0.5)])
def test_a_recipe_of_ffcv_has_the_rates_of_its_cyclic_schedule(network, peak):
    """`get_cyclic_lr` of ffcv-imagenet's train_imagenet.py: lines through 1e-4 of the peak, the peak and 0."""
    config = recipes.imagenet("ffcv_16", network)
    per_epoch = IMAGENET_IMAGES / config.training.batch_size
    schedule = jax.jit(setup.schedule(typed_config(config), per_epoch, 16.0))
    steps = [0, 100, round(2 * per_epoch), round(9.5 * per_epoch), round(16 * per_epoch) - 1]
    expected = np.interp(np.array(steps) / per_epoch, [0, 2, 16], [1e-4 * peak, peak, 0])
    np.testing.assert_allclose([schedule(step) for step in steps], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "epochs, ramp", [(16, (11, 13)), (24, (17, 20)), (32, (23, 27)), (40, (29, 34)), (56, (41, 48)), (88, (65, 76))]
)
def test_a_recipe_of_ffcv_has_the_image_size_of_each_epoch(epochs, ramp):
    """`get_resolution` of ffcv-imagenet's train_imagenet.py, by the ramps of its files."""
    config = recipes.imagenet(f"ffcv_{epochs}", "resnet50")
    ((start, later),) = config.data.size_schedule
    for epoch in range(epochs):
        size = int(np.round(np.interp(epoch, ramp, (160, 192)) / 32)) * 32
        assert (later if epoch >= start else config.data.image_size) == size


def test_a_number_of_epochs_that_ffcv_has_not_is_refused():
    with pytest.raises(ConfigError, match="no recipe of 20 epochs: use 16, 24"):
        recipes.imagenet_ffcv(20)


def test_a_recipe_shows_its_values_in_one_function():
    """No recipe calls another: a reader finds all that it sets in one place."""
    tree = ast.parse((FOLDER / "recipes.py").read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for name, function in functions.items():
        called = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        assert called.isdisjoint(functions), name


def test_the_rate_of_the_first_recipes_grows_with_the_batch():
    config = recipes.imagenet_torchvision_v1()
    config.training.batch_size = 1024
    np.testing.assert_allclose(setup.schedule(typed_config(config), 1251.0, 90.0)(0), 0.4, rtol=1e-6)


# 1,281,167 images times the epochs over the batch.
@pytest.mark.parametrize(
    "recipe, steps",
    [
        ("fb_resnet_torch", 450_410),
        ("resnext", 500_456),
        ("torchvision_v1", 450_410),
        ("torchvision_v1_100_epochs", 500_456),
        ("torchvision_v2", 750_684),
        ("nvidia", 56_301),
        ("rsb_a1", 375_342),
        ("rsb_a2", 187_671),
        ("rsb_a3", 62_557),
        ("ffcv_16", 5_005),
        ("ffcv_88", 27_525),
    ],
)
def test_an_imagenet_recipe_ends_after_the_steps_of_its_source(recipe, steps, build):
    assert build(recipes.imagenet(recipe, "resnet50")).total_steps == steps


@pytest.mark.parametrize("recipe, train, evaluation", [("torchvision_v2", 176, 224), ("rsb_a3", 160, 224)])
def test_training_and_evaluation_may_have_images_of_different_sizes(recipe, train, evaluation, build):
    made = build(recipes.imagenet(recipe, "resnet50"))
    photo = np.zeros((300, 400, 3), np.uint8)
    assert made.train_loader.transform(photo, np.random.default_rng(0)).shape == (train, train, 3)
    assert made.eval_loader.transform(photo, np.random.default_rng(0)).shape == (evaluation, evaluation, 3)


def test_evaluation_has_the_size_of_training_where_nothing_else_is_said(build):
    config = recipes.imagenet_torchvision_v1()
    config.data.image_size = 128
    made = build(config)
    assert made.eval_loader.transform(np.zeros((300, 400, 3), np.uint8)).shape == (128, 128, 3)


PLAIN_START = {0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}
WARM_START = PLAIN_START | {0: 0.01, 200: 0.055, 400: 0.1}


@pytest.mark.parametrize("file", ["cifar10", "cifar100"])
@pytest.mark.parametrize(
    "name, rates",
    [
        ("resnet20", PLAIN_START),
        ("resnet56", PLAIN_START),
        ("plain56", PLAIN_START),
        ("resnet110", WARM_START),
        ("resnet1202", WARM_START),
        ("plain110", WARM_START),
        ("preact_resnet110", WARM_START),
        ("preact_resnet164", WARM_START),
        ("preact_resnet1001", WARM_START),
    ],
)
def test_a_cifar_run_has_the_rates_of_the_paper_and_the_deep_ones_start_low(file, name, rates, build):
    made = build(load(file, name), 50_000, 100)
    assert made.total_steps == 64_000
    np.testing.assert_allclose([made.learning_rate(step) for step in rates], list(rates.values()), rtol=1e-5)


@pytest.mark.parametrize("file", ["cifar10", "cifar100"])
def test_a_resnext_of_cifar_has_the_rates_of_its_paper(file, build):
    made = build(load(file, "resnext29_8x64d"), 50_000, 100)
    epoch = 50_000 / 128
    assert made.total_steps == round(300 * epoch)
    rates = [made.learning_rate(math.ceil(epochs * epoch)) for epochs in (0, 149, 150, 224, 225, 299)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-5)


def test_the_fast_run_rises_for_five_epochs_of_24_and_falls_to_zero_on_a_line():
    """`PiecewiseLinear([0, 5, 24], [0, 0.4, 0])` of cifar10-fast's dawn.py."""
    config = load("cifar10_fast")
    epoch = 50_000 / 512
    schedule = setup.schedule(typed_config(config), epoch, 24.0)
    rates = [schedule(round(epochs * epoch)) for epochs in (0, 2.5, 5, 14.5, 24)]
    np.testing.assert_allclose(rates, [0, 0.2, 0.4, 0.2, 0], atol=2e-3)
    assert config.training.log_every == math.ceil(epoch)


@pytest.mark.parametrize("file, examples, steps", [("cifar10_short", 50_000, 3906), ("fashion_mnist", 60_000, 4688)])
def test_a_short_run_rises_for_an_epoch_and_ends_at_zero_after_ten(file, examples, steps, build):
    made = build(load(file), examples, 10)
    epoch = examples / 128
    rates = [made.learning_rate(round(epochs * epoch)) for epochs in (0, 0.5, 1, 5.5, 10)]
    assert made.total_steps == steps
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.1, 0], atol=2e-4)


@pytest.mark.parametrize(
    "recipe, changes",
    [
        ("torchvision_v1", ""),
        ("torchvision_v2", "TrivialAugmentWide()"),
        ("rsb_a2", "RandAugment(magnitude=7.0, layers=2, deviation=0.5, interpolation='bicubic')"),
        ("rsb_a3", "RandAugment(magnitude=6.0, layers=2, deviation=0.5, interpolation='bicubic')"),
        ("fb_resnet_torch", "ColorJitter(strength=0.4) Lighting(deviation=0.1)"),
    ],
)
def test_a_recipe_changes_images_on_the_host_as_its_source(recipe, changes, build):
    loader = build(recipes.imagenet(recipe, "resnet50")).train_loader
    assert " ".join(map(repr, loader.transform.changes)) == changes


def test_images_have_the_size_of_their_epoch(build):
    config = recipes.imagenet_torchvision_v1()
    config.data.size_schedule = ((0.0, 128), (18.0, 160), (60.5, 192))
    loader = build(config).train_loader
    epoch = IMAGENET_IMAGES / 256
    sizes = {
        step: loader.reader.transform_at(step).size
        for step in map(math.ceil, (0, 17.99 * epoch, 18 * epoch, 60.4 * epoch, 60.5 * epoch, 89 * epoch))
    }
    assert list(sizes.values()) == [128, 128, 160, 160, 192, 192]


@pytest.mark.parametrize("network", ["resnet18", "resnet50", "resnext50_32x4d", "resnetv2_50"])
def test_fine_tuning_begins_with_weights_of_its_own_network(network):
    config = load("finetune", network)
    preset = named(config.training.init_from)
    assert config.model.name == preset.network == network
