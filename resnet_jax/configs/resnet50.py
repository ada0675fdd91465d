"""ResNet-50 v1.5 on ImageNet, by torchvision's first recipe.

    python main.py --config=configs/resnet50.py --workdir=runs/resnet50 --config.data.path=FOLDER

FOLDER holds train/ and val/, each with a folder for each class. Packed images (`docs/data.md`), which are read several
times as fast, need --config.data.source=records too.

    expected  76.130 % top-1 and 92.862 % top-5 after 90 epochs; published (torchvision,
              ResNet50_Weights.IMAGENET1K_V1).
              Users who ran the recipe again got 75.4 to 75.9 % (pytorch/vision issue 5593).
    here      accuracy, time and hardware: not measured yet.

Other recipes, as `--config=configs/resnet50.py:NAME`, with what was published for them at 224 pixels;
`configs/recipes.py` says in what each differs from its source.

    torchvision_v2   600 epochs  80.858 %  torchvision, ResNet50_Weights.IMAGENET1K_V2
    nvidia            90 epochs  77.12 %   NVIDIA DeepLearningExamples, PyTorch, mixed precision on A100
    rsb_a1           600 epochs  80.382 %  timm, resnet50.a1_in1k
    rsb_a2           300 epochs  79.828 %  timm, resnet50.a2_in1k
    rsb_a3           100 epochs  78.052 %  timm, resnet50.a3_in1k
    fb_resnet_torch   90 epochs  75.99 %   facebookarchive/fb.resnet.torch

and at 256 pixels, for an image and its mirror image, by libffcv/ffcv-imagenet:

    ffcv_16           16 epochs  73.8 %
    ffcv_24           24 epochs  75.6 %
    ffcv_32           32 epochs  76.6 %
    ffcv_40           40 epochs  77.2 %
    ffcv_56           56 epochs  78.0 %
    ffcv_88           88 epochs  78.4 %
"""

from resnet_jax.configs import recipes


def get_config(recipe: str = "torchvision_v1"):
    """Return the config of the network by a recipe of `recipes.IMAGENET`."""
    return recipes.imagenet(recipe, "resnet50")
