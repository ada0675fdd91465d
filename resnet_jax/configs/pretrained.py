"""The evaluation of known weights, as they were evaluated where they were published.

    python main.py --config=configs/pretrained.py:resnet50.tv_in1k --mode=eval --workdir=runs/r50 --config.data.path=DIR

DIR holds train/ and val/, each with a folder for each class. Any preset of `resnet_jax/weights/presets.csv` can be
named. The weights are downloaded where they are missing; a file of one's own takes their place by
`--config.training.init_from=FILE`. What the preset sets are fields like others, and can be overridden likewise.

    expected  76.156 % top-1 and 92.866 % top-5, published (timm, resnet50.tv_in1k); the table has those of the others
    here      ImageNet: not measured yet. CIFAR-10 by cifar_resnet20.akamaster: 91.73 %, as published
"""

from resnet_jax.config import default_config
from resnet_jax.weights.presets import named


def get_config(name: str = "resnet50.tv_in1k"):
    """Return the config that evaluates the weights of a preset."""
    preset = named(name)
    config = default_config()
    config.model.name = preset.network
    config.model.overrides.update(preset.overrides)
    config.data.source = preset.dataset
    config.data.image_size = preset.size
    config.data.resize = preset.resize
    config.data.interpolation = preset.interpolation
    config.data.mean, config.data.std = preset.mean, preset.std
    config.training.init_from = preset.name
    return config
