"""Published training recipes, each with its source and all its values. A config takes one and names its network.

All ImageNet recipes differ from their sources in three things. The network computes in bfloat16, with float32
parameters, BatchNorm statistics and logits; the sources computed in float32, or in float16 with scaled losses.
BatchNorm takes the statistics of one device, so they are over `batch_size` divided by the number of devices, and the
sources had 8 devices or 4. An epoch is 1,281,167 images and a batch may span two; the sources drop or repeat some
images to fill the last batch.
"""

import functools

from ml_collections import ConfigDict

from resnet_jax.config import default_config
from resnet_jax.errors import ConfigError, nearest
from resnet_jax.models.registry import find, list_models


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
    config.schedule.boundaries_steps = (32_000, 48_000)
    config.evaluation.batch_size = 1000
    return config


def cifar_resnext() -> ConfigDict:
    """CIFAR-10 as Xie et al. 2017 (arXiv:1611.05431, section 5.3) trained ResNeXt-29: 300 epochs.

    SGD with Nesterov momentum 0.9 and weight decay 5e-4, rate 0.1 divided by 10 at epochs 150 and 225, 4 pixels of
    padding, crop and mirror. Batch 128 is of facebookresearch/ResNeXt, whose README says that it is better than the
    paper's 256, as blocks of the original order are than the paper's pre-activated ones.

    Differs:
    - Their code divides the rate at epochs 147 and 222, and the paper at 150 and 225, as here.
    """
    config = default_config()
    config.data.source = "cifar10"
    config.augment.pad = 4
    config.augment.flip = True
    config.training.batch_size = 128
    config.training.epochs = 300.0
    config.training.log_every = 100
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "step"
    config.schedule.boundaries = (150.0, 225.0)
    config.evaluation.batch_size = 1000
    return config


def cifar_short(epochs: float = 10.0) -> ConfigDict:
    """A few epochs of CIFAR-size images for a machine without an accelerator: one cosine, Nesterov momentum, stronger
    decay.

    This project's own, in the spirit of Smith & Topin 2017 (arXiv:1708.07120): a short run that ends at rate 0.
    """
    config = default_config()
    config.data.source = "cifar10"
    config.augment.pad = 4
    config.augment.flip = True
    config.training.batch_size = 128
    config.training.epochs = epochs
    config.training.log_every = 50
    config.optimizer.learning_rate = 0.2
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 1.0
    config.evaluation.batch_size = 1000
    return config


def cifar_fast(epochs: int = 24) -> ConfigDict:
    """CIFAR-10 in few epochs on an accelerator: this project's own, of what `configs/cifar10_fast.py` names."""
    config = default_config()
    config.model.dtype = "bfloat16"
    config.data.source = "cifar10"
    config.augment.pad = 4
    config.augment.alternate_flip = True
    config.training.batch_size = 512
    config.training.epochs = float(epochs)
    config.training.log_every = 98  # steps of an epoch
    config.training.label_smoothing = 0.2
    config.optimizer.learning_rate = 0.4
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "linear"
    config.schedule.warmup_epochs = 5.0
    config.evaluation.batch_size = 1000
    config.evaluation.flip = True
    config.evaluation.every_epochs = epochs
    config.checkpoint.every_epochs = epochs
    return config


def name_cifar_network(config: ConfigDict, name: str) -> None:
    """Set a config's network to `cifar_NAME`, or to one of ImageNet's called NAME with the stem for small images.

    Raises ConfigError for an unknown name, with the nearest.
    """
    for network, overrides in ((f"cifar_{name}", {}), (name, {"stem": "cifar"})):
        try:
            known = find(network)
        except ConfigError:  # a depth that the family does not have
            continue
        if known:
            config.model.name = network
            config.model.overrides.update(overrides)
            return
    names = [registered.removeprefix("cifar_") for registered in list_models("cifar_*")]
    raise ConfigError(
        f"no CIFAR network is called {name!r}{nearest(name, [*names, *list_models()])}; there are {', '.join(names)}, "
        "and ImageNet's, such as resnet18 and plain34, which get the stem for small images."
    )


