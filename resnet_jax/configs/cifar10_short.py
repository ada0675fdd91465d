"""A CIFAR-10 network in ten epochs, for a machine without an accelerator.

    python main.py --config=configs/cifar10_short.py:resnet20 --workdir=runs/cifar10_short_resnet20

Any network that `python -m resnet_jax models` lists as `cifar_NAME` can be named. The recipe is this project's own, so
nothing is published for it. Measured here (`results/cifar10_short_resnet20.zip`, one seed): ResNet-20 gets 86.88 %
top-1 in 65 minutes on two cores of an AMD EPYC that were busy with other work, at 205 images a second when they were
not.
"""

from resnet_jax.configs import recipes


def get_config(name: str = "resnet20"):
    """Return the config of `cifar_NAME`."""
    config = recipes.cifar_short(epochs=10.0)
    recipes.name_cifar_network(config, name)
    return config
