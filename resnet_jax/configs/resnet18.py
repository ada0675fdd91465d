"""ResNet-18 on ImageNet, by torchvision's first recipe.

    python main.py --config=configs/resnet18.py --workdir=runs/resnet18 --config.data.path=FOLDER

FOLDER holds train/ and val/, each with a folder for each class.

    expected  69.758 % top-1 and 89.078 % top-5 after 90 epochs; published (torchvision,
              ResNet18_Weights.IMAGENET1K_V1).
    here      accuracy, time and hardware: not measured yet.

Any other recipe of `configs/recipes.py` is named by `--config=configs/resnet18.py:NAME`, such as `:rsb_a3`. Published
by libffcv/ffcv-imagenet, at 256 pixels and for an image and its mirror image:

    ffcv_16   16 epochs  66.9 %
    ffcv_24   24 epochs  68.8 %
    ffcv_32   32 epochs  70.0 %
    ffcv_40   40 epochs  70.6 %
    ffcv_56   56 epochs  71.3 %
    ffcv_88   88 epochs  72.4 %
"""

from resnet_jax.configs import recipes


def get_config(recipe: str = "torchvision_v1"):
    """Return the config of the network by a recipe of `recipes.IMAGENET`."""
    return recipes.imagenet(recipe, "resnet18")
