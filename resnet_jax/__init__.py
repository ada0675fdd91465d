"""Residual networks in JAX and Flax linen: networks, weights, training, evaluation and studies.

model = resnet_jax.create_model("resnet50")
variables = resnet_jax.load_weights(model, "resnet50.tv_in1k")
logits = model.apply(variables, images, train=False)

config = resnet_jax.default_config()
config.training.epochs = 5
summary = resnet_jax.train(config, "runs/first")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_jax.config import default_config
    from resnet_jax.models.densenet import DenseNet
    from resnet_jax.models.registry import create_model, list_models
    from resnet_jax.models.resnet import ResNet
    from resnet_jax.runner import evaluate, train
    from resnet_jax.weights import load_weights, save_weights
    from resnet_jax.weights.presets import Preset

__version__ = "0.2.0"

# Name to the module that has it, which is imported at its first use: commands that need no JAX start at once.
_WHERE = {
    "DenseNet": "resnet_jax.models.densenet",
    "Preset": "resnet_jax.weights.presets",
    "ResNet": "resnet_jax.models.resnet",
    "create_model": "resnet_jax.models.registry",
    "default_config": "resnet_jax.config",
    "evaluate": "resnet_jax.runner",
    "list_models": "resnet_jax.models.registry",
    "load_weights": "resnet_jax.weights",
    "save_weights": "resnet_jax.weights",
    "train": "resnet_jax.runner",
}
__all__ = [
    "DenseNet",
    "Preset",
    "ResNet",
    "create_model",
    "default_config",
    "evaluate",
    "list_models",
    "load_weights",
    "save_weights",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
