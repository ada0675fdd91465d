import io
import pathlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from resnet_jax.data.decoding import MAX_PIXELS, dimensions, pixels, scans
from resnet_jax.data.packing import examine
from resnet_jax.errors import DataError
from tests.pictures import damaged, encode, noise, photo

SAMPLES = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "imagenet_samples"
needs_samples = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="../shared/data/imagenet_samples, the real images, are not here"
)


def test_arrays_become_rgb_unchanged():
    image = noise(5, 7)
    np.testing.assert_array_equal(pixels(image), image)


def test_greyscale_arrays_repeat_their_channel():
    image = noise(5, 7, channels=1)
    np.testing.assert_array_equal(pixels(image), np.repeat(image, 3, axis=2))


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (encode(Image.new("RGB", (6, 6), (1, 2, 3))), (1, 2, 3)),
        (encode(Image.new("L", (6, 6), 9)), (9, 9, 9)),
        (encode(Image.new("1", (6, 6), 1)), (255, 255, 255)),
        (encode(Image.new("LA", (6, 6), (9, 0))), (9, 9, 9)),
        (encode(Image.new("RGBA", (6, 6), (1, 2, 3, 0))), (1, 2, 3)),
        (encode(Image.new("RGB", (6, 6), (1, 2, 3)), transparency=(1, 2, 3)), (1, 2, 3)),
        (encode(Image.new("RGB", (6, 6), (200, 100, 0)).quantize(4)), (200, 100, 0)),
        (encode(Image.new("RGB", (6, 6), (200, 100, 0)).quantize(4), transparency=bytes(4)), (200, 100, 0)),
        (encode(Image.new("CMYK", (6, 6), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (encode(Image.fromarray(np.full((6, 6), 0x1234, np.uint16))), (0x12, 0x12, 0x12)),
        (encode(Image.fromarray(np.full((6, 6), 0xFFFF, np.uint16)), "TIFF"), (255, 255, 255)),
        (encode(Image.new("RGB", (6, 6), (1, 2, 3)), "WEBP", lossless=True), (1, 2, 3)),
    ],
    ids=["rgb", "l", "1", "la", "rgba", "rgb-key", "palette", "palette-alpha", "cmyk", "png16", "tiff16", "webp"],
)
def test_every_kind_of_file_becomes_rgb(encoded, expected):
    assert dimensions(encoded) == (6, 6)
    np.testing.assert_array_equal(pixels(encoded), np.full((6, 6, 3), expected))


# One ramp from black to white, and what an 8-bit file of it holds.
RAMP = np.linspace(0, 1, 64).reshape(8, 8)
GREY = np.repeat(np.rint(255 * RAMP)[..., None], 3, axis=2)


def levels(bits, dtype=np.uint16):
    return np.rint((2**bits - 1) * RAMP).astype(dtype)


def colours(values):
    """A file of three channels, as OpenCV writes it: Pillow writes 8 bits alone."""
    return cv2.imencode(".png" if values.dtype == np.uint16 else ".tiff", np.stack([values] * 3, -1))[1].tobytes()


DEEP = {
    "32-bit TIFF of 0 to 255": (
        encode(levels(8, np.int32), "TIFF"),
        "which are read as values of 8 bits",
    ),
    "32-bit TIFF of 12 bits": (
        encode(levels(12, np.int32), "TIFF"),
        "which are read as values of 12 bits",
    ),
    "32-bit TIFF of 31 bits": (encode(levels(31, np.int32), "TIFF"), None),
    "float TIFF of 0 to 1": (encode(RAMP.astype(np.float32), "TIFF"), "numbers, which are read as values from 0 to 1"),
    "float TIFF of 0 to 255": (encode((255 * RAMP).astype(np.float32), "TIFF"), "which are read as values of 8 bits"),
    "float TIFF of 16 bits": (encode((65535 * RAMP).astype(np.float32), "TIFF"), "which are read as values of 16 bits"),
    "16-bit TIFF": (encode(levels(16), "TIFF"), None),
    "16-bit TIFF of 12 bits": (encode(levels(12), "TIFF"), "16-bit integers, which are read as values of 12 bits"),
    "16-bit TIFF whose tag says 12 bits": (encode(levels(12), "TIFF", tiffinfo={281: 4095}), None),
    "16-bit PNG of 12 bits": (encode(levels(12)), "16-bit integers, which are read as values of 12 bits"),
    "16-bit PNG of 8 bits": (encode(levels(8)), "16-bit integers, which are read as values of 8 bits"),
    "PGM of 12 bits": (b"P5 8 8 4095\n" + levels(12).astype(">u2").tobytes(), None),
    "PFM of 0 to 1": (b"Pf 8 8 -1.0\n" + RAMP[::-1].astype("<f4").tobytes(), "which are read as values from 0 to 1"),
    "16-bit colour PNG": (colours(levels(16)), None),
    "16-bit colour PNG of 12 bits": (colours(levels(12)), "16-bit integers, which are read as values of 12 bits"),
}


@pytest.mark.parametrize("name", DEEP)
def test_values_of_more_than_8_bits_are_scaled_by_their_tags_or_their_range(name):
    encoded, oddity = DEEP[name]
    assert np.abs(pixels(encoded).astype(int) - GREY).max() <= 1
    found = examine(encoded, "ramp")[1]
    assert found is None if oddity is None else found.endswith(oddity)


def test_the_colours_of_a_deep_image_keep_their_order():
    colour = np.full((6, 6, 3), (3000, 2000, 1000), np.uint16)  # blue, green, red
    np.testing.assert_array_equal(pixels(cv2.imencode(".png", colour)[1].tobytes())[0, 0], [62, 125, 187])


def test_a_dark_deep_image_whose_tag_gives_its_white_stays_dark():
    dark = encode(np.full((6, 6), 100, np.uint16), "TIFF", tiffinfo={281: 65535})
    assert pixels(dark).max() == 0 and pixels(encode(np.full((6, 6), 100, np.uint16), "TIFF")).max() == 100


def test_numbers_that_are_not_finite_are_black_or_white():
    values = np.array([[np.nan, -np.inf, -1.0], [0.0, 1.0, 0.5]], np.float32)
    np.testing.assert_array_equal(pixels(encode(values, "TIFF"))[..., 0], [[0, 0, 0], [0, 255, 128]])


def test_cmyk_jpeg_becomes_rgb():
    red, green, blue = pixels(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))[4, 4]
    assert red > 250
    assert green < 5
    assert blue < 5


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees.
    assert pixels(encode(Image.new("RGB", (8, 4)), "JPEG", exif=exif)).shape == (4, 8, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"0 bytes that begin with b'' is no image"),
        (b"<html>not found</html>", r"begin with b'<html>not found<' is no image or a damaged one"),
        (encode(Image.fromarray(noise(64, 64)), "JPEG")[:2000], r"2000 bytes .*JFIF.*truncated"),
        (encode(Image.fromarray(noise(64, 64)))[:2000], r"2000 bytes .*PNG.*truncated"),
    ],
    ids=["empty", "html", "jpeg", "png"],
)
def test_what_cannot_be_decoded_is_described(content, message):
    with pytest.raises(DataError, match=message):
        pixels(content)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}])
