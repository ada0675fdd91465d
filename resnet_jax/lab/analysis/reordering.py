"""Reordering of blocks at test time (Veit et al. 2016, arXiv:1605.06431, section 4.3)."""

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import numpy as np

from resnet_jax.errors import ConfigError
from resnet_jax.lab.analysis.hooks import Images, Labels, Variables, blocks
from resnet_jax.lab.analysis.scoring import Score, scorer


class Swapped(NamedTuple):
    """A network whose blocks were swapped.

    Attributes:
      swaps: how many pairs were swapped, one after the other.
      correlation: Kendall's tau of the order of all blocks and their own order: 1 is their own.
      score: of the network.
    """

    swaps: int
    correlation: float
    score: Score


def exchangeable(model: nn.Module, variables: Variables, images: Images) -> list[list[str]]:
    """Return groups of blocks of one stage whose maps and arrays have equal shapes, in the network's order.

    Raises ConfigError where no two blocks have.
    """
    groups = {}
    for block in blocks(model, variables, images[:1]):
        arrays = tuple(jax.tree.leaves(jax.tree.map(np.shape, _arrays(variables, block.name), is_leaf=_is_array)))
        key = (block.name.partition("_")[0], block.input, block.output, arrays)
        groups.setdefault(key, []).append(block.name)
    found = [names for names in groups.values() if len(names) > 1]
    if not found:
        raise ConfigError("no two blocks of this network have equal shapes, so that none can be swapped.")
    return found


def reorder(variables: Variables, order: dict[str, str]) -> Variables:
    """Return the variables with those of block `order[name]` in the place of block `name`."""
    return {
        kind: arrays | {name: arrays[order[name]] for name in order if name in arrays}
        for kind, arrays in variables.items()
    }


def kendall(order: list[int]) -> float:
    """Return Kendall's rank correlation of an order of 0, 1, 2, ... and the natural one."""
    from scipy.stats import kendalltau  # half a second, which no other measurement needs

    return float(cast(Any, kendalltau(range(len(order)), order)).statistic)


def reorder_at_random(
    model: nn.Module,
    variables: Variables,
    images: Images,
    labels: Labels,
    swaps: list[int],
    draws: int,
    seed: int,
) -> tuple[Score, list[Swapped]]:
    """Swap random pairs of blocks of equal shapes, for each number of `swaps` in several draws (figure 5b).

    Returns the score of the network as it is, and those with swapped blocks. Raises ConfigError where none can be
    swapped.
    """
    groups = exchangeable(model, variables, images)
    pairs = [(a, b) for names in groups for i, a in enumerate(names) for b in names[i + 1 :]]
    names = [block.name for block in blocks(model, variables, images[:1])]

    def logits_of(variables, images) -> Any:
        return model.apply(variables, images, train=False)

    score = scorer(logits_of, images, labels)
    random, found = np.random.default_rng(seed), []
    for count in swaps:
        for _ in range(draws):
            order = {name: name for name in names}
            for a, b in (pairs[i] for i in random.integers(len(pairs), size=count)):
                order[a], order[b] = order[b], order[a]
            tau = kendall([names.index(order[name]) for name in names])
            found.append(Swapped(count, tau, score(reorder(variables, order))))
    return score(variables), found


def _arrays(variables: Variables, name: str) -> dict[str, Any]:
    return {kind: arrays.get(name, {}) for kind, arrays in variables.items()}


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape")
