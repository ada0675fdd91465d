import io
import math
import pathlib
import pickle
import resource

import cv2
import numpy as np
import pytest
from PIL import Image

from resnet_jax.data import transforms
from resnet_jax.data.transforms import RandomResizedCrop, ResizeCenterCrop
from resnet_jax.errors import ConfigError
from tests.pictures import encode, noise, photo

SAMPLES = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "imagenet_samples"


class Draws:
    """A generator that returns given numbers, so that what is drawn is known: uniforms as fractions of their range."""

    def __init__(self, uniforms=(), integers=(), random=1.0):
        self.uniforms, self.integers_, self.random_ = iter(uniforms), iter(integers), random

    def uniform(self, low, high):
        return low + next(self.uniforms) * (high - low)

    def integers(self, low, high):
        value = next(self.integers_)
        assert low <= value < high
        return value

    def random(self):
        return self.random_


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="../shared/data/imagenet_samples, the real images, are not here")
def test_real_images_go_through_both_crops():
    files = sorted(SAMPLES.glob("*.JPEG"))[::20]
    for file in files:
        train = RandomResizedCrop(64)(file.read_bytes(), np.random.default_rng(0))
        test = ResizeCenterCrop(73, 64)(file.read_bytes())
        assert train.shape == test.shape == (64, 64, 3)
        assert train.dtype == test.dtype == np.uint8
        # Averaged over its area, an image and its resized self are alike; so no channel is swapped or lost.
        with Image.open(file) as image:
            square = np.asarray(image.convert("RGB"), np.float64)
        height, width, _ = square.shape
        side = round(min(height, width) * 64 / 73)
        top, left = (height - side) // 2, (width - side) // 2
        expected = square[top : top + side, left : left + side].mean((0, 1))
        np.testing.assert_allclose(test.mean((0, 1)), expected, atol=2.5)


# Random crop


def test_crop_is_where_the_random_numbers_say():
    # Half of the log-ratio range is ratio 1; half of the area range (0.08, 1) is 0.54 of 100 x 100: 73.48 squared.
    crop = RandomResizedCrop(32)
    assert crop.box(100, 100, Draws([0.5, 0.5], [4, 9])) == (9, 4, 73, 73)


def test_crop_ratio_is_width_to_height():
    # The whole ratio range is 4 / 3, and no area range is left: 0.12 of 100 x 100, so 40 wide and 30 high.
    crop = RandomResizedCrop(32, scale=(0.12, 0.12))
    assert crop.box(100, 100, Draws([0.0, 1.0], [70, 60])) == (60, 70, 40, 30)


def test_crop_that_does_not_fit_is_drawn_again():
    # The whole area at ratio 4 / 3 is wider than the image; then 0.54 of it at ratio 1 fits.
    assert RandomResizedCrop(32).box(100, 100, Draws([1.0, 1.0, 0.5, 0.5], [0, 0])) == (0, 0, 73, 73)


@pytest.mark.parametrize(
    ("size", "box"),
    [((1000, 10), (493, 0, 13, 10)), ((10, 1000), (0, 493, 10, 13)), ((100, 110), (0, 0, 100, 110))],
    ids=["wide", "high", "allowed"],
)
def test_crop_falls_back_to_the_central_one_after_ten_tries(size, box):
    # Whole images drawn at the ratio that fits worst; an eleventh try would exhaust the draws. 13 = round(10 * 4 / 3).
    worst = 0.0 if size[0] > size[1] else 1.0
    assert RandomResizedCrop(32).box(*size, Draws([1.0, worst] * 10)) == box


