"""Deletion of blocks at test time (Veit et al. 2016, arXiv:1605.06431, sections 4.1 and 4.2)."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from resnet_jax.errors import ConfigError
from resnet_jax.lab.analysis.hooks import Images, Labels, SeenBlock, Variables, blocks, gated
from resnet_jax.lab.analysis.scoring import Score, scorer


class Deleted(NamedTuple):
    """Scores of a network, whole and without blocks.

    Attributes:
      whole: with all blocks.
      without: in `delete_each`, a score for each block that can be deleted, in their order; in `delete_several`, for
        each count a score of each draw.
      blocks: those that can be deleted.
    """

    whole: Score
    without: list
    blocks: list[SeenBlock]


def deletable(model: nn.Module, variables: Variables, images: Images) -> list[SeenBlock]:
    """Return the blocks that can be deleted: those with a shortcut, and of plain ones those that keep their shape.

    Raises ConfigError if the network has no such blocks.
    """
    found = [block for block in blocks(model, variables, images[:1]) if block.residual or block.keeps_shape]
    if not found:
        raise ConfigError(
            "this network has nothing to delete: no block of it has a shortcut, or keeps the shape of its maps."
        )
    return found


def delete_each(model: nn.Module, variables: Variables, images: Images, labels: Labels) -> Deleted:
    """Score a network without each of its blocks in turn, by its shortcut alone (section 4.1, figure 3).

    A block of a plain network is replaced by the identity, as the paper removes layers of VGG.
    """
    found = deletable(model, variables, images)
    score = _scorer(model, found, images, labels)
    everything = np.ones(len(found), bool)
    return Deleted(
        score(variables, everything),
        [score(variables, np.arange(len(found)) != removed) for removed in range(len(found))],
        found,
    )


def delete_several(
    model: nn.Module,
    variables: Variables,
    images: Images,
    labels: Labels,
    counts: list[int],
    draws: int,
    seed: int,
) -> Deleted:
    """Score a network without `count` random blocks, for each count in several draws (section 4.2, figure 5a).

    Raises ConfigError if a count is more than there are blocks.
    """
    found = deletable(model, variables, images)
    if not 0 <= min(counts) <= max(counts) <= len(found):
        raise ConfigError(f"this network has {len(found)} blocks that can be deleted: name counts from 0 to that.")
    score = _scorer(model, found, images, labels)
    random = np.random.default_rng(seed)

    def drawn(count):
        kept = np.ones(len(found), bool)
        kept[random.choice(len(found), count, replace=False)] = False
        return score(variables, kept)

    whole = score(variables, np.ones(len(found), bool))
    return Deleted(whole, [[drawn(count) for _ in range(draws)] for count in counts], found)


def _scorer(model, found, images, labels):
    """Return (variables, kept) to a score; `kept` says of each block whether it stays."""

    def logits_of(variables, kept, images):
        with gated({block.name: kept[i] for i, block in enumerate(found)}):
            return model.apply(variables, jnp.asarray(images), train=False)

    return scorer(logits_of, images, labels)
