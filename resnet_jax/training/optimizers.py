"""Optimizers: update rules by name, from Optax and of the user's, and which parameters decay or move.

A rule is a function of `learning_rate` (a schedule) and of whatever else its signature names: "weight_decay", "mask"
(which parameters decay), "clip_norm", "momentum", "nesterov" and arguments of its own. What a signature names is the
rule's to apply; what it does not name is applied here where that is exact, and else refused.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from optax.contrib import MuonDimensionNumbers, ScheduleFreeState

from resnet_jax.errors import ConfigError, nearest
from resnet_jax.lookup import Own, call_with_fields, lookup, parameters

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
        raise ConfigError(
            f"optimizer.weight_decay_mask is {decays!r}{nearest(decays, rules)}; use one of {', '.join(rules)}."
        )
    return unflatten_dict({path: rules[decays](path) for path in params})


def rate_factors(params: Any, backbone_lr_multiplier: float, freeze_norm: bool) -> Any:
    """Return a tree of what multiplies the learning rate of each parameter: 1 for those of the module "head".

    All others have `backbone_lr_multiplier`, and BatchNorm's scales and biases 0 if `freeze_norm`.
    """
    params = flatten_dict(params)
    factors = {path: 1.0 if path[0] == "head" else backbone_lr_multiplier for path in params}
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


def lars(
    learning_rate: Schedule,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    mask: Any,
    trust_coefficient: float = 0.001,
    eps: float = 0.0,
):
    """You et al. 2017 (arXiv:1708.03888), without the trust ratio for what does not decay, as in the paper's code."""
    return optax.lars(learning_rate, weight_decay, mask, trust_coefficient, eps, mask, momentum, nesterov)


def sam(
    learning_rate: Schedule,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    mask: Any,
    clip_norm: float,
    rho: float = 0.05,
):
    """Foret et al. 2021 (arXiv:2010.01412): SGD along the gradient at the parameters plus `rho` g / |g|.

    Each step takes the gradient twice, both of the same batch; BatchNorm's running statistics are those of the first.
    """
    ascend = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
    descend = clipped(sgd(learning_rate, momentum, nesterov, weight_decay, mask), clip_norm)
    rule = optax.contrib.sam(descend, ascend, opaque_mode=True)

    def update(updates: Any, state: Any, params: Any = None, *, grad_fn: Any = None, **others: Any):
        return rule.update(updates, state, params, grad_fn=grad_fn)

    return optax.GradientTransformationExtraArgs(rule.init, update)


def schedule_free(
    learning_rate: Schedule, weight_decay: float, mask: Any, b1: float = 0.9, weight_lr_power: float = 2.0
):
    """Defazio et al. 2024 (arXiv:2405.15682) over SGD without momentum, which `b1` takes the place of.

    It is evaluated at the averaged parameters (`evaluation_params`). The schedule is to be constant after its warm-up.
    """
    return optax.contrib.schedule_free(
        sgd(learning_rate, 0.0, False, weight_decay, mask), learning_rate, b1, weight_lr_power
    )


def muon_dimensions(params: Any) -> Any:
    """Return which axes of each kernel form the matrix that Muon orthogonalizes; None leaves a parameter to Adam.

    A convolution (height, width, in, out) is the matrix (height * width * in, out). The head, scales and biases are
    Adam's.
    """
    return jax.tree.map(lambda array: MuonDimensionNumbers((0, 1, 2), 3) if jnp.ndim(array) == 4 else None, params)


def muon(
    learning_rate: Schedule,
    weight_decay: float,
    mask: Any,
    beta: float = 0.95,
    ns_steps: int = 5,
    eps: float = 1e-8,
    consistent_rms: float | None = None,
    adam_b1: float = 0.9,
    adam_b2: float = 0.999,
):
    """Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon) for convolutions, Adam with Nesterov momentum for
    all else.

    Both decay as AdamW does, which Optax's own `muon` cannot mask for Adam's parameters.
    """
    direction = optax.contrib.muon(
        1.0,
        ns_steps=ns_steps,
        beta=beta,
        eps=eps,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        consistent_rms=consistent_rms,
        muon_weight_dimension_numbers=muon_dimensions,
    )
    return optax.chain(
        direction,
        optax.scale(-1.0),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": sgd,
    "lars": lars,
    "lamb": optax.lamb,  # You et al. 2020 (arXiv:1904.00962)
    "adam": optax.adam,
    "adamw": optax.adamw,
    "lion": optax.lion,  # Chen et al. 2023 (arXiv:2302.06675)
    "muon": muon,
    "sam": sam,
    "schedule_free": schedule_free,
}
DECAY_NAMES = ("weight_decay", "weight_decay_rate")  # names that rules use for the decay and its mask
MASK_NAMES = ("mask", "weight_decay_mask")


