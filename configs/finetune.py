"""A network from published ImageNet weights, fine-tuned on the classes of a folder of images.

    python main.py --config=configs/finetune.py --workdir=runs/finetune --config.data.path=FOLDER

FOLDER holds train/ and val/, each with a folder for each class. The network is ResNet-18, or another by
--config=configs/finetune.py:NAME; it begins with the weights of its first preset, torchvision's where there are some,
which are downloaded, or with others by --config.training.init_from=FILE. The head is new, and everything
before it learns at a tenth of its rate. For batches too small for statistics of their own, add
--config.model.overrides.norm_frozen=true --config.optimizer.freeze_norm=true; to train the head alone, add these two
and --config.optimizer.backbone_rate=0.

The recipe is this project's own, so nothing is published for it. Accuracy and time: not measured yet.
"""

from configs import recipes
from resnet_jax.weights.presets import default


def get_config(network: str = "resnet18"):
    """Return the config of an ImageNet network."""
    config = recipes.imagenet("torchvision_v1", network)
    config.training.init_from = default(network).name
    config.training.init_adapt = True
    config.training.batch_size = 64
    config.training.epochs = 20.0
    config.optimizer.learning_rate = 0.02
    config.optimizer.base_batch_size = 0
    config.optimizer.backbone_rate = 0.1
    config.schedule.name = "cosine"
    config.schedule.boundaries = ()
    config.schedule.warmup_epochs = 1.0
    config.schedule.by_epoch = False
    return config
