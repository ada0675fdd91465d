"""ResNeXt-50 32x4d on ImageNet, by torchvision's first recipe.

    python main.py --config=configs/resnext50_32x4d.py --workdir=runs/resnext50_32x4d --config.data.path=FOLDER

FOLDER holds train/ and val/, each with a folder for each class.

    expected  77.618 % top-1 and 93.698 % top-5 after 100 epochs; published (torchvision,
              ResNeXt50_32X4D_Weights.IMAGENET1K_V1).
    here      accuracy, time and hardware: not measured yet.

The authors' own recipe is `--config=configs/resnext50_32x4d.py:resnext`: 77.8 % were published for it (Xie et al. 2017,
arXiv:1611.05431, table 3), with the colour augmentation of fb.resnet.torch, as here. Any other recipe of
`configs/recipes.py` can be named likewise.
"""

from resnet_jax.configs import recipes


def get_config(recipe: str = "torchvision_v1_100_epochs"):
    """Return the config of the network by a recipe of `recipes.IMAGENET`."""
    return recipes.imagenet(recipe, "resnext50_32x4d")
