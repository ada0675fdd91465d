"""Published training recipes, each with its source. A config takes one and names its network."""

from ml_collections import ConfigDict

from resnet_jax.config import default_config


def cifar_he2015() -> ConfigDict:
    """CIFAR-10 as He et al. 2015 (arXiv:1512.03385, section 4.2) trained it: 64,000 steps of 128 images.

    SGD with momentum 0.9 and weight decay 1e-4, rate 0.1 divided by 10 at 32,000 and 48,000 steps, 4 pixels of padding,
    crop and mirror. Two things follow the authors' released code and its re-implementations where the paper says less:
    weight decay acts on BatchNorm too, and the channels' mean and deviation are used where the paper subtracts the mean
    image.
    """
    config = default_config()
    config.data.source = "cifar10"
    config.augment.pad = 4
    config.augment.flip = True
    config.training.batch_size = 128
    config.training.steps = 64_000
    config.training.log_every = 100
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.boundaries = (81.92, 122.88)  # 32,000 and 48,000 steps of 50,000 / 128 an epoch
    config.evaluation.batch_size = 1000
    return config


def cifar_short(epochs: float = 10.0) -> ConfigDict:
    """A few epochs of CIFAR-size images for a machine without an accelerator: one cosine, Nesterov momentum, stronger
    decay.

    This project's own, in the spirit of Smith & Topin 2017 (arXiv:1708.07120): a short run that ends at rate 0.
    """
    config = cifar_he2015()
    config.training.steps = None
    config.training.epochs = epochs
    config.training.log_every = 50
    config.optimizer.learning_rate = 0.2
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "cosine"
    config.schedule.boundaries = ()
    config.schedule.warmup_epochs = 1.0
    return config
