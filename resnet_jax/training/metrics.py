"""Metrics: values of examples, in sums that add up exactly over batches, devices and hosts.

A metric is one function of (logits, labels, losses, valid) to a value for each example of the batch. Integers and
booleans are summed as int32, so that an evaluation of any size is counted to the unit; floats are summed in float32.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.errors import ConfigError
from resnet_jax.lookup import check_call, own
from resnet_jax.run.metrics import RECORD_FIELDS

Logits = Float[Array, "batch classes"]
Labels = Int[Array, " batch"]
PerExample = Float[Array, " batch"]
Valid = Bool[Array, " batch"]
Metric = Callable[[Logits, Labels, PerExample, Valid], Array]
Metrics = Mapping[str, Metric]


@struct.dataclass
class Sums:
    """Sums over examples: add two of them to get those of both sets.

    Attributes:
      totals: the sum of each metric by name, float32 or int32.
      examples: int32 count.
    """

    totals: dict[str, Any]
    examples: Any

    def __add__(self, other: "Sums") -> "Sums":
        names = self.totals | other.totals
        totals = {name: self.totals.get(name, 0) + other.totals.get(name, 0) for name in names}
        return Sums(totals, self.examples + other.examples)

    @classmethod
    def none(cls) -> "Sums":
        """The sums over no example."""
        return cls({}, np.int32(0))

    def averages(self) -> dict[str, Array]:
        """Return the mean of each metric, inside a program."""
        return {name: total / self.examples for name, total in self.totals.items()}

    def means(self) -> dict[str, float]:
        """Return the mean of each metric, on the host: accuracies are fractions."""
        count = int(self.examples)
        own = sorted(self.totals.keys() - METRICS.keys())
        return {name: float(self.totals[name]) / count for name in (*METRICS, *own)}


def rank(logits: Logits, labels: Labels) -> Int[Array, " batch"]:
    """Return how many classes come before the label: ties go to the lower class, and a NaN is never a hit."""
    target = jnp.take_along_axis(logits, labels[:, None], axis=1)
    index = jnp.arange(logits.shape[1])
    behind = (logits < target) | ((logits == target) & (index >= labels[:, None]))
    return jnp.where(jnp.isnan(target[:, 0]), jnp.iinfo(jnp.int32).max, jnp.sum(~behind, axis=1))


def loss(logits: Logits, labels: Labels, losses: PerExample, valid: Valid) -> PerExample:
    """Return the loss of each example."""
    return losses


def top1(logits: Logits, labels: Labels, losses: PerExample, valid: Valid) -> Valid:
    """Return whether the label is ranked first."""
    return rank(logits, labels) < 1


def top5(logits: Logits, labels: Labels, losses: PerExample, valid: Valid) -> Valid:
    """Return whether the label is ranked among the first five."""
    return rank(logits, labels) < 5


METRICS: Metrics = {"loss": loss, "top1": top1, "top5": top5}  # of every run


def choose_metrics(names: Iterable[str]) -> Metrics:
    """Return `METRICS` and those of some names, "module:name" each, whose part after the colon is their key.

    Raises ConfigError for a name that cannot be found, or whose key is taken.
    """
    metrics = dict(METRICS)
    for name in names:
        key = name.rpartition(":")[2]
        metric = own("metric", name, METRICS)
        if key in metrics or key in RECORD_FIELDS:
            raise ConfigError(f"the key {key!r} of the metric {name!r} is taken: rename the function.")
        check_call("metric", name, metric, ("logits", "labels", "losses", "valid"))
        metrics[key] = metric
    return metrics


def count(logits: Logits, labels: Labels, losses: PerExample, valid: Valid, metrics: Metrics = METRICS) -> Sums:
    """Return the sums over the valid examples of a batch.

    Raises ConfigError for a metric that does not return one number for each example.
    """
    totals = {}
    for name, metric in metrics.items():
        values = per_example(
            "metric", getattr(metric, "name", name), metric(logits, labels, losses, valid), labels.shape
        )
        kind = jnp.float32 if jnp.issubdtype(values.dtype, jnp.floating) else jnp.int32
        totals[name] = jnp.sum(jnp.where(valid, values, 0), dtype=kind)
    return Sums(totals, jnp.sum(valid, dtype=jnp.int32))


def per_example(kind: str, name: str, values: Any, shape: tuple[int, ...]) -> Array:
    """Return values, one for each example. Raises ConfigError for another shape, or for what are no real numbers."""
    if not isinstance(values, jax.Array | np.ndarray) or values.shape != shape:
        found = f"shape {values.shape}" if hasattr(values, "shape") else type(values).__name__
        raise ConfigError(f"the {kind} {name!r} returns {found} and must return one value for each example, {shape}.")
    if not any(jnp.issubdtype(values.dtype, number) for number in (jnp.floating, jnp.integer, jnp.bool_)):
        raise ConfigError(f"the {kind} {name!r} returns {values.dtype} and must return real numbers.")
    return jnp.asarray(values)
