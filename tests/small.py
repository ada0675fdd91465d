"""A run of some seconds: a network of two small stages on the digits."""

from resnet_jax.config import default_config


def config():
    """Return its config."""
    config = default_config()
    config.model.name = "cifar_resnet8"
    config.model.overrides.stage_sizes = (1, 1)
    config.model.overrides.stage_widths = (8, 16)
    config.model.overrides.stem_width = 8
    config.augment.pad = 1
    config.training.batch_size = 96
    config.training.epochs = 3.0
    config.training.log_every = 5
    config.evaluation.batch_size = 96
    config.parallel.devices = 1
    config.training.ema_decay = 0.9
    return config
