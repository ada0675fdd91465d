"""Names of a network's arrays in torchvision, and the shapes that torch gives them."""

import re
from collections.abc import Callable

import flax.linen as nn
import numpy as np

from resnet_jax.models.densenet import DenseNet
from resnet_jax.models.resnet import ResNet

# (pattern of the Flax path without its last part, torchvision's name). "stage2_block1/conv3" is "layer2.0.conv3". What
# torchvision does not have is named as timm names it. There a deep stem is a list of convolution, BatchNorm and ReLU in
# turn, and an averaged shortcut one of average, convolution and BatchNorm.
MODULES: tuple[tuple[str, str | Callable[[re.Match], str]], ...] = (
    (r"stem_conv", "conv1"),
    (r"stem_conv/conv(\d+)", lambda m: f"conv1.{3 * int(m[1]) - 3}"),
    (r"stem_conv/bn(\d+)", lambda m: f"conv1.{3 * int(m[1]) - 2}"),
    (r"stem_bn", "bn1"),
    (r"stage(\d+)_block(\d+)/shortcut_conv", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.downsample.0"),
    (r"stage(\d+)_block(\d+)/shortcut_bn", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.downsample.1"),
    (r"stage(\d+)_block(\d+)/averaged_shortcut_conv", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.downsample.1"),
    (r"stage(\d+)_block(\d+)/averaged_shortcut_bn", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.downsample.2"),
    (r"stage(\d+)_block(\d+)/se/(fc\d)", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.se.{m[3]}"),
    (r"stage(\d+)_block(\d+)/(conv\d|bn\d)", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.{m[3]}"),
    (r"last_bn", "norm"),  # pre-activation only
    (r"head", "fc"),
)
# The same for DenseNet: "block2_layer1/conv2" is "features.denseblock2.denselayer1.conv2".
DENSENET_MODULES: tuple[tuple[str, str | Callable[[re.Match], str]], ...] = (
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


def torch_name(path: str, network: type[nn.Module] = ResNet) -> str:
    """Return torchvision's name of the array at a Flax path of a network class, such as "stage1_block1/bn1/scale"."""
    module, _, leaf = path.rpartition("/")
    for pattern, name in DENSENET_MODULES if issubclass(network, DenseNet) else MODULES:
        if match := re.fullmatch(pattern, module):
            return f"{name(match) if callable(name) else name}.{LEAVES[leaf]}"
    raise ValueError(f"no torchvision name is known for {path}")


def torchvision_name(name: str) -> str:
    """Return torchvision's name for another library's: the head of akamaster's CIFAR networks is "linear"."""
    return re.sub(r"^linear\.", "fc.", name)


def to_torch(array: np.ndarray) -> np.ndarray:
    """Reorder a convolution's kernel from HWIO to OIHW, or a dense layer's from (in, out) to (out, in)."""
    orders = {4: (3, 2, 0, 1), 2: (1, 0)}
    return np.ascontiguousarray(array.transpose(orders[array.ndim])) if array.ndim in orders else array


def from_torch(array: np.ndarray) -> np.ndarray:
    """Undo `to_torch`."""
    orders = {4: (2, 3, 1, 0), 2: (1, 0)}
    return np.ascontiguousarray(array.transpose(orders[array.ndim])) if array.ndim in orders else array