def test_random_crops_keep_to_their_bounds():
    crop = RandomResizedCrop(32, scale=(0.2, 0.6), ratio=(0.5, 2.0))
    rng = np.random.default_rng(0)
    width, height = 300, 200
    boxes = np.array([crop.box(width, height, rng) for _ in range(3000)])
    left, top, crop_width, crop_height = boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + crop_width <= width).all()
    assert (top + crop_height <= height).all()
    areas, ratios = crop_width * crop_height / (width * height), crop_width / crop_height
    # Rounding to whole pixels moves a side by at most half a pixel, here by less than 1 %.
    assert areas.min() > 0.2 * 0.98
    assert areas.max() < 0.6 * 1.02
    assert ratios.min() > 0.5 * 0.98
    assert ratios.max() < 2.0 * 1.02
    # Small areas fit at every ratio, and there the ratio is uniform on a log scale: half are wider than high.
    assert np.mean(np.log(ratios[areas < 0.3])) == pytest.approx(0, abs=0.05)
    assert np.std(np.log(ratios[areas < 0.3])) == pytest.approx(2 * math.log(2) / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize(
    ("interpolation", "resampling", "far"),
    [("bilinear", Image.BILINEAR, 2), ("bicubic", Image.BICUBIC, 2), ("nearest", Image.NEAREST, 0)],
)
@pytest.mark.parametrize("size", [24, 32, 48, 60, 73, 96])
def test_crop_is_pillows_crop_and_resize_within_two_255ths(interpolation, resampling, far, size):
    image = photo(100, 100)
    expected = np.asarray(Image.fromarray(image[4:77, 9:82]).resize((size, size), resampling), int)
    crop = RandomResizedCrop(size, interpolation=interpolation)
    assert np.abs(crop(image, Draws([0.5, 0.5], [4, 9])) - expected).mean() <= far
    # A file without loss is cropped as its pixels are.
    np.testing.assert_array_equal(
        crop(encode(image, "PNG"), Draws([0.5, 0.5], [4, 9])), crop(image, Draws([0.5, 0.5], [4, 9]))
    )


@pytest.mark.parametrize("size", [16, 30, 40, 50])
def test_a_crop_that_shrinks_is_antialiased(size):
    # Single pixels of black and white are nearly grey from afar, and stripes to OpenCV's filters alone.
    board = np.repeat((np.indices((74, 74)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    found = RandomResizedCrop(size, scale=(1.0, 1.0), ratio=(1.0, 1.0))(board, Draws([0, 0.5], [0, 0]))
    pillow = np.asarray(Image.fromarray(board).resize((size, size), Image.BILINEAR), int)
    aliased = cv2.resize(board, (size, size))
    assert np.abs(found - pillow).mean() < 0.5 * np.abs(aliased - pillow).mean()


def test_a_large_jpeg_is_cropped_at_a_half_where_its_pixels_would_be():
    image = np.asarray(Image.open(io.BytesIO(encode(photo(400, 640), quality=95))))
    crop = RandomResizedCrop(40, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    draws = dict(uniforms=[0, 0], integers=[31, 57])
    halved = crop(encode(image, quality=95), Draws(**draws))
    assert np.abs(halved.astype(int) - crop(image, Draws(**draws))).mean() < 2


def test_flip_mirrors_left_and_right():
    image = noise(100, 100)
    crop = RandomResizedCrop(32, flip=0.5)
    kept = crop(image, Draws([0.5, 0.5], [4, 9], random=0.5))
    mirrored = crop(image, Draws([0.5, 0.5], [4, 9], random=0.49))
    np.testing.assert_array_equal(mirrored, kept[:, ::-1])


@pytest.mark.parametrize(("flip", "share"), [(0.0, 0), (0.5, 0.5), (1.0, 1)])
def test_flip_has_its_probability(flip, share):
    # Brighter to the right: a mirror image is brighter to the left, whatever the crop.
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 1, 3))
    crop = RandomResizedCrop(4, flip=flip)
    rng = np.random.default_rng(0)
    mirrored = np.mean([image[0, 0, 0] > image[0, -1, 0] for image in (crop(ramp, rng) for _ in range(400))])
    assert mirrored == pytest.approx(share, abs=0.08)


def test_same_random_numbers_give_the_same_crop():
    image = noise(50, 60)
    crop = pickle.loads(pickle.dumps(RandomResizedCrop(16)))
    first, again, other = (crop(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# Central crop


def test_short_side_is_resized_and_the_centre_cropped():
    # 60 x 40 to 36 x 24 (int(24 * 60 / 40) = 36); then 8 of 36 columns and 12 of 24 rows are left over at each side.
    image = noise(40, 60)
    resized = np.asarray(Image.fromarray(image).resize((36, 24), Image.BICUBIC))
    np.testing.assert_array_equal(ResizeCenterCrop(24, 16, "bicubic")(image), resized[4:20, 10:26])


@pytest.mark.parametrize("resize", [24, 30, 60, 100])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_large_jpeg_is_evaluated_as_torchvision_does_within_a_255th(resize, interpolation):
    enlarged = Image.fromarray(photo(60, 80)).resize((320, 240), Image.BICUBIC)
    encoded = encode(enlarged, "JPEG", quality=95)
    with Image.open(io.BytesIO(encoded)) as whole:
        size = (int(resize * 320 / 240), resize)
        resized = np.asarray(whole.resize(size, Image.Resampling[interpolation.upper()]), int)
    left, top = round((size[0] - 20) / 2), round((size[1] - 20) / 2)
    found = ResizeCenterCrop(resize, 20, interpolation)(encoded)
    assert np.abs(found - resized[top : top + 20, left : left + 20]).mean() < 1


def test_long_side_is_cut_to_whole_pixels():
    # 20 * 37 / 30 = 24.67 becomes 24, so 2 columns are left over at each side.
    image = noise(30, 37)
    resized = np.asarray(Image.fromarray(image).resize((24, 20), Image.BILINEAR))
    np.testing.assert_array_equal(ResizeCenterCrop(20, 20)(image), resized[:, 2:22])


@pytest.mark.parametrize(("size", "first"), [(15, 0), (13, 2), (11, 2), (9, 4)])
def test_half_pixels_are_rounded_to_even_offsets(size, first):
    # A gradient that keeps its size: 16 - 15 = 1, half of it 0.5, rounds to 0; 1.5 to 2; 2.5 to 2; 3.5 to 4.
    ramp = np.tile(np.arange(16, dtype=np.uint8)[None, :, None], (16, 1, 3))
    cropped = ResizeCenterCrop(16, size)(ramp)
    assert cropped[0, :, 0].tolist() == list(range(first, first + size))
    np.testing.assert_array_equal(ResizeCenterCrop(16, size)(ramp.swapaxes(0, 1)), cropped.swapaxes(0, 1))


def test_small_images_are_padded_with_black():
    # 4 x 4 in 7 x 7: one row before, two after, as torchvision pads.
    image = np.full((4, 4, 3), 200, np.uint8)
    cropped = ResizeCenterCrop(4, 7)(image)
    expected = np.zeros((7, 7, 3), np.uint8)
    expected[1:5, 1:5] = 200
    np.testing.assert_array_equal(cropped, expected)


def test_one_side_can_be_padded_while_the_other_is_cropped():
    ramp = np.tile(np.arange(1, 11, dtype=np.uint8)[None, :, None], (4, 1, 3))
    cropped = ResizeCenterCrop(4, 6)(ramp)
    assert cropped[:, 0, 0].tolist() == [0, 3, 3, 3, 3, 0]
    assert cropped[1, :, 0].tolist() == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(("limit", "off"), [(10**6, 0), (1000, 1)])
@pytest.mark.parametrize("size", [20, 32])
def test_a_narrow_image_whose_resized_whole_would_be_large_is_resized_where_it_is_shown(monkeypatch, limit, off, size):
    # 9 x 300 at a short side of 24 is 24 x 800.
    monkeypatch.setattr(transforms, "MAX_PIXELS", limit)
    for image in (noise(9, 300), noise(300, 9)):
        columns, rows = ((24 * side) // 9 for side in (image.shape[1], image.shape[0]))
        whole = Image.fromarray(image).resize((columns, rows), Image.BILINEAR)
        left, top = (columns - size) // 2, (rows - size) // 2
        expected = np.array(whole.crop((left, top, left + size, top + size)), int)
        assert np.abs(ResizeCenterCrop(24, size)(image) - expected).max() <= off


def test_an_image_of_a_row_of_20_000_pixels_takes_no_gigabytes():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cropped = ResizeCenterCrop(256, 224)(np.full((1, 20_000, 3), 7, np.uint8))
    assert (cropped == 7).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, "256 MB; the whole would take 5 GB"


def test_both_crops_write_into_the_array_that_they_are_given():
    image = noise(30, 40)
    changed = RandomResizedCrop(8, flip=1.0, changes=(lambda image, rng: 255 - image,))
    for crop in (RandomResizedCrop(8), changed, ResizeCenterCrop(12, 8), ResizeCenterCrop(6, 8)):
        out = np.full((3, 8, 8, 3), 99, np.uint8)
        assert crop(image, np.random.default_rng(1), place := out[1]) is place
        np.testing.assert_array_equal(out[1], crop(image, np.random.default_rng(1)))
        assert (out[::2] == 99).all()


def test_shrinking_is_antialiased():
    # A checkerboard of single pixels is grey from afar; without antialiasing it would be black, white or stripes.
    board = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    image = np.repeat(board.astype(np.uint8)[..., None], 3, axis=2)
    inner = ResizeCenterCrop(16, 12)(image)
    assert np.abs(inner.astype(int) - 127).max() < 10


# Both


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (33, 65), (200, 50)])
def test_constant_colours_stay_constant(interpolation, channels, height, width):
    colour = np.array([50, 100, 250], np.uint8)[:channels]
    image = np.full((height, width, channels), colour)
    for crop in (RandomResizedCrop(24, interpolation=interpolation), ResizeCenterCrop(28, 24, interpolation)):
        result = crop(image, np.random.default_rng(0))
        assert result.shape == (24, 24, 3)
        assert (result == colour).all()


@pytest.mark.parametrize(
    "make", [lambda name: RandomResizedCrop(8, interpolation=name), lambda n: ResizeCenterCrop(8, 8, n)]
)
def test_unknown_interpolation_is_refused(make):
    with pytest.raises(ConfigError, match="'cubic': choose one of bilinear, bicubic, nearest"):
        make("cubic")


def test_results_can_be_written_to():
    for crop in (RandomResizedCrop(8), ResizeCenterCrop(8, 8)):
        crop(noise(9, 9), np.random.default_rng(0))[0, 0] = 0
