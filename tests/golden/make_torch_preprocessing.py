"""Writes torch_preprocessing.npz: what torchvision's evaluation makes of images that a formula gives.

Run it in the environment that make_torch_logits.py describes. The test needs `CASES`, `image` and `STEP`, which need
NumPy only. Contents: for each case, every `STEP`th row and column of the crop, uint8.
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
STEP = 5


def image(width: int, height: int) -> np.ndarray:
    """Return waves that become finer to the right and to the bottom, with noise: uint8 (height, width, 3)."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows**2 / (5 * height)), np.cos(columns**2 / (3 * width)), np.sin(rows * columns / 500)]
    noise = np.random.RandomState(width).uniform(-0.3, 0.3, (height, width, 3))
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


if __name__ == "__main__":
    main()
