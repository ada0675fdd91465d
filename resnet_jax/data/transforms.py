"""What is done to one example on the host: decoding, and the crops of ImageNet training and evaluation."""

import dataclasses
import io
import math
import types

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resnet_jax.errors import ConfigError, DataError

# Pillow widens bilinear and bicubic filters when it shrinks an image (antialiasing), as torchvision does by default.
INTERPOLATIONS = types.MappingProxyType(
    {
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
        "nearest": Image.Resampling.NEAREST,
    }
)


def decode(image: bytes | UInt8[np.ndarray, "height width channels"]) -> Image.Image:
    """Turns an encoded image, or an array with 1 or 3 channels, into an RGB image.

    As torchvision's ImageFolder does, it drops transparency and ignores EXIF orientation. Unlike it, it keeps the upper
    8 bits of 16-bit grey levels (Pillow alone would clip them at 255).

    Raises:
      DataError: the bytes are no image that Pillow can decode.
    """
    if isinstance(image, np.ndarray):
        return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    try:
        opened = Image.open(io.BytesIO(image))
        opened.load()
    except Exception as error:  # Pillow's readers raise nearly anything when a file is damaged.
        reason = "no image format is known" if isinstance(error, Image.UnidentifiedImageError) else error
        raise DataError(
            f"An example of {len(image)} bytes that begin with {image[:16]!r} is no image or a damaged one ({reason}): "
            "remove or replace it."
        ) from error
    if opened.mode.startswith("I"):
        opened = Image.fromarray((np.asarray(opened) >> 8).clip(0, 255).astype(np.uint8))
    elif opened.mode == "P":
        opened = opened.convert("RGBA")  # Straight to RGB, Pillow warns about palettes with transparency.
    return opened.convert("RGB")


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """The crop of ImageNet training: a random part of the image, resized to a square and mirrored by chance.

    The algorithm is torchvision's `RandomResizedCrop` followed by `RandomHorizontalFlip`, after Szegedy et al.,
    arXiv:1409.4842: up to ten times an area and, uniformly on a log scale, an aspect ratio are drawn; the first
    rectangle that fits into the image is put anywhere in it. If none fits, the largest central crop whose ratio is
    allowed is taken.

    Attributes:
      size: height and width of the result, in pixels.
      scale: least and greatest area, as a fraction of the image's.
      ratio: least and greatest width / height.
      interpolation: a name of `INTERPOLATIONS`; resizing is antialiased except for "nearest".
      flip: probability of a horizontal mirror image.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    flip: float = 0.5

    def __post_init__(self):
        _check_interpolation(self.interpolation)

    def __call__(
        self, image: bytes | UInt8[np.ndarray, "height width channels"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "size size 3"]:
        """Transforms one example; the random numbers come from `rng` alone."""
        decoded = decode(image)
        left, top, width, height = self.box(decoded.width, decoded.height, rng)
        # Cropped first: resizing with a box would let the filter see pixels outside of the crop.
        cropped = decoded.crop((left, top, left + width, top + height))
        resized = cropped.resize((self.size, self.size), INTERPOLATIONS[self.interpolation])
        if rng.random() < self.flip:
            resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.array(resized)

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draws the crop of an image of `width` x `height` pixels: left, top, width, height."""
        low, high = self.ratio
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                top = rng.integers(0, height - crop_height + 1)
                left = rng.integers(0, width - crop_width + 1)
                return int(left), int(top), crop_width, crop_height
        # Too narrow or too wide an image: as much of it as the ratio allows.
        crop_width = width if width / height <= high else round(height * high)
        crop_height = height if width / height >= low else round(width / low)
        return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


@dataclasses.dataclass(frozen=True)
class ResizeCenterCrop:
    """The crop of ImageNet evaluation: the short side resized to `resize` pixels, then the central square of `size`.

    Lengths and offsets are rounded as by torchvision's `Resize` and `CenterCrop`; where the resized image is smaller
    than the crop, black is added around it.

    Attributes:
      resize: length of the short side after resizing, in pixels.
      size: height and width of the result, in pixels.
      interpolation: a name of `INTERPOLATIONS`; resizing is antialiased except for "nearest".
    """

    resize: int
    size: int
    interpolation: str = "bilinear"

    def __post_init__(self):
        _check_interpolation(self.interpolation)

    def __call__(
        self, image: bytes | UInt8[np.ndarray, "height width channels"], rng: np.random.Generator | None = None
    ) -> UInt8[np.ndarray, "size size 3"]:
        """Transforms one example; nothing is random, `rng` is there so that both crops are called alike."""
        decoded = decode(image)
        short = min(decoded.size)
        width, height = (int(self.resize * side / short) for side in decoded.size)
        resized = decoded.resize((width, height), INTERPOLATIONS[self.interpolation])
        left, top = self._offset(width), self._offset(height)
        return np.array(resized.crop((left, top, left + self.size, top + self.size)))  # Black outside of the image.

    def _offset(self, side: int) -> int:
        if side < self.size:
            return -((self.size - side) // 2)
        return round((side - self.size) / 2)


def _check_interpolation(name: str) -> None:
    if name not in INTERPOLATIONS:
        raise ConfigError(f"There is no interpolation {name!r}: choose one of {', '.join(INTERPOLATIONS)}.")
