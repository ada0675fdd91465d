import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

import main as command
from resnet_jax import __main__ as commands
from resnet_jax import runner
from resnet_jax.errors import ConfigError
from resnet_jax.setup import build

SAMPLES = pathlib.Path(__file__).parents[1].parent / "shared" / "data" / "imagenet_samples"


@pytest.fixture
def image_folder(tmp_path):
    """Three classes of noisy JPEGs in three colours and odd sizes: 30 to train on, 10 to evaluate."""
    random = np.random.default_rng(0)
    for split, count in (("train", 30), ("val", 10)):
        for number in range(count):
            folder = tmp_path / "images" / split / "rgb"[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 120, (random.integers(40, 70), random.integers(40, 70), 3), np.uint8)
            pixels[..., number % 3] += 120
            Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return tmp_path / "images"


@pytest.fixture
def folder_config(image_folder, monkeypatch):
    """The config of ResNet-50 on a folder, made small."""
    return small_resnet50(monkeypatch, {"data.path": image_folder})


def small_resnet50(monkeypatch, fields):
    """The config of ResNet-50 on ImageNet, made small, with some fields."""
    small = {
        "data.image_size": 32,
        "data.resize": 36,
        "data.workers": 0,
        "model.dtype": "float32",
        "model.overrides.stage_sizes": (1, 1),
        "model.overrides.stage_widths": (4, 8),
        "model.overrides.stem_width": 8,
        "training.batch_size": 8,
        "training.epochs": 4,
        "training.log_every": 3,
        "evaluation.batch_size": 8,
        "evaluation.every_epochs": 4,
        "parallel.devices": 2,
    } | fields
    monkeypatch.chdir(command.__file__.removesuffix("main.py"))
    arguments = [f"--config.{field}={value}" for field, value in small.items()]
    return command.parse(["main.py", "--config=configs/resnet50.py", *arguments]).config


def test_resnet50_config_trains_resumes_and_counts_every_image_of_a_folder(folder_config, tmp_path):
    summary = runner.run(folder_config, tmp_path / "run", "train")
    assert summary["eval_examples"] == 10 and summary["steps"] == 15
    assert runner.run(folder_config, tmp_path / "run", "train") == summary


def test_resnet50_config_trains_on_packed_images_by_all_that_the_recipes_have(image_folder, tmp_path, monkeypatch):
    assert commands.main(["pack", str(image_folder), str(tmp_path / "packed"), "--workers", "1"]) == 0
    fields = {
        "data.source": "records",
        "data.path": tmp_path / "packed",
        "data.size_schedule": "((2,40),)",
        "model.overrides.stage_sizes": (1,),
        "model.overrides.stage_widths": (4,),
        "parallel.devices": 1,
        "augment.policy": "trivial_augment_wide",
        "augment.color_jitter": 0.4,
        "augment.lighting": 0.1,
        "augment.erase": 0.5,
        "augment.repeats": 4,
        "evaluation.flip": True,
        "model.overrides.blur_pool": True,
        "training.epochs": 3,
    }
    summary = runner.run(small_resnet50(monkeypatch, fields), tmp_path / "run", "train")
    assert summary["eval_examples"] == 10 and summary["steps"] == 11


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="../shared/data/imagenet_samples, the real images, are not here")
def test_resnet50_config_trains_and_evaluates_on_packed_photographs(tmp_path, monkeypatch):
    for file in SAMPLES.glob("*.JPEG"):
        for split in ("train", "val"):
            folder = tmp_path / "images" / split / file.name.partition("_")[0]
            folder.mkdir(parents=True)
            (folder / file.name).symlink_to(file)
    assert commands.main(["pack", str(tmp_path / "images"), str(tmp_path / "packed"), "--workers", "1"]) == 0
    fields = {
        "data.source": "records",
        "data.path": tmp_path / "packed",
        "data.image_size": 64,
        "data.resize": 73,
        "model.overrides.stage_sizes": (1,),
        "model.overrides.stage_widths": (4,),
        "parallel.devices": 1,
        "training.batch_size": 40,
        "training.epochs": 2,
        "evaluation.batch_size": 48,
        "evaluation.every_epochs": 2,
    }
    summary = runner.run(small_resnet50(monkeypatch, fields), tmp_path / "run", "train")
    assert summary["eval_examples"] == 200 and summary["steps"] == 10


