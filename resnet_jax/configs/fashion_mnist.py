"""A CIFAR network on Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747), in ten epochs.

    python main.py --config=configs/fashion_mnist.py:resnet20 --workdir=runs/fashion_mnist_resnet20

Any network that `python -m resnet_jax models` lists as `cifar_NAME` can be named; it reads the grey images of 28x28 as
they are. The data are downloaded where they are missing. The recipe is this project's own, so nothing is published for
it. Here, accuracy, time and hardware: not measured yet.
"""

from resnet_jax.configs import cifar10_short


def get_config(name: str = "resnet20"):
    """Return the config of `cifar_NAME`."""
    config = cifar10_short.get_config(name)
    config.data.source = "fashion_mnist"
    config.augment.pad = 2
    return config
