"""Measurements on trained networks: functions of a network, its variables and examples, which know nothing of files."""

from resnet_jax.lab.analysis.correlation import brown_noise, by_lag, correlations, gradient_function, line, white_noise
from resnet_jax.lab.analysis.deletion import deletable, delete_each, delete_several
from resnet_jax.lab.analysis.gradcam import gradcam
from resnet_jax.lab.analysis.gradients import gradient_norms
from resnet_jax.lab.analysis.hooks import blocks, gated, recorded, routed, tapped, with_statistics_of
from resnet_jax.lab.analysis.maps import liveliest_maps
from resnet_jax.lab.analysis.paths import path_gradients
from resnet_jax.lab.analysis.reordering import exchangeable, kendall, reorder, reorder_at_random
from resnet_jax.lab.analysis.responses import layer_responses
from resnet_jax.lab.analysis.scoring import Score, scorer
from resnet_jax.lab.analysis.spectrum import hessian_product, hessian_spectrum, lanczos
from resnet_jax.lab.analysis.surface import filter_direction, loss_surface, moved

__all__ = [
    "Score",
    "blocks",
    "brown_noise",
    "by_lag",
    "correlations",
    "deletable",
    "delete_each",
    "delete_several",
    "exchangeable",
    "filter_direction",
    "gated",
    "gradcam",
    "gradient_function",
    "gradient_norms",
    "hessian_product",
    "hessian_spectrum",
    "kendall",
    "lanczos",
    "layer_responses",
    "line",
    "liveliest_maps",
    "loss_surface",
    "moved",
    "path_gradients",
    "recorded",
    "reorder",
    "reorder_at_random",
    "routed",
    "scorer",
    "tapped",
    "white_noise",
    "with_statistics_of",
]
