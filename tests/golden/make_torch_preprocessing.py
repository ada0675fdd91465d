"""Writes what torchvision's preparation makes of images that a formula gives.

Run it in the environment that make_torch_logits.py describes. The tests need the constants and `image`, which need
NumPy only. torch_preprocessing.npz has, for each case of evaluation, every `STEP`th row and column of the crop, uint8;
torch_training_images.npz has, for each case of training, the same of what a network is given, float16.
"""

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("torch_preprocessing.npz")
# Width and height of the image, resize, size, interpolation: those of presets, and odd ones.
CASES = (
    (500, 375, 256, 224, "bilinear"),
    (333, 500, 232, 224, "bilinear"),
    (401, 300, 235, 224, "bicubic"),
    (300, 451, 303, 288, "bicubic"),
    (640, 480, 288, 288, "bicubic"),
    (61, 47, 256, 224, "bilinear"),
    (32, 32, 32, 32, "bilinear"),
    (97, 31, 20, 27, "bicubic"),
)
TRAINING = Path(__file__).with_name("torch_training_images.npz")
# Width and height of the image; left, top, width and height of the crop; whether it is mirrored; interpolation.
TRAINING_CASES = (
    (500, 375, (31, 17, 350, 330), True, "bilinear"),
    (333, 500, (3, 120, 180, 210), False, "bilinear"),
    (640, 480, (0, 0, 640, 480), True, "bilinear"),
    (500, 375, (101, 40, 250, 240), False, "bicubic"),
)
TRAINING_SIZE = 224
TRAINING_NOISE = 0.05  # about that of photographs
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STEP = 5


def image(width: int, height: int, amplitude: float = 0.3) -> np.ndarray:
    """Return waves that become finer to the right and to the bottom, with noise: uint8 (height, width, 3)."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows**2 / (5 * height)), np.cos(columns**2 / (3 * width)), np.sin(rows * columns / 500)]
    noise = np.random.RandomState(width).uniform(-amplitude, amplitude, (height, width, 3))
    return np.clip(127.5 + 100 * (np.stack(waves, -1) + noise), 0, 255).astype(np.uint8)


def main() -> None:
    """Compute and write the reference."""
    import torch

    # torchvision's compiled operators need another torch. Its transforms do not, once these two names are known.
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from PIL import Image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    golden = {}
    for number, (width, height, resize, size, interpolation) in enumerate(CASES):
        preset = ImageClassification(
            crop_size=size,
            resize_size=resize,
            interpolation=InterpolationMode(interpolation),
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        )
        crop = preset(Image.fromarray(image(width, height))).numpy().transpose(1, 2, 0)
        golden[str(number)] = np.rint(255 * crop).astype(np.uint8)[::STEP, ::STEP]
    np.savez_compressed(GOLDEN, **golden)
    np.savez_compressed(TRAINING, **{str(number): trained(*case) for number, case in enumerate(TRAINING_CASES)})


def trained(width: int, height: int, box: tuple[int, ...], mirrored: bool, interpolation: str) -> np.ndarray:
    """Return what the training preset of torchvision's references makes of an image, given what it would draw."""
    import torch
    from PIL import Image
    from torchvision import transforms

    left, top, crop_width, crop_height = box
    crop = transforms.RandomResizedCrop(TRAINING_SIZE, interpolation=transforms.InterpolationMode(interpolation))
    crop.get_params = lambda *_: (top, left, crop_height, crop_width)
    steps = [crop, transforms.RandomHorizontalFlip(float(mirrored)), transforms.PILToTensor()]
    steps += [transforms.ConvertImageDtype(torch.float), transforms.Normalize(MEAN, STD)]
    found = transforms.Compose(steps)(Image.fromarray(image(width, height, TRAINING_NOISE)))
    return found.numpy().transpose(1, 2, 0)[::STEP, ::STEP].astype(np.float16)


if __name__ == "__main__":
    main()
