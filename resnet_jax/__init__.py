"""Residual networks in JAX and Flax: networks, training, weights and studies."""

from resnet_jax.models.registry import create_model, list_models
from resnet_jax.weights import load_weights, save_weights

__all__ = ["create_model", "list_models", "load_weights", "save_weights"]
