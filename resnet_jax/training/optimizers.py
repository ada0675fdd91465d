"""Optimizers: which parameters decay, and the update rules of the recipes, all from Optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from resnet_jax.errors import ConfigError, nearest

Schedule = Callable[[Any], Any]


def decay_mask(params: Any, decays: str) -> Any:
    """Return a tree of booleans: which parameters decay.

    Args:
      params: the parameters.
      decays: "all", as in fb.resnet.torch and torchvision's first recipe; "all_but_norm", which leaves BatchNorm's
        scales and biases out, as in torchvision's second recipe; "all_but_branch_norm", which does so but for those of
        projections, as in libffcv/ffcv-imagenet; or "kernels", which leaves out the other biases too (He et al. 2018,
        arXiv:1812.01187, section 3.1).
    """
    params = flatten_dict(params)
    norms = {path[:-1] for path in params if path[-1] == "scale"}
    rules = {
        "all": lambda path: True,
        "all_but_norm": lambda path: path[:-1] not in norms,
        "all_but_branch_norm": lambda path: path[:-1] not in norms or "shortcut" in path[-2],
        "kernels": lambda path: path[-1] == "kernel",
    }
    if decays not in rules:
        raise ConfigError(f"optimizer.decays is {decays!r}{nearest(decays, rules)}; use one of {', '.join(rules)}.")
    return unflatten_dict({path: rules[decays](path) for path in params})


def rate_factors(params: Any, backbone_rate: float, freeze_norm: bool) -> Any:
    """Return a tree of what multiplies the learning rate of each parameter: 1 for those of the module "head".

    All others have `backbone_rate`, and BatchNorm's scales and biases 0 if `freeze_norm`.
    """
    params = flatten_dict(params)
    factors = {path: 1.0 if path[0] == "head" else backbone_rate for path in params}
    if freeze_norm:
        norms = {path[:-1] for path in params if path[-1] == "scale"}
        factors |= {path: 0.0 for path in params if path[:-1] in norms}
    return unflatten_dict(factors)


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
    decays: str = "all",
    clip_norm: float = 0.0,
    backbone_rate: float = 1.0,
    freeze_norm: bool = False,
) -> optax.GradientTransformation:
    """Return the optimizer of that name: one of `OPTIMIZERS`.

    "sgd" couples weight decay with the gradient, as torch does. "lars" is You et al. 2017 (arXiv:1708.03888) and "lamb"
    You et al. 2020 (arXiv:1904.00962); parameters that do not decay are not scaled by LARS's trust ratio either, as the
    paper's code has it. `clip_norm` above 0 limits the gradient's global norm before all else. The learning rate of all
    but the head is `backbone_rate` times the head's, and `freeze_norm` leaves BatchNorm's scales and biases as they
    are; what does not move does not decay either, and its gradient counts in no norm.
    """

    def mask(params):
        return decay_mask(params, decays)

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
    if clip_norm > 0:
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
    if backbone_rate != 1 or freeze_norm:
        optimizer = at_rates(optimizer, lambda params: rate_factors(params, backbone_rate, freeze_norm))
    return optimizer


def at_rates(optimizer: optax.GradientTransformation, factors_of: Callable[[Any], Any]) -> optax.GradientTransformation:
    """Multiply the learning rate of each parameter by its factor, and hide the gradients of those whose factor is 0.

    Each update of `OPTIMIZERS`, its decay included, is proportional to the learning rate, so that scaling it is exact.
    """

    def hide(gradients, params=None):
        return jax.tree.map(lambda g, factor: g if factor else jnp.zeros_like(g), gradients, factors_of(gradients))

    def scale(updates, params=None):
        return jax.tree.map(lambda u, factor: u * factor if factor else jnp.zeros_like(u), updates, factors_of(updates))

    return optax.chain(optax.stateless(hide), optimizer, optax.stateless(scale))


OPTIMIZERS = ("sgd", "lars", "lamb")
