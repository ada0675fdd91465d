"""Residual networks in JAX and Flax: networks, training, weights and studies."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_jax.models.registry import create_model, list_models
    from resnet_jax.weights import load_weights, save_weights

# Name to the module that has it, which is imported at its first use: commands that need no JAX start at once.
_WHERE = {
    "create_model": "resnet_jax.models.registry",
    "list_models": "resnet_jax.models.registry",
    "load_weights": "resnet_jax.weights",
    "save_weights": "resnet_jax.weights",
}
__all__ = ["create_model", "list_models", "load_weights", "save_weights"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
