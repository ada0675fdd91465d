"""ResNet-34 on ImageNet, by torchvision's first recipe.

    python main.py --config=configs/resnet34.py --workdir=runs/resnet34 --config.data.path=FOLDER

FOLDER holds train/ and val/, each with a folder for each class.

    expected  73.314 % top-1 and 91.420 % top-5 after 90 epochs; published (torchvision,
              ResNet34_Weights.IMAGENET1K_V1).
    here      accuracy, time and hardware: not measured yet.

Any other recipe of `configs/recipes.py` is named by `--config=configs/resnet34.py:NAME`, such as `:rsb_a3`.
"""

from resnet_jax.configs import recipes


def get_config(recipe: str = "torchvision_v1"):
    """Return the config of the network by a recipe of `recipes.IMAGENET`."""
    return recipes.imagenet(recipe, "resnet34")
