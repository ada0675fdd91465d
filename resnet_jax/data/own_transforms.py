"""Transforms of the user's: functions of one image on the host, and of a batch on the device."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import ConfigError
from resnet_jax.lookup import Own, lookup, parameters

HOST, DEVICE = ("image", "rng"), ("images", "targets", "key")


@dataclasses.dataclass(frozen=True)
class HostTransform:
    """(image, rng) to an image of the same shape, uint8 (height, width, channels); `rng` is a NumPy generator."""

    name: str
    function: Callable[..., Any]

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the changed image. Raises ConfigError if the function raises, or returns something else."""
        result = Own("transform", self.name, self.function)(image, rng)
        if not isinstance(result, np.ndarray) or result.shape != image.shape or result.dtype != np.uint8:
            raise ConfigError(
                f"the transform {self.name!r} returns {kind_of(result)} and must return uint8 {image.shape}."
            )
        return result


@dataclasses.dataclass(frozen=True)
class DeviceTransform:
    """(images, targets, key) to both, changed: float32 (batch, height, width, channels) and (batch, classes)."""

    name: str
    function: Callable[..., Any]

    def __call__(self, images: jax.Array, targets: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the changed batch. Raises ConfigError if the function raises, or returns something else."""
        result = Own("transform", self.name, self.function)(images, targets, key)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise ConfigError(f"the transform {self.name!r} returns {kind_of(result)}: return images and targets.")
        for what, before, after in zip(("images", "targets"), (images, targets), result, strict=True):
            if not isinstance(after, jax.Array) or after.shape != before.shape or after.dtype != before.dtype:
                raise ConfigError(
                    f"the transform {self.name!r} returns {what} of {kind_of(after)} and must return {kind_of(before)}."
                )
        return tuple(result)


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Transforms of images that need no decoding and no crop, one after the other."""

    changes: tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], ...]

    def __call__(
        self, image: np.ndarray | bytes, rng: np.random.Generator, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the changed image."""
        image = np.array(image)
        for change in self.changes:
            image = change(image, rng)
        return image


def own_transforms(names: Sequence[str]) -> tuple[tuple[HostTransform, ...], tuple[DeviceTransform, ...]]:
    """Return the transforms of some names, those of the host and those of the device, each in order.

    Raises ConfigError for a name that cannot be found, or whose function has parameters of neither kind.
    """
    host, device = [], []
    for name in names:
        function = lookup("transform", name, {})
        if not callable(function):
            raise ConfigError(f"the transform {name!r} is {type(function).__name__} and must be a function.")
        signature = tuple(parameters(function))
        if signature not in (HOST, DEVICE):
            raise ConfigError(
                f"the transform {name!r} has the parameters ({', '.join(signature)}): name them (image, rng) to change "
                "one image on the host, or (images, targets, key) to change a batch on the device."
            )
        if signature == HOST:
            host.append(HostTransform(name, function))
        else:
            device.append(DeviceTransform(name, function))
    return tuple(host), tuple(device)


def kind_of(value: Any) -> str:
    """Return dtype and shape of an array, or else the type."""
    if isinstance(value, np.ndarray | jax.Array):
        return f"{jnp.dtype(value.dtype)} {value.shape}"
    return type(value).__name__