def imagenet(recipe: str, network: str) -> ConfigDict:
    """Return the recipe of that name in `IMAGENET`, for `network`. Raises ConfigError for an unknown recipe."""
    if recipe not in IMAGENET:
        raise ConfigError(
            f"no ImageNet recipe is called {recipe!r}{nearest(recipe, IMAGENET)}; there are {', '.join(IMAGENET)}."
        )
    config = OF_NETWORK.get((recipe, network), IMAGENET[recipe])()
    config.model.name = network
    return config


def imagenet_fb_resnet_torch() -> ConfigDict:
    """ImageNet as facebookarchive/fb.resnet.torch trained it: 90 epochs of SGD with Nesterov momentum.

    Batch 256, rate 0.1 divided by 10 at epochs 30 and 60, weight decay 1e-4 on all parameters, bicubic crops of 8 to
    100 % of the image, evaluation on the central 224 of a short side of 256. The last BatchNorm of a block starts at
    scale 1. The rate grows in proportion to `training.batch_size` where that is changed (Goyal et al. 2017,
    arXiv:1706.02677).

    Colours are jittered (brightness, contrast and saturation by up to 0.4) and lit along ImageNet's principal
    components (deviation 0.1).

    Nothing of the recipe is missing. Its colours were changed in floating point, and are rounded to 8 bits here.
    """
    config = default_config()
    config.model.dtype = "bfloat16"
    config.data.source = "folder"
    config.data.image_size = 224
    config.data.interpolation = "bicubic"
    config.augment.flip = True
    config.augment.color_jitter = 0.4
    config.augment.lighting = 0.1
    config.training.batch_size = 256
    config.training.epochs = 90.0
    config.training.log_every = 100
    config.optimizer.learning_rate = 0.1
    config.optimizer.base_batch_size = 256
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.boundaries = (30.0, 60.0)
    config.schedule.step_per_epoch = True
    return config


def imagenet_resnext() -> ConfigDict:
    """ImageNet as facebookresearch/ResNeXt trained it (Xie et al. 2017, arXiv:1611.05431): 100 epochs.

    All else is as in `imagenet_fb_resnet_torch`, on which their code builds, with a third division of the rate at epoch
    90.
    """
    config = default_config()
    config.model.dtype = "bfloat16"
    config.data.source = "folder"
    config.data.image_size = 224
    config.data.interpolation = "bicubic"
    config.augment.flip = True
    config.augment.color_jitter = 0.4
    config.augment.lighting = 0.1
    config.training.batch_size = 256
    config.training.epochs = 100.0
    config.training.log_every = 100
    config.optimizer.learning_rate = 0.1
    config.optimizer.base_batch_size = 256
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.boundaries = (30.0, 60.0, 90.0)
    config.schedule.step_per_epoch = True
    return config


def imagenet_torchvision_v1(epochs: float = 90.0, boundaries: tuple[float, ...] = (30.0, 60.0)) -> ConfigDict:
    """ImageNet as torchvision's references/classification trained the IMAGENET1K_V1 weights.

    Batch 256 (8 x 32), SGD with momentum 0.9 and without Nesterov, rate 0.1 divided by 10 every 30 epochs, weight decay
    1e-4 on all parameters, bilinear crops, evaluation on the central 224 of a short side of 256. 90 epochs; its
    ResNeXts had 100, and a third division at epoch 90. The rate grows in proportion to `training.batch_size` where that
    is changed (Goyal et al. 2017, arXiv:1706.02677).

    Nothing of the recipe is missing; the module's docstring says what differs for every ImageNet recipe.
    """
    config = default_config()
    config.model.dtype = "bfloat16"
    config.data.source = "folder"
    config.data.image_size = 224
    config.augment.flip = True
    config.training.batch_size = 256
    config.training.epochs = epochs
    config.training.log_every = 100
    config.optimizer.learning_rate = 0.1
    config.optimizer.base_batch_size = 256
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.boundaries = boundaries
    config.schedule.step_per_epoch = True
    return config


