"""Weights, images and labels by formulas, so that torch and the tests have the same, and no file holds them."""

import zlib

import numpy as np


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 weights of a tensor, from its name in torch alone."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    kind = name.rpartition(".")[2]
    if kind == "running_var":
        array = random.uniform(0.5, 1.5, shape)
    elif kind == "weight" and len(shape) == 4:  # by fan-out, as He et al. 2015 start it
        array = random.standard_normal(shape) * np.sqrt(2 / (shape[0] * shape[2] * shape[3]))
    elif kind == "weight" and len(shape) == 2:
        array = random.standard_normal(shape) / np.sqrt(shape[1])
    else:  # scales near 1; biases and running means near 0
        array = random.standard_normal(shape) * 0.1 + (kind == "weight")
    return array.astype(np.float32)


def images(count: int, size: int, channels: int = 3) -> np.ndarray:
    """Return images as torch orders them: (count, channels, size, size), float32."""
    return np.random.RandomState(size).standard_normal((count, channels, size, size)).astype(np.float32)


def labels(count: int) -> np.ndarray:
    """Return labels of ten classes."""
    return np.arange(count) * 7 % 10


def digest(name: str, array: np.ndarray) -> np.ndarray:
    """Return what a golden file keeps of an array: its norm, and its product with a direction given by its name.

    Unlike the norm, the product sees values that have changed places.
    """
    direction = np.random.RandomState(zlib.crc32(f"{name}.direction".encode())).standard_normal(array.shape)
    return np.array([np.linalg.norm(array), np.vdot(array, direction)])
