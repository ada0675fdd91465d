"""Writes torch_policies.npz, next to this file: what torchvision and timm do to an image by each operation.

It needs an environment with torch that is not the project's (the pixels are from torchvision 0.28.0, timm 1.0.31 and
Pillow 13.0.0):

    python3 -m venv torchenv
    torchenv/bin/pip install torch==2.13.0 numpy pillow
    torchenv/bin/pip install --no-deps torchvision==0.28.0 timm==1.0.31
    torchenv/bin/python make_torch_policies.py

Contents:
    image (16, 20, 3) uint8: smooth, and of all colours.
    trivial: a row for each operation of TrivialAugmentWide's space, as torchvision names it, at each of STEPS of its 31
        and either sign where it has one: "OPERATION STEP SIGN". trivial_images: what `_apply_op` makes of the image.
    rand: likewise, of each operation of timm's `rand-m7-mstd0.5-inc1`, at each of LEVELS (0 to 10), with bicubic
        interpolation and the colour (124, 116, 104) outside: "OPERATION LEVEL SIGN". rand_images.
    jitter: (rows, 2): which of brightness, contrast and saturation (0, 1, 2), and the factor. jitter_images.
"""

import pathlib

import numpy as np
import torch
from PIL import Image

STEPS = (0, 1, 7, 16, 30)
LEVELS = (0.0, 3.3, 7.0, 9.9)


def picture():
    """Return a smooth image of all colours."""
    rows, columns = np.mgrid[0:16, 0:20]
    planes = [128 + 120 * np.sin(rows / 4 + phase) * np.cos(columns / 5 - phase) for phase in (0.0, 1.1, 2.3)]
    return np.stack(planes, axis=-1).round().clip(0, 255).astype(np.uint8)


def trivial(image):
    """Return the names of rows and what torchvision makes of them."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import TrivialAugmentWide, _apply_op

    names, images = [], []
    for name, (amounts, signed) in TrivialAugmentWide()._augmentation_space(31).items():
        for step in STEPS if amounts.ndim else (0,):
            for sign in (1, -1) if signed else (1,):
                amount = sign * float(amounts[step] if amounts.ndim else 0.0)
                changed = _apply_op(image, name, amount, InterpolationMode.NEAREST, None)
                names.append(f"{name} {step} {sign}")
                images.append(np.asarray(changed))
    return np.array(names), np.stack(images)


def rand(image):
    """Return the names of rows and what timm makes of them."""
    import random

    from timm.data import auto_augment

    names, images = [], []
    for name in auto_augment._RAND_INCREASING_TRANSFORMS:
        for level in LEVELS:
            for sign in (1, -1):
                random.random = lambda sign=sign: (1 - sign) / 2 + (sign == 1) * 0.1  # it negates above 0.5
                settings = {"img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC}
                operation = auto_augment.AugmentOp(name, prob=1.0, magnitude=level, hparams=settings)
                names.append(f"{name} {level} {sign}")
                images.append(np.asarray(operation(image)))
    return np.array(names), np.stack(images)


def jitter(image):
    """Return (kind, factor) rows and what torchvision's adjustments make of them."""
    from torchvision.transforms import functional

    kinds = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    rows = [(kind, factor) for kind in range(3) for factor in (0.6, 0.87, 1.0, 1.25, 1.4)]
    return np.array(rows), np.stack([np.asarray(kinds[kind](image, factor)) for kind, factor in rows])


def main():
    """Write the file."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    image = Image.fromarray(picture())
    contents = {"image": np.asarray(image)}
    for kind, make in (("trivial", trivial), ("rand", rand), ("jitter", jitter)):
        contents[kind], contents[f"{kind}_images"] = make(image)
    np.savez_compressed(pathlib.Path(__file__).with_name("torch_policies.npz"), **contents)


if __name__ == "__main__":
    main()