def imagenet_torchvision_v2() -> ConfigDict:
    """ImageNet as torchvision trained the IMAGENET1K_V2 weights (pytorch/vision issue 3995): 600 epochs.

    Batch 1024 (8 x 128), SGD with momentum 0.9, rate 0.5 by a cosine after 5 epochs of warm-up from 0.005, weight decay
    2e-5 except on BatchNorm, label smoothing 0.1, mixup 0.2 or CutMix 1.0 by even chance, training crops of 176,
    evaluation on the central 224 of a short side of 232. TrivialAugmentWide, random erasing (0.1), and repeated
    augmentation: four copies of an image in a batch.

    Differs:
    - The moving average is updated at every step. There it is at every 32nd, and the flag 0.99998 becomes a decay of
      1 - (1 - 0.99998) * 1024 * 32 / 600 = 1 - 1.0923e-3 an update; its 32nd root, 1 - 3.415e-5, is used here. There it
      is a copy of the weights in the warm-up epochs; here it begins with smaller decays.
    - Four epochs go through all images once, four times each. There, each epoch draws another fourth of them.

    Nothing of the recipe is missing.
    """
    config = default_config()
    config.model.dtype = "bfloat16"
    config.data.source = "folder"
    config.data.image_size = 176
    config.data.eval_size = 224
    config.data.resize = 232
    config.augment.flip = True
    config.augment.policy = "trivial_augment_wide"
    config.augment.erase = 0.1
    config.augment.repeats = 4
    config.augment.mixup = 0.2
    config.augment.cutmix = 1.0
    config.training.batch_size = 1024
    config.training.epochs = 600.0
    config.training.log_every = 100
    config.training.label_smoothing = 0.1
    config.training.ema_decay = (1 - (1 - 0.99998) * 1024 * 32 / 600) ** (1 / 32)
    config.optimizer.learning_rate = 0.5
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 2e-5
    config.optimizer.weight_decay_mask = "all_but_norm"
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 5.0
    config.schedule.warmup_start = 0.01
    config.schedule.step_per_epoch = True
    return config


def imagenet_nvidia() -> ConfigDict:
    """ImageNet as NVIDIA's DeepLearningExamples train ResNet-50 v1.5 (PyTorch/Classification/ConvNets): 90 epochs.

    Batch 2048 (8 x 256), SGD with momentum 0.875, rate 2.048 by a cosine after 8 epochs of warm-up, weight decay
    1/32768 except on BatchNorm, label smoothing 0.1, bilinear crops, evaluation on the central 224 of a short side of
    256.

    Differs:
    - The rate changes at every step here, from 0 on.
    """
    config = default_config()
    config.model.dtype = "bfloat16"
    config.data.source = "folder"
    config.data.image_size = 224
    config.augment.flip = True
    config.training.batch_size = 2048
    config.training.epochs = 90.0
    config.training.log_every = 100
    config.training.label_smoothing = 0.1
    config.optimizer.learning_rate = 2.048
    config.optimizer.momentum = 0.875
    config.optimizer.weight_decay = 1 / 32768
    config.optimizer.weight_decay_mask = "all_but_norm"
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 8.0
    return config


