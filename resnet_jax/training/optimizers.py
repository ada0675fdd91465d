"""Optimizers: which parameters decay, and the update rules of the recipes, all from Optax."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from resnet_jax.errors import ConfigError, nearest

Schedule = Callable[[Any], Any]


def decay_mask(params: Any, norm_and_bias: bool) -> Any:
    """Return a tree of booleans: which parameters decay.

    Convolution and dense kernels always do; scales and biases only if `norm_and_bias`, as in fb.resnet.torch and in
    torchvision's first recipe. Leaving them out follows He et al. 2018 (arXiv:1812.01187), section 3.1.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: norm_and_bias or path[-1].key == "kernel", params)


def sgd(learning_rate: Schedule, momentum: float, nesterov: bool, weight_decay: float, mask: Any):
    """As torch.optim.SGD: v = momentum v + g + weight_decay w; w = w - learning_rate v, or its Nesterov form."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.trace(momentum, nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )


def create_optimizer(
    name: str,
    learning_rate: Schedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_norm_and_bias: bool = True,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Return the optimizer of that name: one of `OPTIMIZERS`.

    "sgd" couples weight decay with the gradient, as torch does. "lars" is You et al. 2017 (arXiv:1708.03888) and "lamb"
    You et al. 2020 (arXiv:1904.00962); parameters that do not decay are not scaled by LARS's trust ratio either, as the
    paper's code has it. `clip_norm` above 0 limits the gradient's global norm before all else.
    """

    def mask(params):
        return decay_mask(params, decay_norm_and_bias)

    if name == "sgd":
        optimizer = sgd(learning_rate, momentum, nesterov, weight_decay, mask)
    elif name == "lars":
        optimizer = optax.lars(
            learning_rate,
            weight_decay,
            weight_decay_mask=mask,
            trust_ratio_mask=mask,
            momentum=momentum,
            nesterov=nesterov,
        )
    elif name == "lamb":
        optimizer = optax.lamb(learning_rate, weight_decay=weight_decay, mask=mask)
    else:
        raise ConfigError(
            f"no optimizer is called {name!r}{nearest(name, OPTIMIZERS)}; use one of {', '.join(OPTIMIZERS)}."
        )
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer) if clip_norm > 0 else optimizer


OPTIMIZERS = ("sgd", "lars", "lamb")
