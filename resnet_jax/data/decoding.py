"""From an encoded image to RGB pixels: by libjpeg-turbo, at a half where that is enough, and by Pillow for the rest."""

import io
import re

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from resnet_jax.data.resizing import opencv
from resnet_jax.errors import DataError, library

Pixels = UInt8[np.ndarray, "height width channels"]

# JPEG's markers that have a length, and kinds of markers.
MARKER = re.compile(rb"\xff+([^\x00\x01\xff\xd0-\xd8])")
FRAMES, PROGRESSIVE, END, SCAN = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA), (0xC2, 0xCA), 0xD9, 0xDA
MAX_SCANS = 500  # as libjpeg-turbo's own tools allow at most; progressive files have about ten
DEPTHS = (8, 12, 16, 24, 31, 32)  # bits that values may have; signed integers of 32 have 31
UNIT = 0  # in place of a number of bits: floating-point values from 0 to 1
# Of TIFF: the tags of the largest value and of the kind of number, and the kind of unsigned integers.
MAX_SAMPLE_VALUE, SAMPLE_FORMAT, UNSIGNED = 281, 339, 1
MAX_PIXELS = 89_478_485  # above which Pillow too takes an image for a decompression bomb
MAX_PIXELS_OF_SCANS = 20 * MAX_PIXELS  # a second or two of decoding


def dimensions(image: bytes | Pixels) -> tuple[int, int]:
    """Return (width, height) in pixels, from the header alone.

    Raises DataError for what is no image or has more than `MAX_PIXELS`.
    """
    if isinstance(image, np.ndarray):
        return image.shape[1], image.shape[0]
    try:
        width, height = _jpeg_size(image)[:2]
    except ValueError:
        width, height = open_image(image).size
    check_dimensions(image, width, height)
    return width, height


def pixels(image: bytes | Pixels, least_width: int = 0, least_height: int = 0) -> UInt8[np.ndarray, "height width 3"]:
    """Return an image's RGB pixels.

    Args:
      image: the bytes of its file, or an array with 1 or 3 channels.
      least_width, least_height: if set, a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, the smallest of which both
        sides keep as many pixels: its blocks are then transformed to fewer pixels each, which averages and saves time.

    Raises:
      DataError: it is no image, a damaged one, or one of more than `MAX_PIXELS`.
    """
    if isinstance(image, np.ndarray):
        return image if image.shape[-1] == 3 else np.repeat(image, 3, axis=-1)
    try:
        return decode_jpeg(image, least_width, least_height)
    except ValueError:
        return np.asarray(decode(image)[0])


def decode_jpeg(image: bytes, least_width: int = 0, least_height: int = 0) -> UInt8[np.ndarray, "height width 3"]:
    """Return what `pixels` does, of a JPEG without any error and not in CMYK; the others are Pillow's to try.

    Raises:
      ValueError: it is none.
      DataError: it has too many pixels.
    """
    width, height, colours = _jpeg_size(image)
    if colours in ("CMYK", "YCCK"):
        raise ValueError("it is in CMYK")
    check_dimensions(image, width, height)
    check_scans(image, width * height)
    if not (least_width and least_height):
        return library("simplejpeg").decode_jpeg(image)
    # A factor below 2 has no vector code in libjpeg-turbo: decoding to 7/8 takes longer than decoding the whole.
    return library("simplejpeg").decode_jpeg(image, min_width=least_width, min_height=least_height, min_factor=2)


def _jpeg_size(image: bytes) -> tuple[int, int, str]:
    """Return a JPEG's width, height and color space. Raises ValueError if it is none."""
    height, width, colours, _ = library("simplejpeg").decode_jpeg_header(image)
    return int(width), int(height), colours


def decode(image: bytes) -> tuple[Image.Image, str | None]:
    """Return an encoded image of any format that Pillow knows, in RGB, and in what its values are odd, if they are.

    As torchvision's ImageFolder does, it drops transparency and ignores EXIF orientation. Unlike it, it scales values
    of more than 8 bits, which Pillow alone would clip at 255, as `to_8_bits` says.

    Raises DataError as `pixels` does.
    """
    opened = open_image(image)
    check_dimensions(image, *opened.size)
    check_scans(image, opened.width * opened.height)
    deep, oddity = opened.mode[0] in "IF" or ";16" in str(getattr(opened, "tile", "")), None
    try:
        opened.load()
        if deep:
            opened, oddity = shallow(image, opened)
        elif opened.mode == "P":
            opened = opened.convert("RGBA")  # Straight to RGB, Pillow warns about palettes with transparency.
        return opened.convert("RGB"), oddity
    except Exception as error:  # Pillow's readers raise nearly anything when a file is damaged.
        raise damaged(image, str(error)) from error


