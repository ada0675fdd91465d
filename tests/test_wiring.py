import jax
import numpy as np
import pytest
from PIL import Image

import main as command
from resnet_jax import runner
from resnet_jax.errors import ConfigError
from resnet_jax.wiring import build


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
    """The config of ResNet-50 on ImageNet, made small."""
    small = {
        "data.path": image_folder,
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
    }
    monkeypatch.chdir(command.__file__.removesuffix("main.py"))
    arguments = [f"--config.{field}={value}" for field, value in small.items()]
    return command.parse(["main.py", "--config=configs/resnet50.py", *arguments]).config


def test_resnet50_config_trains_resumes_and_counts_every_image_of_a_folder(folder_config, tmp_path):
    summary = runner.run(folder_config, tmp_path / "run", "train")
    assert summary["eval_examples"] == 10 and summary["steps"] == 15
    assert runner.run(folder_config, tmp_path / "run", "train") == summary


def test_streamed_images_are_the_same_from_any_step_on(folder_config):
    feed = build(folder_config).train_feed
    whole = list(feed.chunks([(step, step + 1) for step in range(6)]))
    later = list(feed.chunks([(4, 5), (5, 6)]))
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
