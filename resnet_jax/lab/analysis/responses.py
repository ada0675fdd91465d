"""Standard deviation of layer responses (He et al. 2015, arXiv:1512.03385, figure 7)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from resnet_jax.errors import ConfigError
from resnet_jax.lab.analysis.hooks import Images, Variables, calls, normalized, reference
from resnet_jax.models.layers import BatchNorm


def layer_responses(
    model: nn.Module,
    variables: Variables,
    images: Images,
    train: bool = False,
) -> dict[str, float]:
    """Return the standard deviation of what each BatchNorm gives, before ReLU and addition, by its path and in order.

    It is taken over all examples, pixels and channels. Projections of shortcuts are left out, as in the paper. With
    `train` the maps are normalized by their own statistics, else by the running ones.
    """
    # The reference implementation calls every BatchNorm; the fast one may compute it together with a convolution.
    model, images = reference(model), jnp.asarray(images)
    order = [path for path in calls(model, variables, images[:1], BatchNorm) if "shortcut" not in path]

    if not order:
        raise ConfigError("this network has no BatchNorm of resnet_jax.models.layers, whose responses are measured.")
    key = jax.random.key(0)

    @jax.jit
    def deviations(variables):
        with normalized() as results:
            model.apply(variables, images, train=train, mutable=["batch_stats"], rngs={"dropout": key})
        return {path: jnp.std(results[path].astype(jnp.float32)) for path in order}

    found = jax.device_get(deviations(variables))
    return {path: float(found[path]) for path in order}
