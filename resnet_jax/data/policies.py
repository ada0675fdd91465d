"""Random changes of one image's colours and geometry: TrivialAugmentWide, RandAugment, colour jitter, PCA lighting."""

import dataclasses
import math
import types
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

RGB = UInt8[np.ndarray, "height width 3"]

# How the pixels of a changed geometry are found: Pillow's resampling, and the colour outside of the image.
Sampling = tuple[Image.Resampling, tuple[int, int, int]]
BLACK: Sampling = (Image.Resampling.NEAREST, (0, 0, 0))


def geometric(matrix: Callable[[float], tuple[float, ...]]) -> Callable:
    """Return an operation that moves pixels: `matrix(amount)` gives where in the image each new pixel is from."""

    def change(image: Image.Image, amount: float, sampling: Sampling) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix(amount), sampling[0], fillcolor=sampling[1])

    return change


def enhancing(enhancer: Callable) -> Callable:
    """Return an operation that blends an image with what `enhancer` degrades it to: 1 is the image itself."""
    return lambda image, factor, sampling: enhancer(image).enhance(factor)


def plain(function: Callable) -> Callable:
    """Return an operation that takes no amount."""
    return lambda image, amount, sampling: function(image)


def add_below_half(image: Image.Image, amount: float, sampling: Sampling) -> Image.Image:
    """Add to what is darker than 128."""
    return image.point([min(255, value + int(amount)) if value < 128 else value for value in range(256)] * 3)


def keep_bits(image: Image.Image, bits: float, sampling: Sampling) -> Image.Image:
    """Keep the upper bits of each value, also none, which Pillow's `posterize` refuses."""
    return image.point([value >> (8 - int(bits)) << (8 - int(bits)) for value in range(256)] * 3)


# By name, (image, amount, sampling) to the changed image. Amounts: shear, tangents; translate, pixels, of the contents;
# rotate, degrees, counter-clockwise; posterize, bits that are kept; solarize, the least value that is inverted.
OPERATIONS = types.MappingProxyType(
    {
        "identity": plain(lambda image: image),
        "shear_x": geometric(lambda tangent: (1, tangent, 0, 0, 1, 0)),
        "shear_y": geometric(lambda tangent: (1, 0, 0, tangent, 1, 0)),
        "translate_x": geometric(lambda distance: (1, 0, -distance, 0, 1, 0)),
        "translate_y": geometric(lambda distance: (1, 0, 0, 0, 1, -distance)),
        "rotate": lambda image, degrees, sampling: image.rotate(degrees, sampling[0], fillcolor=sampling[1]),
        "brightness": enhancing(ImageEnhance.Brightness),
        "color": enhancing(ImageEnhance.Color),
        "contrast": enhancing(ImageEnhance.Contrast),
        "sharpness": enhancing(ImageEnhance.Sharpness),
        "posterize": keep_bits,
        "solarize": lambda image, threshold, sampling: ImageOps.solarize(image, math.ceil(threshold)),
        "solarize_add": add_below_half,
        "auto_contrast": plain(ImageOps.autocontrast),
        "equalize": plain(ImageOps.equalize),
        "invert": plain(ImageOps.invert),
    }
)


def apply(image: RGB, name: str, amount: float, sampling: Sampling = BLACK) -> RGB:
    """Apply one of `OPERATIONS` to an image."""
    return np.asarray(OPERATIONS[name](Image.fromarray(image), amount, sampling))


def signed(amount: float, rng: np.random.Generator) -> float:
    """Return an amount or its negative, by even chance."""
    return -amount if rng.random() < 0.5 else amount


