import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.augment import Augment, crop_and_flip, cutmix, erase, mixup, normalize

MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 0.2)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_normalized_images_are_scaled_to_1_less_the_mean_by_the_deviation():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    found = normalize(jnp.asarray(images), MEAN, STD)
    expected = (images.astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == jnp.float32


def windows(image, pad):
    """All that a crop and a mirror can make of an image, by (top, left, mirrored)."""
    height, width = image.shape[:2]
    padded = np.zeros((height + 2 * pad, width + 2 * pad, image.shape[2]), image.dtype)
    padded[pad : pad + height, pad : pad + width] = image
    found = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            window = padded[top : top + height, left : left + width]
            found[top, left, False], found[top, left, True] = window, window[:, ::-1]
    return found


def counts_of_windows(pad, flip, draws=1000):
    """How often each window of an image came out of `draws` crops; fails on what is no window."""
    image = np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
    found = jax.jit(functools.partial(crop_and_flip, pad=pad, flip=flip))(
        jnp.broadcast_to(image, (draws, *image.shape)), keys(draws)
    )
    names = {window.tobytes(): name for name, window in windows(image, pad).items()}
    assert len(names) == 2 * (2 * pad + 1) ** 2
    counts = dict.fromkeys(names.values(), 0)
    for crop in np.asarray(found):
        counts[names[crop.tobytes()]] += 1
    return counts


def test_a_crop_is_a_window_of_the_padded_image_and_all_windows_and_mirrors_come_about_equally_often():
    counts = counts_of_windows(pad=2, flip=True)
    assert len(counts) == 50
    # A count is 20 in the mean, with a deviation of 4.4.
    assert min(counts.values()) > 5 and max(counts.values()) < 40
    assert 400 < sum(count for (_, _, mirrored), count in counts.items() if mirrored) < 600


def test_without_flip_nothing_is_mirrored():
    counts = counts_of_windows(pad=1, flip=False)
    assert all((count > 0) == (not mirrored) for (_, _, mirrored), count in counts.items())


def test_without_padding_images_are_mirrored_and_nothing_else():
    counts = counts_of_windows(pad=0, flip=True)
    assert counts.keys() == {(0, 0, False), (0, 0, True)}
    assert min(counts.values()) > 400


def test_each_image_has_a_crop_and_a_mirror_of_its_own():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(32, 4, 5, 1)), jnp.float32)
    found = np.asarray(jax.jit(functools.partial(crop_and_flip, pad=2, flip=True))(images, keys(32)))
    drawn = set()
    for image, crop in zip(np.asarray(images), found, strict=True):
        drawn |= {name for name, window in windows(image, 2).items() if np.array_equal(window, crop)}
    assert len(drawn) > 16


def test_the_padding_has_the_mean_colour():
    augment = Augment(mean=MEAN, std=STD, num_classes=2, pad=3)
    # 0.2, 0.4 and 0.6 of 255 are whole: an image in the mean colour can not be told from its padding.
    plain = jnp.broadcast_to(jnp.array([51, 102, 153], jnp.uint8), (16, 4, 4, 3))
    white = jnp.full((16, 4, 4, 3), 255, jnp.uint8)
    labels, positions = jnp.zeros(16, jnp.int32), jnp.arange(16, dtype=jnp.uint32)
    images, _ = augment(jax.random.key(0), plain, labels, positions)
    np.testing.assert_allclose(images, np.zeros((16, 4, 4, 3)), atol=1e-6)
    images, _ = augment(jax.random.key(0), white, labels, positions)
    colours = np.unique(np.asarray(images).reshape(-1, 3), axis=0)
    np.testing.assert_allclose(colours, [[0, 0, 0], (1 - np.array(MEAN)) / STD], atol=1e-5)


@functools.cache
def erased(height=40, width=56, draws=2000, probability=0.5):
    """Where white images of a size were set to zeros: (draws, height, width)."""
    white = jnp.ones((draws, height, width, 3))
    found = np.asarray(jax.jit(functools.partial(erase, probability=probability))(white, keys(draws)))
    assert set(np.unique(found)) <= {0.0, 1.0}
    np.testing.assert_array_equal(found[..., 0], found[..., 2])
    return found[..., 0] == 0


