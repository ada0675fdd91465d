"""The guard of a train step: what happens to one whose loss or gradient is NaN or infinite.

Such a step leaves parameters, statistics, momenta and averages as they were; only its number is spent. In float16 the
loss is multiplied by a scale, so that small gradients do not vanish, and a step whose gradient overflowed halves it
(Micikevicius et al. 2018, arXiv:1710.03740, sections 3.2 and 4).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

FIRST_SCALE = 2.0**15
GROWS_AFTER = 1000  # steps in a row that were taken


@struct.dataclass
class DynamicLossScale:
    """What a guarded run remembers of its steps.

    Attributes:
      scale: float32, by which the loss is multiplied; None where it is not.
      taken: int32, steps in a row that were taken with this scale.
      skipped: int32, all steps that were left out, but for those that only overflowed.
    """

    scale: Any
    taken: Any
    skipped: Any

    @classmethod
    def create(cls, scaled: bool) -> "DynamicLossScale":
        """Return the guard before the first step."""
        scale = jnp.asarray(FIRST_SCALE, jnp.float32) if scaled else None
        return cls(scale, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def after(self, loss: Float[Array, ""], finite: Bool[Array, ""]) -> "DynamicLossScale":
        """Return the guard after a step of this loss, which was `finite` as a whole or was left out.

        An overflow has a finite loss, and a scale that can still be halved.
        """
        taken = jnp.where(finite, self.taken + 1, 0)
        if self.scale is None:
            return DynamicLossScale(None, taken, self.skipped + ~finite)
        overflow = ~finite & jnp.isfinite(loss) & (self.scale > 1)
        grows = taken == GROWS_AFTER
        scale = jnp.where(grows, 2 * self.scale, jnp.where(finite, self.scale, jnp.maximum(self.scale / 2, 1)))
        return DynamicLossScale(scale, jnp.where(grows, 0, taken), self.skipped + (~finite & ~overflow))


def choose(finite: Bool[Array, ""], new: Any, old: Any) -> Any:
    """Return the tree `new` if the step is finite, and else `old`."""
    return jax.tree.map(lambda one, another: jnp.where(finite, one, another), new, old)
