"""Writes torch_costs.csv: the parameters of torch's networks, and their multiply-adds for one image.

Run it from the root of the repository, in the environment of torch_networks.py, and give it the names:

    .venv/bin/python -c "import resnet_jax; print(*resnet_jax.list_models())" \
        | torchenv/bin/python -m tests.golden.make_torch_costs

Convolutions and linear layers count, as in torchvision's metadata and in papers.
"""

import csv
import sys
from pathlib import Path

GOLDEN = Path(__file__).with_name("torch_costs.csv")


def costs(name: str) -> tuple[int, int, str]:
    """Return parameters, multiply-adds, and where the network is from."""
    import torch

    from tests.golden.torch_networks import network, timm, torchvision

    counts = []

    def count(module, inputs, output):
        counts.append(output.numel() * module.weight[0].numel())

    with torch.device("meta"):
        made = network(name).eval()
        for module in made.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(count)
        shapes = {"cifar": (3, 32, 32), "d2l": (1, 96, 96)}
        made(torch.empty(1, *shapes.get(name.partition("_")[0], (3, 224, 224))))
    if name in torchvision.models.list_models():
        source = "torchvision"
    else:
        source = "timm" if name in timm.list_models() else "torch_networks.py"
    return sum(parameter.numel() for parameter in made.parameters()), sum(counts), source


def main() -> None:
    """Count and write."""
    with GOLDEN.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("name", "params", "macs", "source"))
        writer.writerows((name, *costs(name)) for name in sys.stdin.read().split())


if __name__ == "__main__":
    main()