@pytest.mark.parametrize("shape", [(48, 64), (47, 63), (1, 1), (8, 333)])
def test_a_jpegs_pixels_are_those_that_pillow_gives(options, shape):
    encoded = encode(photo(*shape), "JPEG", **options)
    np.testing.assert_array_equal(pixels(encoded), np.asarray(Image.open(io.BytesIO(encoded))))


@needs_samples
def test_real_jpegs_have_the_pixels_that_pillow_gives():
    for file in sorted(SAMPLES.glob("*.JPEG"))[::10]:
        with Image.open(file) as image:
            np.testing.assert_array_equal(pixels(file.read_bytes()), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("least", "shape"),
    [
        ((200, 160), (160, 200)),
        ((101, 80), (160, 200)),
        ((100, 80), (80, 100)),
        ((100, 81), (160, 200)),
        ((30, 20), (40, 50)),
        ((1, 1), (20, 25)),
        ((900, 900), (160, 200)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_half_that_has_the_pixels_asked_for(least, shape):
    image = photo(160, 200)
    found = pixels(encode(image, "JPEG", quality=95), *least)
    assert found.shape == (*shape, 3)
    averaged = image.reshape(shape[0], 160 // shape[0], shape[1], 200 // shape[1], 3).mean((1, 3))
    assert np.abs(found - averaged).mean() < 3


def test_every_one_of_a_thousand_damaged_files_is_decoded_or_described():
    files = damaged()
    refused = 0
    for content in files.values():
        try:
            width, height = dimensions(content)
            assert pixels(content, 16, 16).ndim == pixels(content).ndim == 3
            assert 0 < width * height <= MAX_PIXELS
        except DataError as error:
            refused += 1
            assert "remove or replace it" in str(error)
    assert len(files) == 1000 and 400 < refused < 1000


def test_a_bomb_is_recognized_by_its_header():
    bombs = {
        name: content for name, content in damaged().items() if "65500" in name or "60000" in name or "9460" in name
    }
    assert len(bombs) == 3
    for content in bombs.values():
        with pytest.raises(DataError, match=r"x \d+ pixels, where 1 to 89,478,485 are allowed|decompression bomb"):
            pixels(content)


def with_scans(side, count):
    """A progressive JPEG whose last scan is there so often that it has `count`."""
    whole = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * (count - whole.count(b"\xff\xda")) + whole[-2:]


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(monkeypatch):
    assert pixels(with_scans(16, 500)).shape == (16, 16, 3)
    files = with_scans(16, 501), with_scans(3000, 250)
    monkeypatch.setattr(Image.Image, "load", None)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    for file, most in zip(files, (500, 198), strict=True):
        with pytest.raises(DataError, match=f"a JPEG of more than {most} scans over"):
            pixels(file)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("shape", [(40, 56), (40, 56, 3)])
def test_scans_are_counted_as_the_files_bytes_have_them(options, shape):
    encoded = encode(np.resize(noise(40, 56), shape), "JPEG", **options)
    comment = b"\xff\xfe\x00\x14" + b"\xff\xda" * 9  # which looks like scans
    assert scans(encoded[:2] + comment + encoded[2:], 500) == encoded.count(b"\xff\xda")
    assert (scans(encoded, 500) > 1) == ("progressive" in options)