def test_streamed_images_are_the_same_from_any_step_on(folder_config):
    loader = build(folder_config).train_loader
    whole = list(loader.batches([(step, step + 1) for step in range(6)]))
    later = list(loader.batches([(4, 5), (5, 6)]))
    for expected, rows in zip(whole[4:], later, strict=True):
        jax.tree.map(np.testing.assert_array_equal, expected, rows)


def test_a_mean_of_another_number_of_channels_is_refused(small_config):
    small_config.data.mean = (0.5, 0.5, 0.5)
    with pytest.raises(ConfigError, match="1 values"):
        build(small_config)


def test_a_head_too_small_for_the_classes_is_refused(small_config):
    small_config.model.overrides.num_classes = 3
    with pytest.raises(ConfigError, match="the data have 10 classes"):
        build(small_config)


def test_the_rate_grows_with_the_batch_only_where_the_config_says_so(small_config):
    assert float(build(small_config).learning_rate(0)) == pytest.approx(0.1)
    small_config.optimizer.base_batch_size = 48
    assert float(build(small_config).learning_rate(0)) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "field, value",
    [("augment.policy", "rand_augment"), ("augment.color_jitter", 0.4), ("augment.lighting", 0.1)],
)
def test_what_is_done_on_the_host_is_refused_for_images_that_lie_on_the_devices(small_config, field, value):
    group, name = field.split(".")
    small_config[group][name] = value
    with pytest.raises(ConfigError, match="The images of digits stay on the devices"):
        build(small_config)


def test_images_alternate_or_are_mirrored_by_chance_and_streamed_ones_do_not_alternate(small_config, folder_config):
    small_config.augment.alternate_flip = folder_config.augment.alternate_flip = True
    small_config.augment.flip = folder_config.augment.flip = False
    assert "mirrored" in build(small_config).train_loader.order.rows(0)
    with pytest.raises(ConfigError, match=r"set augment\.flip for streamed ones"):
        build(folder_config)
    small_config.augment.flip = True
    with pytest.raises(ConfigError, match="both mirror images"):
        build(small_config)


def test_images_of_several_sizes_are_refused_in_one_dispatch(folder_config):
    folder_config.data.size_schedule = ((1.0, 40),)
    folder_config.training.steps_per_call = 2
    with pytest.raises(ConfigError, match=r"data\.size_schedule needs"):
        build(folder_config)


def test_the_textbooks_network_sees_its_images_at_96_pixels(small_config):
    small_config.data.input_size = 96
    trainer = build(small_config)
    assert trainer.image_shape == (96, 96, 1) and trainer.preset.size == trainer.preset.resize == 96


def test_streamed_images_have_their_size_by_another_field(folder_config):
    folder_config.data.input_size = 96
    with pytest.raises(ConfigError, match=r"set data\.image_size"):
        build(folder_config)


def test_a_share_of_the_training_images_makes_shorter_epochs_and_leaves_the_evaluation(small_config):
    small_config.data.train_fraction = 0.25
    trainer = build(small_config)
    assert len(trainer.train_loader.split) == trainer.train_loader.order.examples == 360
    assert trainer.epoch_steps == 360 / 96 and len(trainer.eval_loader.split) == 359
    [said] = trainer.data
    assert said.startswith("Data: train on the 360 images in the training split, evaluate on the 359 images")


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_a_share_that_is_none_is_refused(small_config, fraction):
    small_config.data.train_fraction = fraction
    with pytest.raises(ConfigError, match=r"data.train_fraction is .* and must be more than 0, and 1 at most"):
        build(small_config)