@dataclasses.dataclass(frozen=True)
class TrivialAugmentWide:
    """One operation an image, at a strength of its own (Müller & Hutter 2021, arXiv:2103.10158, the wide space).

    As in torchvision, the strength is one of 31 steps, and what a geometric change uncovers is black.
    """

    def __call__(self, image: RGB, rng: np.random.Generator) -> RGB:
        """Change one image."""
        names = tuple(self.amounts(0))
        name, step = names[rng.integers(len(names))], int(rng.integers(31))
        amount = self.amounts(step)[name]
        if name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
            amount = signed(amount, rng)
        elif name in ("brightness", "color", "contrast", "sharpness"):
            amount = 1 + signed(amount, rng)
        return apply(image, name, amount)

    @staticmethod
    def amounts(step: int) -> dict[str, float]:
        """Return how strong each operation is at a step from 0 to 30, before its sign."""
        share = step / 30
        tangent, distance, change = math.tan(math.atan(0.99 * share)), int(32 * share), 0.99 * share
        return {
            "identity": 0,
            "shear_x": tangent,
            "shear_y": tangent,
            "translate_x": distance,
            "translate_y": distance,
            "rotate": 135 * share,
            "brightness": change,
            "color": change,
            "contrast": change,
            "sharpness": change,
            "posterize": 8 - round(step / 5),
            "solarize": 255 * (1 - share),
            "auto_contrast": 0,
            "equalize": 0,
        }


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Some operations one after the other, all about as strong (Cubuk et al. 2020, arXiv:1909.13719), as timm has it.

    That is its `rand-mM-nN-mstdS-inc1`: each operation is left out by even chance, its strength is drawn around the
    magnitude, and all get stronger with it. What a geometric change uncovers has the mean colour, and its pixels are
    found by bilinear or bicubic interpolation.

    Attributes:
      magnitude: 0 to 10.
      layers: operations an image.
      deviation: of the strength, which is cut to 0..10.
      interpolation: of geometric changes.
    """

    magnitude: float
    layers: int = 2
    deviation: float = 0.5
    interpolation: str = "bilinear"

    def __call__(self, image: RGB, rng: np.random.Generator) -> RGB:
        """Change one image."""
        mean_colour = (124, 116, 104)  # of ImageNet, and timm's
        sampling = (Image.Resampling[self.interpolation.upper()], mean_colour)
        names = tuple(self.amounts(0, 1, image.shape))
        for name in [names[number] for number in rng.integers(len(names), size=self.layers)]:
            if rng.random() < 0.5:
                strength = min(10.0, max(0.0, rng.normal(self.magnitude, self.deviation))) / 10
                image = apply(image, name, self.amounts(strength, signed(1, rng), image.shape)[name], sampling)
        return image

    @staticmethod
    def amounts(strength: float, sign: float, shape: tuple[int, ...]) -> dict[str, float]:
        """Return how much each operation does to an image of a shape, at a strength from 0 to 1 and with a sign."""
        height, width, _ = shape
        factor = max(0.1, 1 + sign * 0.9 * strength)
        return {
            "auto_contrast": 0,
            "equalize": 0,
            "invert": 0,
            "rotate": sign * 30 * strength,
            "posterize": 4 - int(4 * strength),
            "solarize": 256 - min(256, int(256 * strength)),
            "solarize_add": min(128, int(110 * strength)),
            "color": factor,
            "contrast": factor,
            "brightness": factor,
            "sharpness": factor,
            "shear_x": sign * 0.3 * strength,
            "shear_y": sign * 0.3 * strength,
            "translate_x": sign * 0.45 * strength * width,
            "translate_y": sign * 0.45 * strength * height,
        }


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation, in random order, each by a factor of 1 - strength to 1 + strength.

    Blends as fb.resnet.torch does (datasets/transforms.lua), and torchvision's class of this name.
    """

    strength: float

    def __call__(self, image: RGB, rng: np.random.Generator) -> RGB:
        """Change one image."""
        for name in rng.permutation(["brightness", "contrast", "color"]):
            image = apply(image, str(name), rng.uniform(1 - self.strength, 1 + self.strength))
        return image


# Of the colours of ImageNet's training images, scaled to 0..1: what fb.resnet.torch has in datasets/imagenet.lua.
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


@dataclasses.dataclass(frozen=True)
class Lighting:
    """One colour is added to all pixels, drawn along the principal components of ImageNet's (Krizhevsky et al. 2012).

    Attributes:
      deviation: of the multiple of each eigenvalue.
    """

    deviation: float

    def __call__(self, image: RGB, rng: np.random.Generator) -> RGB:
        """Change one image."""
        colour = EIGENVECTORS @ (EIGENVALUES * rng.normal(0, self.deviation, 3))
        return np.rint(image + 255 * colour).clip(0, 255).astype(np.uint8)
