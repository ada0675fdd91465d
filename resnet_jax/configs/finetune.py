"""A network from published ImageNet weights, fine-tuned on the classes of a folder of images.

    python main.py --config=configs/finetune.py --workdir=runs/finetune --config.data.path=FOLDER

FOLDER holds train/ and val/, each with a folder for each class. The network is ResNet-18, or another by
--config=configs/finetune.py:NAME; it begins with the weights of its first preset, torchvision's where there are some,
which are downloaded, or with others by --config.training.init_from=FILE. The head is new, and everything
before it learns at a tenth of its rate. For batches too small for statistics of their own, add
--config.model.overrides.norm_frozen=true --config.optimizer.freeze_norm=true; to train the head alone, add these two
and --config.optimizer.backbone_lr_multiplier=0.

The recipe is this project's own, so nothing is published for it. Accuracy and time: not measured yet.
"""

from resnet_jax.config import default_config
from resnet_jax.weights.presets import default


def get_config(network: str = "resnet18"):
    """Return the config of an ImageNet network."""
    config = default_config()
    config.model.name = network
    config.model.dtype = "bfloat16"
    config.data.source = "folder"
    config.data.image_size = 224
    config.augment.flip = True
    config.training.init_from = default(network).name
    config.training.init_adapt = True
    config.training.batch_size = 64
    config.training.epochs = 20.0
    config.training.log_every = 100
    config.optimizer.learning_rate = 0.02
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.backbone_lr_multiplier = 0.1
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 1.0
    return config
