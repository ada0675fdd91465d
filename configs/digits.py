"""A small ResNet on scikit-learn's handwritten digits, the default that needs no download."""

from resnet_jax.config import default_config


def get_config():
    """Return the config."""
    config = default_config()
    config.model.name = "cifar_resnet8"
    config.data.source = "digits"
    config.augment.pad = 1
    config.training.batch_size = 64
    config.training.epochs = 20.0
    config.training.log_every = 10
    config.optimizer.learning_rate = 0.1
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 1.0
    return config
