"""BatchNorm whose running variance is torch's."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float


class BatchNorm(nn.BatchNorm):
    """Flax's BatchNorm; of N values it remembers the sum of squares over N - 1, as torch does, where Flax has N.

    A training batch is normalized by the variance over N in both libraries: only what evaluation uses later differs.
    N counts the batch and the pixels, on all devices that share statistics. A single value has no such variance, and
    its own, 0, is kept.

    Attributes:
      unbiased: over N - 1; else over N.
      axis_name: mesh axis or axes over which a training batch's statistics are shared.
    """

    axis_name: str | tuple[str, ...] | None = None
    unbiased: bool = True

    def __call__(
        self, x: Float[Array, "*batch channels"], use_running_average: bool
    ) -> Float[Array, "*batch channels"]:
        """Return the normalized maps; in training, also move the statistics."""
        training = not use_running_average and not self.is_initializing()
        before = self.get_variable("batch_stats", "var") if training else None
        y = super().__call__(x, use_running_average)
        count = x.size // x.shape[-1]
        if training and self.unbiased and self.is_mutable_collection("batch_stats"):
            if self.axis_name is not None:
                count *= jax.lax.psum(1, self.axis_name)
            moved = self.get_variable("batch_stats", "var")
            added = moved - self.momentum * before
            self.put_variable("batch_stats", "var", moved + added / max(count - 1, 1))
        return y


class FrozenBatchNorm(BatchNorm):
    """A BatchNorm that uses its running statistics in training too, and leaves them as they are."""

    def __call__(
        self, x: Float[Array, "*batch channels"], use_running_average: bool
    ) -> Float[Array, "*batch channels"]:
        """Return `x` normalized by the running statistics, whatever is asked for."""
        return super().__call__(x, use_running_average=True)
