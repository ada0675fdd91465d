"""A CIFAR-100 network, trained as for CIFAR-10.

    python main.py --config=configs/cifar100.py:preact_resnet164 --workdir=runs/cifar100_preact_resnet164

Any network that `python -m resnet_jax models` lists as `cifar_NAME` can be named; without a name it is resnet20. The
data are downloaded where they are missing. Expected, published top-1 errors:

    preact_resnet164   24.33 %  He et al. 2016 (arXiv:1603.05027), the median of 5 runs
    preact_resnet1001  22.71 %

He et al. 2015 give none for this data set. Here, accuracy, time and hardware: not measured yet.
"""

from resnet_jax.configs import cifar10


def get_config(name: str = "resnet20"):
    """Return the config of `cifar_NAME`."""
    config = cifar10.get_config(name)
    config.data.source = "cifar100"
    return config
