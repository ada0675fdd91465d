import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.augment import normalize
from resnet_jax.data.transforms import RandomResizedCrop, ResizeCenterCrop
from resnet_jax.weights.presets import named
from tests.golden.make_torch_preprocessing import (
    CASES,
    GOLDEN,
    MEAN,
    STD,
    STEP,
    TRAINING,
    TRAINING_CASES,
    TRAINING_NOISE,
    TRAINING_SIZE,
    image,
)
from tests.weights.test_weights import SHARED

SAMPLES = SHARED / "data" / "imagenet_samples"


@pytest.mark.parametrize("number", range(len(CASES)))
def test_images_are_prepared_as_torchvision_does(number):
    width, height, resize, size, interpolation = CASES[number]
    found = ResizeCenterCrop(resize, size, interpolation)(image(width, height))[::STEP, ::STEP]
    expected = np.load(GOLDEN)[str(number)].astype(int)
    assert np.abs(found - expected).mean() < 0.05 and np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("number", range(len(TRAINING_CASES)))
def test_training_images_are_prepared_as_by_torchvisions_preset_within_three_levels(number, monkeypatch):
    width, height, box, mirrored, interpolation = TRAINING_CASES[number]
    monkeypatch.setattr(RandomResizedCrop, "box", lambda *_: box)
    crop = RandomResizedCrop(TRAINING_SIZE, interpolation=interpolation, flip=float(mirrored))
    pixels = jnp.asarray(crop(image(width, height, TRAINING_NOISE), np.random.default_rng(0)))
    found = normalize(pixels[None], MEAN, STD)[0, ::STEP, ::STEP]
    expected = np.load(TRAINING)[str(number)].astype(np.float32)
    levels = np.abs(found - expected) * 255 * np.array(STD)
    assert levels.mean() < 3 and abs(np.mean(found - expected)) < 0.01


def weights_of_triangle(before, after):
    """The matrix that resizes a line of pixels by the bilinear filter, which is widened where the line shrinks."""
    scale = before / after
    centres = (np.arange(after)[:, None] + 0.5) * scale
    triangle = np.maximum(0, 1 - np.abs(np.arange(before) + 0.5 - centres) / max(scale, 1))
    return triangle / triangle.sum(1, keepdims=True)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="../shared/data/imagenet_samples, the real images, are not here")
@pytest.mark.parametrize("name", ["resnet50.IMAGENET1K_V1", "resnet50.IMAGENET1K_V2"])
def test_real_images_are_within_a_level_of_the_antialiased_bilinear_filter(name):
    preset = named(name)
    for file in sorted(SAMPLES.glob("*.JPEG"))[::10]:
        with Image.open(file) as opened:
            pixels = np.asarray(opened.convert("RGB"), np.float64)
        height, width, _ = pixels.shape
        short = min(height, width)
        rows, columns = (int(preset.resize * side / short) for side in (height, width))
        resized = np.einsum("rh,hwc->rwc", weights_of_triangle(height, rows), pixels, optimize=True)
        resized = np.einsum("sw,rwc->rsc", weights_of_triangle(width, columns), resized, optimize=True)
        top, left = (round((side - preset.size) / 2) for side in (rows, columns))
        expected = resized[top : top + preset.size, left : left + preset.size]
        found = ResizeCenterCrop(preset.resize, preset.size, preset.interpolation)(file.read_bytes())
        assert np.abs(found - expected).mean() < 1, file.name