def test_what_is_erased_is_one_rectangle_of_2_to_33_percent_whose_sides_are_in_the_ratio_published():
    boxes = erased()
    hit = boxes.any(axis=(1, 2))
    assert hit.mean() == pytest.approx(0.5, abs=0.04)
    heights, widths = boxes.any(axis=2).sum(axis=1)[hit], boxes.any(axis=1).sum(axis=1)[hit]
    np.testing.assert_array_equal(heights * widths, boxes[hit].sum(axis=(1, 2)))
    area, ratio = heights * widths / (40 * 56), heights / widths
    # Sides are rounded to whole pixels: of the smallest, 3 or 4 pixels long, by a sixth.
    assert 0.016 < area.min() < 0.03 and 0.3 < area.max() < 0.35
    assert 0.25 < ratio.min() < 0.4 and 2.5 < ratio.max() < 3.9
    assert np.mean(area[ratio < 1.5]) == pytest.approx((0.02 + 0.33) / 2, abs=0.01)  # all of these fit
    assert boxes.any(axis=0).all(), "every pixel is erased at times"


def test_erasing_is_by_its_probability():
    assert not erased(draws=50, probability=0.0).any() and erased(draws=50, probability=1.0).any(axis=(1, 2)).all()


def told_apart(batch):
    """Images whose channel means are shares: image i is 1 in channel i, and its target is class i."""
    targets = np.eye(batch, dtype=np.float32)
    return jnp.asarray(np.broadcast_to(targets[:, None, None], (batch, 8, 6, batch))), jnp.asarray(targets)


ALPHA = {mixup: 0.2, cutmix: 1.0}


@functools.cache
def mixed_by(mix):
    """A batch of 5 mixed by 1000 keys: images (1000, 5, 8, 6, 5) and targets (1000, 5, 5)."""
    images, targets = told_apart(5)
    mixed = jax.jit(jax.vmap(lambda key: mix(images, targets, key, ALPHA[mix])))(keys(1000))
    return jax.tree.map(np.asarray, mixed)


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_mixed_targets_are_the_shares_of_the_pixels_that_each_example_gave(mix):
    mixed, shares = mixed_by(mix)
    np.testing.assert_allclose(mixed.mean(axis=(2, 3)), shares, atol=1e-5)
    np.testing.assert_allclose(shares.sum(-1), np.ones((1000, 5)), atol=1e-6)
    for i in range(5):  # nothing comes from any but the example and its mirror in the batch
        others = [j for j in range(5) if j not in (i, 4 - i)]
        assert not np.any(shares[:, i, others])


def test_mixup_blends_all_pixels_alike_by_a_share_with_the_variance_of_its_beta_distribution():
    mixed, shares = mixed_by(mixup)
    np.testing.assert_allclose(mixed, np.broadcast_to(shares[:, :, None, None], mixed.shape), atol=1e-6)
    share = shares[:, 0, 0]
    np.testing.assert_allclose(share.mean(), 0.5, atol=0.05)
    np.testing.assert_allclose(share.var(), 1 / (4 * (2 * ALPHA[mixup] + 1)), rtol=0.1)


def test_cutmix_takes_the_pixels_of_one_rectangle_from_the_other_example():
    mixed, _ = mixed_by(cutmix)
    pasted = mixed[:, 0, :, :, 4]
    assert set(np.unique(mixed)) == {0.0, 1.0}
    for box in pasted:
        rows, columns = box.any(axis=1), box.any(axis=0)
        np.testing.assert_array_equal(box, np.outer(rows, columns))
        assert np.sum(np.diff(rows.astype(int)) == 1) + rows[0] <= 1  # one run of rows
        assert np.sum(np.diff(columns.astype(int)) == 1) + columns[0] <= 1
    areas = pasted.mean(axis=(1, 2))
    assert areas.min() < 0.05 and areas.max() > 0.4
    assert np.all(pasted.any(axis=0)), "every pixel is pasted at times"


@functools.partial(jax.jit, static_argnums=0)
def program(augment, *arrays):
    return augment(*arrays)


def augmented(augment, images, labels, positions, seed=0):
    arrays = (jnp.asarray(images), jnp.asarray(labels, jnp.int32), jnp.asarray(positions, jnp.uint32))
    return jax.tree.map(np.asarray, program(augment, jax.random.key(seed), *arrays))


