"""Residual networks in JAX and Flax: networks, training, weights and studies."""

from resnet_jax.models.registry import create_model, list_models

__all__ = ["create_model", "list_models"]