def optimizer_rule(name: str) -> Callable[..., optax.GradientTransformation]:
    """Return the rule of a registered name, of "optax.NAME" or of "module:name"."""
    if not name.startswith("optax."):
        return lookup("optimizer", name, OPTIMIZERS)
    known = optax_rules()
    if name not in known:
        raise ConfigError(f"Optax {optax.__version__} has no optimizer {name!r}{nearest(name, known)}.")
    return known[name]


def optax_rules() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """Return the optimizers of Optax by name: its functions that take a learning rate and need nothing else."""
    rules = {}
    for prefix, module in (("optax.", optax), ("optax.contrib.", optax.contrib)):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            signature = inspect.signature(function).parameters
            needed = {key for key, parameter in signature.items() if parameter.default is parameter.empty}
            if "learning_rate" in signature and needed <= {"learning_rate"} and not name.startswith(("_", "scale_by")):
                rules[prefix + name] = function
    return rules


def create_optimizer(
    name: str,
    learning_rate: Schedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    weight_decay_mask: str = "all",
    clip_norm: float = 0.0,
    backbone_lr_multiplier: float = 1.0,
    freeze_norm: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return the optimizer of that name.

    Args:
      name: one of `OPTIMIZERS`, "optax.NAME" for any other of Optax, or "module:name" for a rule of your own.
      learning_rate: step to learning rate.
      momentum, nesterov: of "sgd", "lars", "sam" and rules of your own that name them; those of Optax have theirs in
        `arguments`.
      weight_decay: as the rule has it: "sgd" couples it with the gradient, as torch does, "adamw" does not.
      weight_decay_mask: which parameters decay (`decay_mask`).
      clip_norm: above 0, the greatest global norm of the gradient that the rule gets.
      backbone_lr_multiplier: learning rate of all but the head, as a share of the head's. What does not move does not
        decay either, and its gradient counts in no norm.
      freeze_norm: leave BatchNorm's scales and biases as they are.
      arguments: further arguments of the rule; those that are None are left to it.

    Raises ConfigError for an unknown name or argument, and for what cannot be applied to this rule.
    """
    rule = optimizer_rule(name)
    signature = parameters(rule)

    def mask(params):
        return decay_mask(params, weight_decay_mask)

    decay_fields, mask_fields = ([key for key in names if key in signature] for names in (DECAY_NAMES, MASK_NAMES))
    if weight_decay and not decay_fields:
        raise ConfigError(
            f"the optimizer {name!r} has no weight decay: set optimizer.weight_decay=0, or use one that has, such as "
            "adamw."
        )
    if weight_decay and weight_decay_mask != "all" and not mask_fields:
        raise ConfigError(f"the optimizer {name!r} decays all parameters: set optimizer.weight_decay_mask=all.")
    fields: dict[str, Any] = dict.fromkeys(decay_fields, weight_decay) | dict.fromkeys(mask_fields, mask)
    if not is_optax(rule):
        fields |= dict(momentum=momentum, nesterov=nesterov, clip_norm=clip_norm)
    fields["learning_rate"] = learning_rate
    arguments = {key: value for key, value in (arguments or {}).items() if value is not None}
    for key in arguments:
        if key in fields:
            raise ConfigError(f"optimizer.{key} sets the {key} of {name!r}: leave optimizer.arguments.{key} out.")
        if key not in signature:
            raise ConfigError(f"the optimizer {name!r} has no argument {key!r}{nearest(key, signature)}.")
    make = functools.partial(call_with_fields, "optimizer", name, rule)
    optimizer = checked(name, make(fields | arguments))
    if "clip_norm" not in signature:
        optimizer = clipped(optimizer, clip_norm)
    if backbone_lr_multiplier == 1 and not freeze_norm:
        return optax.with_extra_args_support(optimizer)

    def at_rate(share):
        return make(fields | arguments | {"learning_rate": lambda step: share * learning_rate(step)})

    check_rates(name, at_rate, backbone_lr_multiplier)
    return at_rates(optimizer, lambda params: rate_factors(params, backbone_lr_multiplier, freeze_norm))


def is_optax(rule: Callable) -> bool:
    """Return whether a rule is a function of Optax."""
    return rule.__module__.startswith("optax")


def checked(name: str, optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """Return what a rule returned. Raises ConfigError if it is no optimizer."""
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ConfigError(
            f"the optimizer {name!r} returns {type(optimizer).__name__}: return an optax.GradientTransformation."
        )
    optimizer = optax.with_extra_args_support(optimizer)
    if name in OPTIMIZERS:
        return optimizer
    init, update = (Own("optimizer", name, function) for function in (optimizer.init, optimizer.update))
    return optax.GradientTransformationExtraArgs(init, update)


def clipped(optimizer: optax.GradientTransformation, clip_norm: float) -> optax.GradientTransformation:
    """Limit the global norm of the gradient that an optimizer gets, if `clip_norm` is above 0."""
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer) if clip_norm > 0 else optimizer


def at_rates(
    optimizer: optax.GradientTransformation, factors_of: Callable[[Any], Any]
) -> optax.GradientTransformationExtraArgs:
    """Multiply the learning rate of each parameter by its factor, and hide the gradients of those whose factor is 0.

    Scaling the updates is exact where they, the decay included, are proportional to the learning rate (`check_rates`).
    """

    def hide(gradients, params=None):
        return jax.tree.map(lambda g, factor: g if factor else jnp.zeros_like(g), gradients, factors_of(gradients))

    def scale(updates, params=None):
        return jax.tree.map(lambda u, factor: u * factor if factor else jnp.zeros_like(u), updates, factors_of(updates))

    chain = optax.chain(optax.stateless(hide), optimizer, optax.stateless(scale))

    def update(updates: Any, state: Any, params: Any = None, *, grad_fn: Any = None, **others: Any):
        hidden = grad_fn and (lambda params, number: hide(grad_fn(params, number)))
        return chain.update(updates, state, params, grad_fn=hidden, **others)

    return optax.GradientTransformationExtraArgs(chain.init, update)


def check_rates(name: str, at_rate: Callable[[float], optax.GradientTransformation], share: float) -> None:
    """Raise ConfigError if a rule's updates times `share` are not those of `share` times its learning rate.

    Both are taken for three steps on a small tree, which is done for all but the rules where it is known to hold. A
    schedule-free rule cannot be scaled from outside, since it keeps its own copy of the parameters.
    """
    if name in ("sgd", "lars", "lamb", "adam", "adamw", "lion", "muon"):
        return
    rng = np.random.default_rng(0)
    shapes = {"conv": {"kernel": (3, 3, 2, 4)}, "bn": {"scale": (4,), "bias": (4,)}, "head": {"kernel": (4, 3)}}
    flat: dict[Any, Any] = flatten_dict(shapes)
    trees = [
        unflatten_dict({p: jnp.asarray(rng.normal(size=s), jnp.float32) for p, s in flat.items()}) for _ in range(4)
    ]
    params, *gradients = trees

    def after(optimizer, factor):
        optimizer, moved = optax.with_extra_args_support(optimizer), params
        state = optimizer.init(moved)
        if averages(state):
            return None
        for gradient in gradients:
            extra = dict(value=jnp.float32(1), grad=gradient, grad_fn=lambda params, _, g=gradient: g)
            updates, state = optimizer.update(gradient, state, moved, **extra)
            moved = jax.tree.map(lambda w, u: w + factor * u, moved, updates)
        return moved

    scaled, wanted = after(at_rate(1.0), share), after(at_rate(share), 1.0)
    same = scaled is not None and (
        share == 0
        or all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.allclose(a, b, 1e-4, 1e-6)), scaled, wanted)))
    )
    if not same:
        raise ConfigError(
            f"the updates of the optimizer {name!r} are not proportional to its learning rate, so parts of the "
            "network cannot have rates of their own: leave optimizer.backbone_lr_multiplier at 1 and "
            "optimizer.freeze_norm at False."
        )


def averages(opt_state: Any) -> list[ScheduleFreeState]:
    """Return the states of schedule-free rules within an optimizer's state."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, ScheduleFreeState))
    return [leaf for leaf in leaves if isinstance(leaf, ScheduleFreeState)]


def evaluation_params(params: Any, opt_state: Any) -> Any:
    """Return the parameters that are evaluated: the parameters, or a schedule-free rule's averages of them."""
    states = averages(opt_state)
    return optax.contrib.schedule_free_eval_params(states[0], params) if states else params
