import functools
import pathlib

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.policies import (
    EIGENVALUES,
    EIGENVECTORS,
    OPERATIONS,
    ColorJitter,
    Lighting,
    RandAugment,
    TrivialAugmentWide,
    apply,
)
from tests.pictures import photo

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "torch_policies.npz"
# What torchvision and timm call what is called otherwise here.
NAMES = {"ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x", "TranslateY": "translate_y"}
NAMES |= {"TranslateXRel": "translate_x", "TranslateYRel": "translate_y"}
NAMES |= {"AutoContrast": "auto_contrast", "SolarizeAdd": "solarize_add"}
ENHANCING = ("brightness", "color", "contrast", "sharpness")
ALL = [TrivialAugmentWide(), RandAugment(7), RandAugment(10, layers=4), ColorJitter(0.4), Lighting(0.1)]


@functools.cache
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def rows(kind):
    return zip(golden()[kind].tolist(), golden()[f"{kind}_images"], strict=True)


def named(theirs):
    return NAMES.get(theirs, theirs.removesuffix("Increasing").lower())


def test_every_operation_of_trivial_augment_is_torchvisions_at_each_strength_and_sign():
    seen = set()
    for row, expected in rows("trivial"):
        theirs, step, sign = row.split()
        name, step, sign = named(theirs), int(step), int(sign)
        amount = TrivialAugmentWide.amounts(step)[name]
        amount = 1 + sign * amount if name in ENHANCING else sign * amount
        far = np.abs(apply(golden()["image"], name, amount).astype(int) - expected)
        assert far.max() <= 1 and np.mean(far) < 0.01, row  # torchvision's amounts are rounded to float32
        seen.add(name)
    assert seen == TrivialAugmentWide.amounts(0).keys() and len(seen) == 14


def test_every_operation_of_rand_augment_is_timms_at_each_strength_and_sign():
    sampling = (Image.Resampling.BICUBIC, (124, 116, 104))
    image, seen = golden()["image"], set()
    for row, expected in rows("rand"):
        theirs, level, sign = row.split()
        # timm moves the window where torchvision moves the contents: the same by even chance of either sign.
        moves = -1 if theirs.startswith("Translate") else 1
        amount = RandAugment.amounts(float(level) / 10, moves * int(sign), image.shape)[named(theirs)]
        np.testing.assert_array_equal(apply(image, named(theirs), amount, sampling), expected, err_msg=row)
        seen.add(named(theirs))
    assert seen == RandAugment.amounts(0, 1, image.shape).keys() and len(seen) == 15


def test_what_is_jittered_is_what_torchvision_adjusts():
    for (kind, factor), expected in rows("jitter"):
        name = ("brightness", "contrast", "color")[int(kind)]
        np.testing.assert_array_equal(apply(golden()["image"], name, factor), expected)


class Chosen:
    """A generator that keeps the order of what it permutes, and draws the given numbers."""

    def __init__(self, *numbers):
        self.numbers = iter(numbers)

    def permutation(self, names):
        return np.array(names)

    def uniform(self, low, high):
        return low + next(self.numbers) * (high - low)


def test_jitter_changes_brightness_contrast_and_saturation_by_its_strength_at_most():
    image = golden()["image"]
    expected = apply(apply(apply(image, "brightness", 0.6), "contrast", 1.4), "color", 1.0)
    np.testing.assert_array_equal(ColorJitter(0.4)(image, Chosen(0, 1, 0.5)), expected)


def test_lighting_adds_one_colour_with_the_covariance_of_imagenets_colours():
    image = np.full((2, 2, 3), 128, np.uint8)
    random = np.random.default_rng(0)
    colours = []
    for _ in range(4000):
        lit = Lighting(0.1)(image, random)
        assert (lit == lit[0, 0]).all()
        colours.append((lit[0, 0] - 128.0) / 255)
    expected = EIGENVECTORS @ np.diag((0.1 * EIGENVALUES) ** 2) @ EIGENVECTORS.T
    np.testing.assert_allclose(np.cov(np.array(colours).T), expected, atol=0.1 * expected.max())
    # Published to four digits: the vectors are orthonormal as far.
    np.testing.assert_allclose(EIGENVECTORS.T @ EIGENVECTORS, np.eye(3), atol=2e-4)


@pytest.mark.parametrize("change", ALL, ids=repr)
def test_a_change_follows_from_image_and_seed_alone_and_keeps_size_and_input(change):
    image = photo(20, 30)
    before = image.copy()
    made = [change(image, np.random.default_rng(seed)) for seed in [*range(30), *range(30)]]
    for first, again in zip(made[:30], made[30:], strict=True):
        np.testing.assert_array_equal(first, again)
    assert {(changed.shape, changed.dtype) for changed in made} == {((20, 30, 3), np.dtype(np.uint8))}
    assert len({changed.tobytes() for changed in made}) > 15
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("change", [TrivialAugmentWide(), RandAugment(7, deviation=0.0)], ids=repr)
def test_all_operations_come_about_equally_often(change, monkeypatch):
    # Each counts its turns by what it was asked to do; RandAugment leaves out half of its two.
    counts = dict.fromkeys(OPERATIONS, 0)

    def count(image, name, *rest):
        counts[name] += 1
        return image

    monkeypatch.setattr("resnet_jax.data.policies.apply", count)
    random = np.random.default_rng(0)
    for _ in range(3000):
        change(np.zeros((4, 4, 3), np.uint8), random)
    turns = [number for number in counts.values() if number]
    assert len(turns) == (14 if isinstance(change, TrivialAugmentWide) else 15)
    assert sum(turns) == pytest.approx(3000, rel=0.05)
    assert min(turns) > 150 and max(turns) < 270


def test_the_strengths_of_rand_augment_lie_around_its_magnitude(monkeypatch):
    angles = []
    monkeypatch.setattr(
        "resnet_jax.data.policies.apply",
        lambda image, name, amount, _: (angles.append(amount) if name == "rotate" else 0, image)[1],
    )
    random = np.random.default_rng(0)
    for _ in range(6000):
        RandAugment(7)(np.zeros((4, 4, 3), np.uint8), random)
    assert np.mean(np.abs(angles)) == pytest.approx(21, abs=0.3) and np.std(np.abs(angles)) == pytest.approx(
        1.5, abs=0.2
    )
    assert np.mean(np.sign(angles)) == pytest.approx(0, abs=0.15)