def test_label_smoothing_spreads_its_share_over_all_classes():
    augment = Augment(mean=MEAN, std=STD, num_classes=4, label_smoothing=0.2)
    _, targets = augmented(augment, noise(2, 4, 4, 3), [1, 3], range(2))
    np.testing.assert_allclose(targets, [[0.05, 0.85, 0.05, 0.05], [0.05, 0.05, 0.05, 0.85]], rtol=1e-6)


RANDOM = Augment(mean=MEAN, std=STD, num_classes=10, pad=2, flip=True, erase=0.5)


def test_an_example_is_augmented_alike_wherever_it_lies_in_the_batch():
    images, labels, positions = noise(12, 6, 6, 3), np.arange(12) % 10, np.arange(100, 112)
    whole = augmented(RANDOM, images, labels, positions)
    order = np.random.default_rng(0).permutation(12)
    permuted = augmented(RANDOM, images[order], labels[order], positions[order])
    halves = [augmented(RANDOM, images[h], labels[h], positions[h]) for h in (slice(0, 6), slice(6, 12))]
    for i in range(2):
        np.testing.assert_allclose(permuted[i], whole[i][order], atol=1e-6)
        np.testing.assert_allclose(np.concatenate([half[i] for half in halves]), whole[i], atol=1e-6)


def test_key_and_position_both_change_the_augmentation():
    images, labels = noise(1, 6, 6, 3).repeat(8, axis=0), np.zeros(8)
    one, _ = augmented(RANDOM, images, labels, range(8))
    assert len({image.tobytes() for image in one}) > 4
    for other, _ in (
        augmented(RANDOM, images, labels, range(8), seed=1),
        augmented(RANDOM, images, labels, range(8, 16)),
        augmented(RANDOM, images, labels, range(2**31, 2**31 + 8)),
    ):
        assert np.any(one != other)


def test_a_batch_is_mixed_by_its_first_position_and_takes_both_ways_where_both_are_set():
    augment = Augment(mean=(0.0,), std=(1.0,), num_classes=2, label_smoothing=0.2, mixup=1.0, cutmix=1.0)
    images = jnp.asarray(np.stack([np.zeros((6, 6, 1)), np.full((6, 6, 1), 255)]), jnp.uint8)
    labels = jnp.array([0, 1], jnp.int32)

    @jax.jit
    @jax.vmap
    def at(position):
        return augment(jax.random.key(0), images, labels, jnp.stack([position, position + 1]))

    mixed, targets = at(jnp.arange(0, 400, 2, dtype=jnp.uint32))
    blended = np.any((mixed > 1e-3) & (mixed < 1 - 1e-3), axis=(1, 2, 3, 4))
    assert 60 < blended.sum() < 140  # of 200, by even chance
    assert len(np.unique(targets[blended, 0, 0])) > 0.9 * blended.sum()
    shares = mixed[:, 0].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(targets[:, 0, 1], 0.1 + 0.8 * shares, atol=1e-5)
    np.testing.assert_allclose(targets.sum(-1), np.ones((200, 2)), rtol=1e-6)


def test_evaluation_only_normalizes():
    images = noise(3, 6, 6, 3)
    everything = Augment(
        mean=MEAN, std=STD, num_classes=10, pad=2, flip=True, erase=1.0, label_smoothing=0.1, mixup=1.0, cutmix=1.0
    )
    expected = (images / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(everything.inputs(jnp.asarray(images)), expected, atol=1e-6)


def test_with_nothing_set_training_reads_what_evaluation_reads():
    nothing = Augment(mean=MEAN, std=STD, num_classes=3)
    images = noise(4, 6, 6, 3)
    found, targets = augmented(nothing, images, [0, 1, 2, 0], range(4))
    np.testing.assert_allclose(found, nothing.inputs(jnp.asarray(images)), atol=1e-6)
    np.testing.assert_array_equal(targets, np.eye(3)[[0, 1, 2, 0]])


def test_images_are_enlarged_as_pillow_enlarges_them():
    image = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1), dtype=np.uint8)
    augment = Augment(mean=(0.0,), std=(1.0,), num_classes=10, size=96)
    pillow = Image.fromarray(image[0, :, :, 0]).resize((96, 96), Image.Resampling.BILINEAR)
    made = augment.inputs(jnp.asarray(image))
    assert made.shape == (1, 96, 96, 1)
    np.testing.assert_allclose(255 * made[0, :, :, 0], np.asarray(pillow, np.float32), atol=1.0)
