"""What is done to one example on the host: the crops of ImageNet training and evaluation."""

import dataclasses
import math
import types
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resnet_jax.data.decoding import MAX_PIXELS, dimensions, pixels
from resnet_jax.data.resizing import mirror, resize
from resnet_jax.errors import ConfigError

# Pillow widens bilinear and bicubic filters when it shrinks an image (antialiasing), as torchvision does by default.
INTERPOLATIONS = types.MappingProxyType(
    {
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
        "nearest": Image.Resampling.NEAREST,
    }
)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """The crop of ImageNet training: a random part of the image, resized to a square and mirrored by chance.

    The algorithm is torchvision's `RandomResizedCrop` followed by `RandomHorizontalFlip`, after Szegedy et al.,
    arXiv:1409.4842: up to ten times an area and, uniformly on a log scale, an aspect ratio are drawn; the first
    rectangle that fits into the image is put anywhere in it. If none fits, the largest central crop whose ratio is
    allowed is taken. Decoding and resizing are made for speed (`decoding.pixels`, `resizing.resize`).

    Attributes:
      size: height and width of the result, in pixels.
      scale: least and greatest area, as a fraction of the image's.
      ratio: least and greatest width / height.
      interpolation: a name of `INTERPOLATIONS`; resizing is antialiased except for "nearest".
      flip: probability of a horizontal mirror image.
      changes: (image, random generator) to an image of the same size, one after the other (`policies`).
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    flip: float = 0.5
    changes: tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], ...] = ()

    def __post_init__(self):
        _check_interpolation(self.interpolation)

    def __call__(
        self,
        image: bytes | UInt8[np.ndarray, "height width channels"],
        rng: np.random.Generator,
        out: UInt8[np.ndarray, "size size 3"] | None = None,
    ) -> UInt8[np.ndarray, "size size 3"]:
        """Transforms one example, into `out` where one is given; the random numbers come from `rng` alone."""
        width, height = dimensions(image)
        left, top, crop_width, crop_height = self.box(width, height, rng)
        # A JPEG is decoded at a half, and so on, as long as the crop keeps as many pixels as it will have.
        decoded = pixels(image, math.ceil(self.size * width / crop_width), math.ceil(self.size * height / crop_height))
        across, down = decoded.shape[1] / width, decoded.shape[0] / height
        columns = slice(round(left * across), round((left + crop_width) * across))
        rows = slice(round(top * down), round((top + crop_height) * down))
        resized = resize(decoded[rows, columns], self.size, self.interpolation, out)
        if rng.random() < self.flip:
            resized = mirror(resized, out)
        for change in self.changes:
            resized = change(resized, rng)
        if out is None or resized is out:
            return resized
        out[:] = resized
        return out

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

    Pillow resizes, as for torchvision, and lengths and offsets are rounded as by its `Resize` and `CenterCrop`; where
    the resized image is smaller than the crop, black is added around it. Of an image so long and narrow that it would
    have more than `MAX_PIXELS` when resized, only the part that is shown is resized, and memory stays bounded.

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
        self,
        image: bytes | UInt8[np.ndarray, "height width channels"],
        rng: np.random.Generator | None = None,
        out: UInt8[np.ndarray, "size size 3"] | None = None,
    ) -> UInt8[np.ndarray, "size size 3"]:
        """Transforms one example, into `out` where one is given.

        Nothing is random, `rng` is there so that both crops are called alike.
        """
        size = dimensions(image)
        width, height = (int(self.resize * side / min(size)) for side in size)
        # At twice the size or more, a JPEG that is decoded at a half or less moves pixels by 0.5/255 in the mean.
        decoded = Image.fromarray(pixels(image, 2 * width, 2 * height))
        (left, right), (top, bottom) = (self._shown(side) for side in (width, height))
        filters = INTERPOLATIONS[self.interpolation]
        if width * height <= MAX_PIXELS:
            resized = decoded.resize((width, height), filters).crop((left, top, right, bottom))
        else:
            first, last = (column * decoded.width / width for column in (left, right))
            upper, lower = (row * decoded.height / height for row in (top, bottom))
            resized = decoded.resize((right - left, bottom - top), filters, box=(first, upper, last, lower))
        out = np.empty((self.size, self.size, 3), np.uint8) if out is None else out
        if resized.size != (self.size, self.size):
            out[:] = 0
        before, above = ((self.size - side) // 2 for side in resized.size)
        out[above : above + resized.height, before : before + resized.width] = resized
        return out

    def _shown(self, side: int) -> tuple[int, int]:
        """Return which pixels of a resized side are shown: first, and one past the last."""
        first = max(0, round((side - self.size) / 2))
        return first, min(side, first + self.size)


def _check_interpolation(name: str) -> None:
    if name not in INTERPOLATIONS:
        raise ConfigError(f"There is no interpolation {name!r}: choose one of {', '.join(INTERPOLATIONS)}.")
