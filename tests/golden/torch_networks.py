"""The networks in torch: torchvision's, timm's, and for what neither has, one of this file. Needs torch.

Environment, not the project's:

    python3 -m venv torchenv
    torchenv/bin/pip install torch==2.13.0 numpy pillow safetensors huggingface_hub pyyaml
    torchenv/bin/pip install --no-deps torchvision==0.28.0 timm==1.0.31
"""

import re
from collections import OrderedDict
from functools import partial

import torch
from torch import nn
from torch.nn import functional

# torchvision's compiled operators need another torch. Its networks do not, once these two names are known.
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402
from timm.layers import BatchNormAct2d, create_conv2d  # noqa: E402
from timm.models import resnet as timm_resnet  # noqa: E402
from timm.models import resnetv2 as timm_resnetv2  # noqa: E402

BASIC = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BOTTLENECK = {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BOTTLENECK[200] = (3, 24, 36, 3)
LETTERS = {
    "": dict(),
    "c": dict(stem_width=32, stem_type="deep"),
    "d": dict(stem_width=32, stem_type="deep", avg_down=True),
    "s": dict(stem_width=64, stem_type="deep"),
    "t": dict(stem_width=32, stem_type="deep_tiered", avg_down=True),
}


class Block(nn.Module):
    """A basic or bottleneck block with torchvision's names, or with timm's ResNetV2's where `preactivation`."""

    def __init__(
        self,
        before,
        width,
        stride,
        block="basic",
        shortcut="B",
        preactivation=False,
        cardinality=1,
        base_width=64,
        expansion=4,
        conv_bias=False,
        projection_norm=True,
    ):
        super().__init__()
        inner = width * base_width // 64 * cardinality
        after = width if block == "basic" else width * expansion
        if block == "basic":
            layers = [(before, width, 3, stride, 1), (width, width, 3, 1, 1)]
        else:
            layers = [(before, inner, 1, 1, 1), (inner, inner, 3, stride, cardinality), (inner, after, 1, 1, 1)]
        self.norm_name, self.count = "norm" if preactivation else "bn", len(layers)
        for i, (channels, made, size, step, groups) in enumerate(layers, start=1):
            conv = nn.Conv2d(channels, made, size, step, size // 2, groups=groups, bias=conv_bias)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"{self.norm_name}{i}", nn.BatchNorm2d(channels if preactivation else made))
        self.shortcut, self.preactivation, self.stride, self.added = shortcut, preactivation, stride, after - before
        self.downsample = None
        if shortcut == "B" and (stride != 1 or before != after):
            conv = nn.Conv2d(before, after, 1, stride, bias=conv_bias)
            norm = [nn.BatchNorm2d(after)] if projection_norm else []
            self.downsample = nn.Sequential(OrderedDict(conv=conv)) if preactivation else nn.Sequential(conv, *norm)

    def forward(self, x):
        y = shortcut = x
        for i in range(1, self.count + 1):
            conv, norm = getattr(self, f"conv{i}"), getattr(self, f"{self.norm_name}{i}")
            if self.preactivation:
                y = functional.relu(norm(y))
                shortcut = y if i == 1 and self.downsample else shortcut
                y = conv(y)
            else:
                y = norm(conv(y))
                y = functional.relu(y) if i < self.count else y
        if self.downsample:
            y = y + self.downsample(shortcut)
        elif self.shortcut == "A":  # zero channels after those there are
            shortcut = shortcut[:, :, :: self.stride, :: self.stride]
            y = y + functional.pad(shortcut, (0, 0, 0, 0, 0, self.added))
        elif self.shortcut != "none":
            y = y + shortcut
        return y if self.preactivation else functional.relu(y)


class Network(nn.Module):
    """A network of such blocks, with a stem of 3x3 ("cifar") or of 7x7 and a max-pool ("imagenet")."""

    def __init__(
        self,
        stage_sizes,
        stage_widths=(64, 128, 256, 512),
        stem="imagenet",
        stem_width=64,
        classes=1000,
        channels=3,
        **of,
    ):
        super().__init__()
        self.preactivation, self.pools, bias = of.get("preactivation", False), stem == "imagenet", of.get("conv_bias")
        size, stride = (7, 2) if self.pools else (3, 1)
        stem_conv = nn.Conv2d(channels, stem_width, size, stride, size // 2, bias=bool(bias))
        before, stages = stem_width, []
        for stage, (count, width) in enumerate(zip(stage_sizes, stage_widths, strict=True)):
            blocks = []
            for i in range(count):
                blocks.append(Block(before, width, 2 if stage and not i else 1, **of))
                before += blocks[-1].added
            stages.append(nn.Sequential(*blocks))
        if self.preactivation:
            self.stem = nn.Sequential(OrderedDict(conv=stem_conv))
            self.stages = nn.Sequential(*(nn.Sequential(OrderedDict(blocks=stage)) for stage in stages))
            self.norm, self.head = nn.BatchNorm2d(before), nn.Sequential(OrderedDict(fc=nn.Conv2d(before, classes, 1)))
        else:
            self.conv1, self.bn1 = stem_conv, nn.BatchNorm2d(stem_width)
            for i, stage in enumerate(stages, start=1):
                setattr(self, f"layer{i}", stage)
            self.fc = nn.Linear(before, classes)
        self.count = len(stages)

    def forward(self, x):
        x = self.stem(x) if self.preactivation else functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, 2, 1) if self.pools else x
        if self.preactivation:
            x = functional.relu(self.norm(self.stages(x))).mean((2, 3), keepdim=True)
            return self.head(x).flatten(1)
        for i in range(1, self.count + 1):
            x = getattr(self, f"layer{i}")(x)
        return self.fc(x.mean((2, 3)))


def cifar(depth, per_stage=6, others=2, **fields):
    """A network of He et al. 2015, section 4.2, or one made after it."""
    sizes = ((depth - others) // per_stage,) * 3
    return Network(
        **dict(stage_sizes=sizes, stage_widths=(16, 32, 64), stem="cifar", stem_width=16, classes=10) | fields
    )


def cifar_densenet(depth, growth_rate):
    """torchvision's DenseNet without its 7x7 and max-pool."""
    sizes = ((depth - 4) // 6,) * 3
    network = torchvision.models.DenseNet(growth_rate, sizes, 2 * growth_rate, num_classes=10)
    network.features.conv0 = nn.Conv2d(3, 2 * growth_rate, 3, 1, 1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(network.features, name, nn.Identity())
    return network


def v2(depth, letter):
    """timm's ResNetV2 with BatchNorm."""
    basic = depth in BASIC
    deep = dict(stem_type="deep", avg_down=True) if letter == "d" else {}
    shape = dict(channels=(64, 128, 256, 512), basic=True, bottle_ratio=1.0) if basic else {}
    sizes = list(BASIC[depth] if basic else BOTTLENECK[depth])
    return timm_resnetv2.ResNetV2(sizes, norm_layer=BatchNormAct2d, conv_layer=create_conv2d, **shape, **deep)


def residual(depth, letter="", gated=False, **fields):
    """timm's ResNet."""
    block = timm_resnet.BasicBlock if depth in BASIC else timm_resnet.Bottleneck
    gates = dict(block_args=dict(attn_layer="se")) if gated else {}
    return timm_resnet.ResNet(block, [*BASIC.get(depth, BOTTLENECK.get(depth))], **LETTERS[letter], **gates, **fields)


def v1(depth):
    """The same with the stride of each bottleneck in its first convolution: He et al. 2015."""
    network = residual(depth)
    for module in network.modules():
        if isinstance(module, timm_resnet.Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    return network


def network(name, **fields):
    """Return the network called `name`; `fields` change one of this file."""
    if name in torchvision.models.list_models():
        return torchvision.models.get_model(name)
    if name in timm.list_models():
        return timm.create_model(name)
    plain = {**BASIC, **BOTTLENECK}
    for pattern, make in (
        (r"resnet(\d+)([cdst]?)", residual),
        (r"seresnet(\d+)", partial(residual, gated=True)),
        (r"resnet(\d+)_v1", v1),
        (r"resnetv2_(\d+)(d?)", v2),
        (r"resnext(\d+)_(\d+)x(\d+)d", lambda depth, c, d: residual(depth, cardinality=c, base_width=d)),
        (r"wide_resnet(\d+)_(\d+)", lambda depth, k: residual(depth, base_width=64 * k)),
        (
            r"plain(\d+)",
            lambda d: Network(plain[d], block="basic" if d in BASIC else "bottleneck", shortcut="none", **fields),
        ),
        (r"cifar_resnet(\d+)", lambda depth: cifar(depth, shortcut="A", **fields)),
        (r"cifar_plain(\d+)", lambda depth: cifar(depth, shortcut="none", **fields)),
        (r"cifar_preact_resnet(110)", lambda depth: cifar(depth, shortcut="A", preactivation=True, **fields)),
        (
            r"cifar_preact_resnet(\d+)",
            lambda depth: cifar(depth, 9, block="bottleneck", preactivation=True, **fields),
        ),
        (
            r"cifar_resnext(\d+)_(\d+)x(\d+)d",
            lambda depth, c, d: cifar(
                depth, 9, stage_widths=(64, 128, 256), stem_width=64, block="bottleneck", cardinality=c, base_width=d
            ),
        ),
        (
            r"cifar_wrn(\d+)_(\d+)",
            lambda depth, k: cifar(depth, 6, 4, stage_widths=(16 * k, 32 * k, 64 * k), preactivation=True),
        ),
        (r"cifar_densenet_bc(\d+)_(\d+)", cifar_densenet),
        # d2l.ai, "Residual Networks (ResNet) and ResNeXt": ResNet18, Residual and ResNeXtBlock of its PyTorch code
        (
            r"d2l_resnet(\d+)",
            lambda d: Network(BASIC[d], classes=10, channels=1, **dict(conv_bias=True, projection_norm=False) | fields),
        ),
    ):
        if match := re.fullmatch(pattern, name):
            return make(*(int(group) if group.isdigit() else group for group in match.groups()))
    raise ValueError(name)


def filled(name, tensor, **fields):
    """Return the network in float64, with the weights that `tensor` gives by name and shape."""
    made = network(name, **fields)
    for key, value in made.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            value.copy_(torch.from_numpy(tensor(key, tuple(value.shape))))
    return made.double()
