"""Names of a network's arrays in torchvision or timm, and the shapes that torch gives them."""

import re
from collections.abc import Callable

import flax.linen as nn
import numpy as np

from resnet_jax.models.densenet import DenseNet

Names = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

# (pattern of the Flax path without its last part, torchvision's name). "stage2_block1/conv3" is "layer2.0.conv3". What
# torchvision does not have is named as timm names it. There a deep stem is a list of convolution, BatchNorm and ReLU in
# turn, and an averaged shortcut one of average, convolution and BatchNorm.
RESNET: Names = (
    (r"stem_conv", "conv1"),
    (r"stem_conv/conv(\d+)", lambda m: f"conv1.{3 * int(m[1]) - 3}"),
    (r"stem_conv/bn(\d+)", lambda m: f"conv1.{3 * int(m[1]) - 2}"),
    (r"stem_bn", "bn1"),
    (r"stage(\d+)_block(\d+)/shortcut_conv", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.downsample.0"),
    (r"stage(\d+)_block(\d+)/shortcut_bn", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.downsample.1"),
    (r"stage(\d+)_block(\d+)/averaged_shortcut_conv", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.downsample.1"),
    (r"stage(\d+)_block(\d+)/averaged_shortcut_bn", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.downsample.2"),
    (r"stage(\d+)_block(\d+)/se/(fc\d)", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.se.{m[3]}"),
    (r"stage(\d+)_block(\d+)/gate", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.gate"),
    (r"stage(\d+)_block(\d+)/(conv\d|bn\d)", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.{m[3]}"),
    (r"head", "fc"),
)
# A pre-activation ResNet has the names of timm's ResNetV2, since torchvision has none. Its head is a 1x1 convolution.
RESNET_V2: Names = (
    (r"stem_conv", "stem.conv"),
    (r"stem_conv/conv(\d+)", lambda m: f"stem.conv{m[1]}"),
    (r"stem_conv/bn(\d+)", lambda m: f"stem.norm{m[1]}"),
    (r"stage(\d+)_block(\d+)/(averaged_)?shortcut_conv", lambda m: f"{v2_block(m)}.downsample.conv"),
    (r"stage(\d+)_block(\d+)/(se/fc\d)", lambda m: f"{v2_block(m)}.{m[3].replace('/', '.')}"),
    (r"stage(\d+)_block(\d+)/(conv\d|gate)", lambda m: f"{v2_block(m)}.{m[3]}"),
    (r"stage(\d+)_block(\d+)/bn(\d)", lambda m: f"{v2_block(m)}.norm{m[3]}"),
    (r"last_bn", "norm"),
    (r"head", "head.fc"),
)
# The same for DenseNet: "block2_layer1/conv2" is "features.denseblock2.denselayer1.conv2".
DENSENET: Names = (
    (r"stem_conv", "features.conv0"),
    (r"stem_bn", "features.norm0"),
    (r"block(\d+)_layer(\d+)/conv(\d)", lambda m: f"features.denseblock{m[1]}.denselayer{m[2]}.conv{m[3]}"),
    (r"block(\d+)_layer(\d+)/bn(\d)", lambda m: f"features.denseblock{m[1]}.denselayer{m[2]}.norm{m[3]}"),
    (r"transition(\d+)/conv", lambda m: f"features.transition{m[1]}.conv"),
    (r"transition(\d+)/bn", lambda m: f"features.transition{m[1]}.norm"),
    (r"last_bn", "features.norm5"),
    (r"head", "classifier"),
)
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def v2_block(match: re.Match) -> str:
    """Return timm's name of the block of a path: it counts stages and blocks from 0."""
    return f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 1}"


def names_of(model: nn.Module) -> Names:
    """Return the names of a network's modules.

    Other orders of activation than those of v1 and v2 move BatchNorms and have the arrays of v1, and so its names.
    """
    if isinstance(model, DenseNet):
        return DENSENET
    return RESNET_V2 if getattr(model, "preactivation", False) else RESNET


def torch_name(path: str, names: Names = RESNET) -> str:
    """Return torch's name of the array at a Flax path, such as "stage1_block1/bn1/scale", among a network's names."""
    module, _, leaf = path.rpartition("/")
    for pattern, name in names:
        if match := re.fullmatch(pattern, module):
            return f"{name(match) if callable(name) else name}.{LEAVES[leaf]}"
    raise ValueError(f"no name in torch is known for {path}")


def torchvision_name(name: str) -> str:
    """Return torchvision's name for another library's: the head of akamaster's CIFAR networks is "linear"."""
    return re.sub(r"^linear\.", "fc.", name)


def to_torch(array: np.ndarray, name: str = "") -> np.ndarray:
    """Return the array called `name` in torch's layout, as a view.

    A convolution's kernel goes from HWIO to OIHW, a dense layer's from (in, out) to (out, in), and where the layer is a
    1x1 convolution in timm, to (out, in, 1, 1).
    """
    if array.ndim == 2:
        return array.T[:, :, None, None] if name == "head.fc.weight" else array.T
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def from_torch(array: np.ndarray, name: str = "") -> np.ndarray:
    """Undo `to_torch`."""
    if name == "head.fc.weight" and array.ndim == 4 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    orders = {4: (2, 3, 1, 0), 2: (1, 0)}
    return np.ascontiguousarray(array.transpose(orders[array.ndim])) if array.ndim in orders else array