def imagenet_rsb_a1() -> ConfigDict:
    """Procedure A1 of Wightman et al. 2021 (arXiv:2110.00476): 600 epochs at 224, else as A2 but for three values.

    Weight decay 0.01, mixup 0.2 and label smoothing 0.1; the rest, and what differs, is in `imagenet_rsb_a2`.
    """
    config = default_config()
    config.model.dtype = "bfloat16"
    config.model.overrides.zero_init_last = True
    config.model.overrides.stochastic_depth = 0.05
    config.data.source = "folder"
    config.data.image_size = 224
    config.data.eval_size = 224
    config.data.resize = 235
    config.data.interpolation = "bicubic"
    config.augment.flip = True
    config.augment.policy = "rand_augment"
    config.augment.magnitude = 7.0
    config.augment.repeats = 3
    config.augment.mixup = 0.2
    config.augment.cutmix = 1.0
    config.training.batch_size = 2048
    config.training.epochs = 600.0
    config.training.log_every = 100
    config.training.loss = "binary_cross_entropy"
    config.training.label_smoothing = 0.1
    config.optimizer.name = "lamb"
    config.optimizer.learning_rate = 5e-3
    config.optimizer.weight_decay = 0.01
    config.optimizer.weight_decay_mask = "kernels"
    config.optimizer.clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 5.0
    config.schedule.warmup_start = 1e-4 / 5e-3
    config.schedule.end = 1e-6
    config.schedule.warmup_overlaps = True
    config.schedule.step_per_epoch = True
    return config


def imagenet_rsb_a2() -> ConfigDict:
    """Procedure A2 of Wightman et al. 2021 (arXiv:2110.00476), trained with timm: 300 epochs at 224, rate 5e-3.

    LAMB with batch 2048, weight decay 0.02 except on BatchNorm and biases, gradients cut to norm 1, a cosine to 1e-6
    after 5 epochs of warm-up from 1e-4, binary cross-entropy, RandAugment (two of timm's increasing operations, of
    magnitude 7 with deviation 0.5), mixup 0.1 or CutMix 1.0 by even chance, three copies of an image in a batch,
    bicubic crops, stochastic depth 0.05, the last BatchNorm of a block at scale 0 at first, and evaluation on the
    central 224 of a short side of 235, which is 224 / 0.95 rounded down as timm does.

    Differs:
    - The targets of a mixed image are its two shares. There, both classes have target 1 (in timm, if above 0.2).
    - LAMB's trust ratio scales every parameter. In timm it leaves those out that do not decay.
    - Repeated augmentation goes through all images once in three epochs. There, each epoch draws another third of them.
    """
    config = default_config()
    config.model.dtype = "bfloat16"
    config.model.overrides.zero_init_last = True
    config.model.overrides.stochastic_depth = 0.05
    config.data.source = "folder"
    config.data.image_size = 224
    config.data.eval_size = 224
    config.data.resize = 235
    config.data.interpolation = "bicubic"
    config.augment.flip = True
    config.augment.policy = "rand_augment"
    config.augment.magnitude = 7.0
    config.augment.repeats = 3
    config.augment.mixup = 0.1
    config.augment.cutmix = 1.0
    config.training.batch_size = 2048
    config.training.epochs = 300.0
    config.training.log_every = 100
    config.training.loss = "binary_cross_entropy"
    config.optimizer.name = "lamb"
    config.optimizer.learning_rate = 5e-3
    config.optimizer.weight_decay = 0.02
    config.optimizer.weight_decay_mask = "kernels"
    config.optimizer.clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 5.0
    config.schedule.warmup_start = 1e-4 / 5e-3
    config.schedule.end = 1e-6
    config.schedule.warmup_overlaps = True
    config.schedule.step_per_epoch = True
    return config


def imagenet_rsb_a3() -> ConfigDict:
    """Procedure A3 of Wightman et al. 2021 (arXiv:2110.00476): 100 epochs at 160, rate 8e-3, evaluated at 224.

    As A2 but for RandAugment of magnitude 6, no repeated augmentation and no stochastic depth; what differs is in
    `imagenet_rsb_a2`.
    """
    config = default_config()
    config.model.dtype = "bfloat16"
    config.model.overrides.zero_init_last = True
    config.data.source = "folder"
    config.data.image_size = 160
    config.data.eval_size = 224
    config.data.resize = 235
    config.data.interpolation = "bicubic"
    config.augment.flip = True
    config.augment.policy = "rand_augment"
    config.augment.magnitude = 6.0
    config.augment.mixup = 0.1
    config.augment.cutmix = 1.0
    config.training.batch_size = 2048
    config.training.epochs = 100.0
    config.training.log_every = 100
    config.training.loss = "binary_cross_entropy"
    config.optimizer.name = "lamb"
    config.optimizer.learning_rate = 8e-3
    config.optimizer.weight_decay = 0.02
    config.optimizer.weight_decay_mask = "kernels"
    config.optimizer.clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 5.0
    config.schedule.warmup_start = 1e-4 / 8e-3
    config.schedule.end = 1e-6
    config.schedule.warmup_overlaps = True
    config.schedule.step_per_epoch = True
    return config


