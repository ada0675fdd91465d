"""From an encoded image to RGB pixels: by libjpeg-turbo, at a half where that is enough, and by Pillow for the rest."""

import io

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from resnet_jax.errors import DataError

Pixels = UInt8[np.ndarray, "height width channels"]

MAX_PIXELS = Image.MAX_IMAGE_PIXELS  # 89,478,485, above which Pillow too takes an image for a decompression bomb


def dimensions(image: bytes | Pixels) -> tuple[int, int]:
    """Return (width, height) in pixels, from the header alone.

    Raises DataError for what is no image or has more than `MAX_PIXELS`.
    """
    if isinstance(image, np.ndarray):
        return image.shape[1], image.shape[0]
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(image)
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
        return np.asarray(decode(image))


def decode_jpeg(image: bytes, least_width: int = 0, least_height: int = 0) -> UInt8[np.ndarray, "height width 3"]:
    """Return what `pixels` does, of a JPEG without any error and not in CMYK; the others are Pillow's to try.

    Raises:
      ValueError: it is none.
      DataError: it has too many pixels.
    """
    height, width, colours, _ = simplejpeg.decode_jpeg_header(image)
    if colours in ("CMYK", "YCCK"):
        raise ValueError("it is in CMYK")
    check_dimensions(image, width, height)
    if not (least_width and least_height):
        return simplejpeg.decode_jpeg(image)
    # A factor below 2 has no vector code in libjpeg-turbo: decoding to 7/8 takes longer than decoding the whole.
    return simplejpeg.decode_jpeg(image, min_width=least_width, min_height=least_height, min_factor=2)


def decode(image: bytes) -> Image.Image:
    """Return an encoded image of any format that Pillow knows, in RGB.

    As torchvision's ImageFolder does, it drops transparency and ignores EXIF orientation. Unlike it, it keeps the upper
    8 bits of 16-bit grey levels (Pillow alone would clip them at 255).

    Raises DataError as `pixels` does.
    """
    opened = open_image(image)
    check_dimensions(image, *opened.size)
    try:
        opened.load()
        if opened.mode.startswith("I"):
            opened = Image.fromarray((np.asarray(opened) >> 8).clip(0, 255).astype(np.uint8))
        elif opened.mode == "P":
            opened = opened.convert("RGBA")  # Straight to RGB, Pillow warns about palettes with transparency.
        return opened.convert("RGB")
    except Exception as error:  # Pillow's readers raise nearly anything when a file is damaged.
        raise damaged(image, str(error)) from error


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


def damaged(image: bytes, reason: str) -> DataError:
    """Return the error that an example cannot be decoded."""
    return DataError(
        f"An example of {len(image)} bytes that begin with {image[:16]!r} is no image or a damaged one ({reason}): "
        "remove or replace it."
    )
