"""Residual networks in JAX and Flax: networks, training, weights and studies."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_jax.models.registry import create_model, list_models
    from resnet_jax.weights import load_weights, save_weights

__all__ = ["create_model", "list_models", "load_weights", "save_weights"]

_MODULES = {
    "create_model": "resnet_jax.models.registry",
    "list_models": "resnet_jax.models.registry",
    "load_weights": "resnet_jax.weights",
    "save_weights": "resnet_jax.weights",
}


def __getattr__(name: str):
    """Import a function when it is first used: JAX and Flax take seconds, in which a command must heed signals."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
