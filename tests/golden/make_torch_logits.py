"""Writes torch_logits.npz: what torch's networks compute from weights that a formula gives, and what they cost.

Run it in an environment of its own, in this folder (the project does not need torch):

    python3 -m venv torchenv
    torchenv/bin/pip install torch==2.13.0 numpy pillow safetensors huggingface_hub pyyaml
    torchenv/bin/pip install --no-deps torchvision==0.28.0 timm==1.0.31
    torchenv/bin/python make_torch_logits.py

The weights are not stored. Torch computes in float64, from float32 weights and images, so that the reference carries no
rounding of its own. `tensor`, `images` and `labels` are what the test rebuilds the same problem with; they need NumPy
only.
"""

import re
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("torch_logits.npz")
# Name in the registry: the sizes of the images whose logits are kept. One is odd, where padding mistakes show.
LOGITS = {
    "resnet18": (64, 75),
    "resnet50": (64, 75),
    "resnext50_32x4d": (64, 75),
    "resnetv2_50": (64, 75),
    "resnet18d": (75,),
    "resnet50d": (64, 75),
    "resnet26t": (64, 75),
    "resnet50s": (75,),
    "seresnet18": (75,),
    "seresnet50": (64, 75),
    "seresnext50_32x4d": (64, 75),
    "resnetv2_50d": (64, 75),
    "cifar_resnet20": (32, 37),
}
# Names in the registry and in timm: the networks whose parameters and multiply-adds at 224x224 are counted.
COUNTED = (
    *(f"resnet{depth}d" for depth in (18, 34, 50, 101, 152)),
    *("resnet26t", "resnet50c", "resnet50s", "resnet50t", "resnext50d_32x4d"),
    *(f"resnetv2_{depth}d" for depth in (18, 34, 50, 101, 152)),
    *(f"seresnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"seresnext{kind}" for kind in ("50_32x4d", "101_32x4d", "101_32x8d", "101_64x4d")),
)
# Name in the registry: the size of the images of the one training step that is kept.
TRAINING = {"resnet18": 64, "cifar_resnet20": 32}
TRAINING_BATCH = 8


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 weights of a tensor, from its name in torchvision alone."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    kind = name.rpartition(".")[2]
    if kind == "running_var":
        array = random.uniform(0.5, 1.5, shape)
    elif kind == "weight" and len(shape) == 4:  # by fan-out, as He et al. 2015 start it
        array = random.standard_normal(shape) * np.sqrt(2 / (shape[0] * shape[2] * shape[3]))
    elif kind == "weight" and len(shape) == 2:
        array = random.standard_normal(shape) / np.sqrt(shape[1])
    else:  # scales near 1; biases and running means near 0
        array = random.standard_normal(shape) * 0.1 + (kind == "weight")
    return array.astype(np.float32)


def images(count: int, size: int) -> np.ndarray:
    """Return images as torch orders them: (count, 3, size, size), float32."""
    return np.random.RandomState(size).standard_normal((count, 3, size, size)).astype(np.float32)


def labels(count: int) -> np.ndarray:
    """Return labels of ten classes."""
    return np.arange(count) * 7 % 10


def from_timm(network: str, name: str) -> str:
    """Return the torchvision-like name of a tensor in one of timm's pre-activation networks."""
    name = re.sub(r"stages\.(\d+)\.blocks", lambda m: f"layer{int(m[1]) + 1}", name)
    projection = 1 if network.endswith("d") else 0  # it follows the average
    for theirs, ours in (
        ("stem.conv.", "conv1."),
        *((f"stem.conv{i}.", f"conv1.{3 * i - 3}.") for i in (1, 2, 3)),
        *((f"stem.norm{i}.", f"conv1.{3 * i - 2}.") for i in (1, 2)),
        ("head.fc.", "fc."),
        (".downsample.conv.", f".downsample.{projection}."),
    ):
        name = name.replace(theirs, ours)
    return re.sub(r"\.norm(\d)\.", r".bn\1.", name)


def cifar_resnet20():
    """The network of He et al. 2015, section 4.2, with shortcut A: zero channels after those there are."""
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, before, channels, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)
            self.stride, self.added = stride, channels - before

        def forward(self, x):
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            x = x[:, :, :: self.stride, :: self.stride]
            return functional.relu(y + functional.pad(x, (0, 0, 0, 0, 0, self.added)))

    class Network(nn.Sequential):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1, self.relu = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
            self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(3)))
            self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in range(2)))
            self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in range(2)))
            self.pool, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)

    return Network()


def filled(name: str):
    """Return the network called `name`, in float64, with the weights that `tensor` gives."""
    import timm
    import torch
    import torchvision

    if name == "cifar_resnet20":
        network = cifar_resnet20()
    elif name in torchvision.models.list_models():
        network = torchvision.models.get_model(name)
    else:
        network = timm.create_model(name)
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        key = from_timm(name, key) if name.startswith("resnetv2") else key
        # timm's head is a 1x1 convolution, and ours a matrix.
        shape = value.shape[:2] if key == "fc.weight" else value.shape
        value.copy_(torch.from_numpy(tensor(key, tuple(shape))).reshape(value.shape))
    return network.double()


def costs(name: str) -> tuple[int, int]:
    """Return the parameters of timm's network called `name`, and its multiply-adds for one image of 224x224."""
    import timm
    import torch

    counts = []

    def count(module, inputs, output):
        counts.append(output.numel() * module.weight[0].numel())

    with torch.device("meta"):
        network = timm.create_model(name).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(count)
        network(torch.empty(1, 3, 224, 224))
    return sum(parameter.numel() for parameter in network.parameters()), sum(counts)


def main() -> None:
    """Compute and write the reference."""
    import torch

    # torchvision's compiled operators need another torch. Its networks do not, once these two names are known.
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    golden = {}
    for name, sizes in LOGITS.items():
        network = filled(name).eval()
        for size in sizes:
            with torch.no_grad():
                golden[f"{name}/logits/{size}"] = network(torch.from_numpy(images(2, size)).double()).numpy()

    for name, size in TRAINING.items():
        network = filled(name).train()
        logits = network(torch.from_numpy(images(TRAINING_BATCH, size)).double())
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels(TRAINING_BATCH)))
        loss.backward()
        golden[f"{name}/loss"] = loss.detach().numpy()
        for key, parameter in network.named_parameters():
            gradient = parameter.grad.numpy()
            golden[f"{name}/gradient_norm/{key}"] = np.linalg.norm(gradient)
            # Unlike the norm, this one sees values that have changed places.
            golden[f"{name}/gradient_product/{key}"] = np.vdot(gradient, tensor(f"{key}.direction", gradient.shape))
        for key, buffer in network.named_buffers():
            if not key.endswith("num_batches_tracked"):
                golden[f"{name}/statistics/{key}"] = buffer.numpy()
    golden = {key: np.float32(value) for key, value in golden.items()}
    golden |= {f"{name}/costs": np.array(costs(name)) for name in COUNTED}
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    main()