def shallow(image: bytes, opened: Image.Image) -> tuple[Image.Image, str | None]:
    """Return a loaded image of more than 8 bits with 8 bits, and a note where its range alone says how to scale it."""
    tags = getattr(opened, "tag_v2", {})
    bits = int(tags.get(MAX_SAMPLE_VALUE, (0,))[0]).bit_length() or None
    if opened.format == "PPM" and opened.mode == "I":
        bits = 16  # to which Pillow has scaled the values by the file's own maximum
    if opened.mode[0] not in "IF":
        # Pillow has kept the upper 8 bits of 16: enough, unless the values fit into the lower ones.
        if np.asarray(opened).max() >= 2 ** (12 - 8) or bits == 16:
            return opened, None
        cv2 = opencv()
        values = np.asarray(cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED))
        values, full = values[..., 2::-1] if values.ndim == 3 else values, 16
    else:
        values, full = np.asarray(opened), 16 if ";16" in opened.mode else 32
        if opened.mode == "I" and tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == UNSIGNED:
            values = values.view(np.uint32)
    scaled, found = to_8_bits(values, bits)
    named = f"{full}-bit integers" if opened.mode != "F" else "floating-point numbers"
    read = "from 0 to 1" if found == UNIT else f"of {found} bits"
    return Image.fromarray(
        scaled
    ), None if bits or found >= full - 1 else f"has {named}, which are read as values {read}"


def to_8_bits(values: Shaped[np.ndarray, "..."], bits: int | None = None) -> tuple[UInt8[np.ndarray, "..."], int]:
    """Return values as the upper 8 of so many bits, and that number; None takes the least of `DEPTHS` that holds all.

    Floating-point values of at most 1 are taken to be of 0 to 1, and the number is then `UNIT`. Negative values become
    0, as NaN does.
    """
    if values.dtype.kind == "f":
        values = np.nan_to_num(values)
        if bits is None and values.max() <= 1:
            return np.rint(255 * values.clip(0, 1)).astype(np.uint8), UNIT
        values = values.clip(0, 2**32 - 256).astype(np.uint32)  # the largest below 2**32 that float32 has
    if bits is None:
        bits = next(bits for bits in DEPTHS if values.max() < 2**bits)
    return (values.clip(0) >> max(0, bits - 8)).clip(0, 255).astype(np.uint8), bits


def open_image(image: bytes) -> Image.Image:
    """Return what Pillow reads of an image's header. Raises DataError if it knows no such format."""
    try:
        return Image.open(io.BytesIO(image))
    except Exception as error:
        unknown = isinstance(error, Image.UnidentifiedImageError)
        raise damaged(image, "no image format is known" if unknown else str(error)) from error


def check_dimensions(image: bytes, width: int, height: int) -> None:
    """Raise DataError for an image that has no pixels, or so many that decoding it could exhaust the memory."""
    if not 0 < width * height <= MAX_PIXELS:
        raise damaged(image, f"{width} x {height} pixels, where 1 to {MAX_PIXELS:,} are allowed")


def check_scans(image: bytes, size: int) -> None:
    """Raise DataError for a JPEG with so many scans over its `size` pixels that decoding it would take minutes."""
    most = min(MAX_SCANS, MAX_PIXELS_OF_SCANS // size)
    if image.startswith(b"\xff\xd8") and scans(image, most) > most:
        raise damaged(image, f"a JPEG of more than {most} scans over {size:,} pixels")


def scans(jpeg: bytes, most: int) -> int:
    """Return how often a JPEG's pixels are gone through: once, unless it is progressive. More than `most` ends it."""
    at, count, once, components = 2, 0, False, 0
    while count <= most and (marker := MARKER.search(jpeg, at)):
        kind, at = marker[1][0], marker.end()
        length = int.from_bytes(jpeg[at : at + 2])
        if kind in FRAMES:
            once, components = kind not in PROGRESSIVE, jpeg[at + 7 : at + 8]
        elif kind == SCAN:
            count += 1
            if once and jpeg[at + 2 : at + 3] == components:  # all of it: the decoder reads no further
                return count
        elif kind == END:
            return count
        at += length
    return count


def damaged(image: bytes, reason: str) -> DataError:
    """Return the error that an example cannot be decoded."""
    return DataError(
        f"An example of {len(image)} bytes that begin with {image[:16]!r} is no image or a damaged one ({reason}): "
        "remove or replace it."
    )
