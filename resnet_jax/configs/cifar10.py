"""A CIFAR-10 network of He et al. 2015 or 2016 by their recipe of 64,000 steps, or a ResNeXt by its own.

    python main.py --config=configs/cifar10.py:resnet20 --workdir=runs/cifar10_resnet20

Any network that `python -m resnet_jax models` lists as `cifar_NAME` can be named, and ImageNet's, such as `resnet18`
and `plain34`, which get the stem for small images. The data are downloaded where they are missing. Expected, published
top-1 errors:

    resnet20           8.75 %  He et al. 2015 (arXiv:1512.03385), table 6
    resnet32           7.51 %
    resnet44           7.17 %
    resnet56           6.97 %
    resnet110          6.43 %  the best of 5 runs; their mean is 6.61 %, their deviation 0.16
    resnet1202         7.93 %
    preact_resnet110   6.37 %  He et al. 2016 (arXiv:1603.05027), the median of 5 runs
    preact_resnet164   5.46 %
    preact_resnet1001  4.92 %
    resnext29_8x64d    3.65 %  Xie et al. 2017 (arXiv:1611.05431), table 7, the mean of 10 runs; others got 3.68 to 3.90
    resnext29_16x64d   3.58 %  with the authors' code (facebookresearch/ResNeXt issue 9)

Here: resnet20 8.33 % and resnet32 7.54 %, one seed each, in bfloat16; ResNet-20 in four minutes of an H200 that four
runs shared (JAX 0.11.2, 2026-11-27; `results/studies_cifar10`). The others: not measured yet.

Differs: networks of 110 layers and more, and all of the second paper, start at rate 0.01. The papers keep it for about
400 steps (the first one until the training error is below 80 %) and then go to 0.1; here it rises to 0.1 over these.
"""

from resnet_jax.configs import recipes

WARMED_UP = ("resnet110", "resnet1202", "plain110", "plain1202")


def get_config(name: str = "resnet20"):
    """Return the config of `cifar_NAME`."""
    config = recipes.cifar_resnext() if name.startswith("resnext") else recipes.cifar_he2015()
    recipes.name_cifar_network(config, name)
    if name.startswith("preact_") or name in WARMED_UP:
        config.schedule.warmup_steps = 400
        config.schedule.warmup_start = 0.1
    return config
