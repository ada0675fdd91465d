"""Count by hand what the bottlenecks of a network read and write in a training step, from the shapes of their maps.

    python benchmarks/traffic.py --out=results/accelerators/by_hand.json [--networks=resnet50,resnext50_32x4d]
        [--size=224]

The passes are those of the program that XLA compiles for a TPU (`accelerators.py`): a convolution normalizes and
activates what it reads and sums the statistics of what it writes, and so do the gradients. Kernels, stem and head are
left out.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from resnet_jax import create_model  # noqa: E402
from resnet_jax.models.resnet import STEM_STRIDES, ResNet, resolutions  # noqa: E402

ITEM_BYTES = 2  # bfloat16


def passes(x: int, first: int, second: int, out: int, projects: bool, fused: bool) -> dict[str, int]:
    """Return the values that each pass of a block reads and writes.

    Args:
      x: values of the block's input.
      first, second, out: of what its three convolutions write, before their BatchNorms.
      projects: whether the shortcut is a projection.
      fused: whether it ends in the kernels of `fused.py`.
    """
    found = {
        "conv1": x + first,
        "conv2": first + second,
        "conv3": second + out,
        "sum": 3 * out,
        # Also adds the shortcut's gradient, takes the input's ReLU into account and sums for the BatchNorm before it.
        "conv1, gradient of its input": 2 * first + 4 * x,
        "conv1, gradient of its kernel": 2 * first + x,
        "conv2, gradient of its input": 2 * second + 2 * first,
        "conv2, gradient of its kernel": 2 * second + first,
    }
    if fused:
        found["conv3, both gradients"] = 2 * out + 2 * second
    else:
        found |= {
            "conv3, gradient of its input": 2 * out + 2 * second,
            "conv3, gradient of its kernel": 2 * out + second,
        }
    if projects:
        found |= {"projection": x + out, "projection, its gradients": (2 * out + x) * 2}
    return found


def megabytes(net: ResNet, size: int, fused: bool) -> dict[str, float]:
    """Return the megabytes an image of each pass of all bottlenecks."""
    total = {}
    size //= STEM_STRIDES[net.stem]
    channels = net.stem_width
    for count, width, stage in zip(net.stage_sizes, net.stage_widths, resolutions(net), strict=True):
        for i in range(count):
            before, size = size, size // (stage.stride if i == 0 else 1)
            inner, out = width * net.base_width // 64 * net.cardinality, width * net.expansion
            first = (size if net.stride_in_1x1 else before) ** 2 * inner
            maps = (before**2 * channels, first, size**2 * inner, size**2 * out)
            projects = before != size or channels != out
            for name, values in passes(*maps, projects, fused).items():
                total[name] = total.get(name, 0) + values * ITEM_BYTES / 1e6
            channels = out
    return total


def main() -> None:
    """Count all, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--networks", default="resnet50,resnext50_32x4d")
    parser.add_argument("--size", type=int, default=224)
    values = parser.parse_args()
    rows = []
    for name in values.networks.split(","):
        for fused in (False, True):
            each = megabytes(create_model(name), values.size, fused)
            rows.append({"network": name, "fused": fused, "megabytes_an_image": sum(each.values()), "passes": each})
            print(
                f"{name:20} {'fused' if fused else 'as XLA has it':14} {sum(each.values()):6.1f} MB an image",
                flush=True,
            )
    if values.out:
        values.out.parent.mkdir(parents=True, exist_ok=True)
        values.out.write_text(json.dumps({"image": values.size, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
