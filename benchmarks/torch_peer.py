"""The peer of `step.py`: torch's steps on the same machine, taken when asked.

    PEER_PYTHON benchmarks/torch_peer.py NETWORK BATCH SIZE [--train] [--dtype=bfloat16] [--compile]

It runs in an environment that has torch, torchvision and timm. It says "ready" and the seconds that the first step took
on its standard output. Then each line N on its standard input is answered by the seconds that N steps took; an empty
one ends it. Images are channels-last; on a GPU cuDNN searches its algorithms, and bfloat16 is autocast, as torch's own
guides advise.
"""

import argparse
import contextlib
import glob
import re
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

CIFAR_RESNEXT = re.compile(r"cifar_resnext29_(\d+)x(\d+)d")


def import_torchvision():
    """Import torchvision, declaring its compiled operators where their library does not fit this torch."""
    try:
        import torchvision
    except RuntimeError:
        for module in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[module]
        library = torch.library.Library("torchvision", "DEF")
        (file,) = (found for folder in sys.path for found in glob.glob(f"{folder}/torchvision/_meta_registrations.py"))
        with open(file) as source:
            text = source.read()
        names = re.findall(r'register_meta\("(\w+)"', text) + re.findall(r"torchvision::(\w+)", text)
        for name in dict.fromkeys(names):
            with contextlib.suppress(RuntimeError):
                library.define(f"{name}(Tensor x) -> Tensor")
        import torchvision

        import_torchvision.library = library  # what it declares is gone when it is
    return torchvision


class CifarBlock(nn.Module):
    """The basic block with shortcut A, or ResNeXt's bottleneck with shortcut B."""

    def __init__(self, inputs, width, stride, cardinality=0, group_width=0):
        super().__init__()
        if cardinality:
            inner = cardinality * (group_width * width // 64)
            outputs, sizes = 4 * width, ((1, inner, 1, 1), (3, inner, stride, cardinality), (1, 4 * width, 1, 1))
        else:
            outputs, sizes = width, ((3, width, stride, 1), (3, width, 1, 1))
        layers, channels = [], inputs
        for size, out, step, groups in sizes:
            layers += [nn.Conv2d(channels, out, size, step, size // 2, groups=groups, bias=False), nn.BatchNorm2d(out)]
            layers.append(nn.ReLU(inplace=True))
            channels = out
        self.branch, self.stride, self.missing = nn.Sequential(*layers[:-1]), stride, outputs - inputs
        self.project = None
        if cardinality and (stride != 1 or self.missing):
            self.project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        """Return the sum of branch and shortcut, activated."""
        shortcut = x
        if self.project is not None:
            shortcut = self.project(x)
        elif self.stride != 1 or self.missing:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))
        return F.relu(self.branch(x) + shortcut)


def cifar(name):
    """Return a network of `resnet_jax`'s registry for CIFAR."""
    if resnext := CIFAR_RESNEXT.fullmatch(name):
        groups, widths, stem, depth = tuple(map(int, resnext.groups())), (64, 128, 256), 64, 3
    else:
        groups, widths, stem, depth = (), (16, 32, 64), 16, (int(name.removeprefix("cifar_resnet")) - 2) // 6
    layers, channels = [nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU(inplace=True)], stem
    for stage, width in enumerate(widths):
        for i in range(depth):
            layers.append(CifarBlock(channels, width, 2 if stage and not i else 1, *groups))
            channels = 4 * width if groups else width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def network(name):
    """Return the network by its name in `resnet_jax`."""
    if name.startswith("cifar_"):
        return cifar(name)
    torchvision = import_torchvision()
    if hasattr(torchvision.models, name):
        return getattr(torchvision.models, name)()
    import timm

    return timm.create_model(name)


def main():
    """Answer until there are no more questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("batch", type=int)
    parser.add_argument("size", type=int)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compile", action="store_true")
    values = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    dtype = getattr(torch, values.dtype)
    model = network(values.network).to(device, memory_format=torch.channels_last).train(values.train)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(values.batch, 3, values.size, values.size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(values.batch, device=device) % 10

    def step():
        with torch.autocast(device, dtype, enabled=dtype is not torch.float32), torch.set_grad_enabled(values.train):
            logits = model(images)
            loss = F.cross_entropy(logits.float(), labels)
        if values.train:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.detach()

    if values.compile:
        model.compile()
    begun = time.perf_counter()
    step().item()
    first = time.perf_counter() - begun
    for _ in range(2):
        step().item()
    print("ready", first, flush=True)
    while count := sys.stdin.readline().strip():
        begun = time.perf_counter()
        for _ in range(int(count)):
            loss = step()
        loss.item()
        print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    main()
