"""Sources that need no files of the user: handwritten digits, which lie beside this module, and synthetic images."""

import pathlib

import numpy as np

from resnet_jax.data.sources.dataset import IMAGENET_MEAN, IMAGENET_STD, Arrays, Dataset

DIGITS = pathlib.Path(__file__).with_name("digits.npz")  # tests/golden/make_digits.py made it


def open_digits() -> Dataset:
    """The 1,797 handwritten 8x8 digits of scikit-learn's `load_digits`: (8, 8, 1), grey levels 0..16 scaled to 0..255.

    They have no official split, so this project fixes one: of each class a fifth, drawn once and for all, is the test
    split (359 examples); the other 1,438 are the training split. Both keep scikit-learn's order. The same person's
    digits can be in both, so accuracies say more about the code than about handwriting.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI), 1998, under CC BY 4.0; its test set,
    as scikit-learn has it.
    """
    with np.load(DIGITS) as stored:
        images = np.rint(stored["images"][..., None] * (255 / 16)).astype(np.uint8)
        labels = stored["labels"].astype(np.int32)

    # RandomState, not default_rng: NumPy promises never to change its numbers, so that the split stays the same.
    rng = np.random.RandomState(0)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        examples = rng.permutation(np.flatnonzero(labels == label))
        test[examples[: round(len(examples) / 5)]] = True

    train = Arrays(images[~test], labels[~test])
    scaled = train.images / 255
    mean, std = (float(scaled.mean()),), (float(scaled.std()),)
    return Dataset(train, Arrays(images[test], labels[test]), tuple("0123456789"), mean, std)


def open_synthetic(image_size: int, num_classes: int) -> Dataset:
    """Noise to measure speed with: 1,024 training and 256 test images (image_size, image_size, 3), the same each time.

    They are few, so that they fit into memory at any size; there is nothing to learn from them.
    """
    rng = np.random.default_rng(0)

    def noise(examples: int) -> Arrays:
        images = rng.integers(0, 256, (examples, image_size, image_size, 3), np.uint8)
        return Arrays(images, rng.integers(0, num_classes, examples, np.int32))

    classes = tuple(f"class {label}" for label in range(num_classes))
    return Dataset(noise(1024), noise(256), classes, IMAGENET_MEAN, IMAGENET_STD)