def imagenet_ffcv(
    epochs: int, batch_size: int = 4096, learning_rate: float = 1.7, weight_decay: float = 1e-4
) -> ConfigDict:
    """ImageNet as libffcv/ffcv-imagenet trains ResNet-50 in 16, 24, 32, 40, 56 or 88 epochs (rn50_configs).

    Batch 4096 (8 x 512), SGD with momentum 0.9, rate 1.7 that rises for two epochs from 1.7e-4 and falls to 0 on a
    line, weight decay 1e-4 but on the BatchNorms of stem and branches, label smoothing 0.1, blur before convolutions
    that stride, training crops of 160, for the last quarter of the epochs of 192, and evaluation at 256 of a short side
    of 293 (256 * 256 / 224), where the logits of an image and of its mirror image are added.

    Differs:
    - Crops are resized with the filter of `data.interpolation`; there, by OpenCV's INTER_AREA.
    - Images are those of the data set. There, they have up to 500 pixels a side and half of them are re-encoded.

    Raises ConfigError for another number of epochs.
    """
    if epochs not in FFCV_EPOCHS:
        raise ConfigError(f"ffcv-imagenet has no recipe of {epochs} epochs: use {', '.join(map(str, FFCV_EPOCHS))}.")
    config = default_config()
    config.model.dtype = "bfloat16"
    config.model.overrides.blur_pool = True
    config.data.source = "folder"
    config.data.image_size = 160
    config.data.size_schedule = ((float(FFCV_EPOCHS[epochs]), 192),)
    config.data.eval_size = 256
    config.data.resize = 293
    config.augment.flip = True
    config.training.batch_size = batch_size
    config.training.epochs = float(epochs)
    config.training.log_every = 100
    config.training.label_smoothing = 0.1
    config.optimizer.learning_rate = learning_rate
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = weight_decay
    config.optimizer.weight_decay_mask = "all_but_branch_norm"
    config.schedule.name = "linear"
    config.schedule.warmup_epochs = 2.0
    config.schedule.warmup_start = 1e-4
    config.evaluation.flip = True
    return config


# Epochs, and the first with images of 192 pixels: there the size goes from 160 to 192 in steps of 32, and so once.
FFCV_EPOCHS = {16: 12, 24: 19, 32: 25, 40: 32, 56: 45, 88: 71}

IMAGENET = {
    "fb_resnet_torch": imagenet_fb_resnet_torch,
    "resnext": imagenet_resnext,
    "torchvision_v1": imagenet_torchvision_v1,
    "torchvision_v1_100_epochs": functools.partial(
        imagenet_torchvision_v1, epochs=100.0, boundaries=(30.0, 60.0, 90.0)
    ),
    "torchvision_v2": imagenet_torchvision_v2,
    "nvidia": imagenet_nvidia,
    "rsb_a1": imagenet_rsb_a1,
    "rsb_a2": imagenet_rsb_a2,
    "rsb_a3": imagenet_rsb_a3,
    **{f"ffcv_{epochs}": functools.partial(imagenet_ffcv, epochs) for epochs in FFCV_EPOCHS},
}

# What a source does otherwise for a network: ffcv-imagenet trains ResNet-18 on one GPU (rn18_configs).
OF_NETWORK = {
    (f"ffcv_{epochs}", "resnet18"): functools.partial(
        imagenet_ffcv, epochs, batch_size=1024, learning_rate=0.5, weight_decay=5e-5
    )
    for epochs in FFCV_EPOCHS
}
