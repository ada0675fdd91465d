"""Writes torch_logits.npz: the logits of torch's networks in evaluation, for one image each.

Run it from the root of the repository, in the environment of torch_networks.py:

    torchenv/bin/python -m tests.golden.make_torch_logits

The weights are those of formulas.py. Torch computes in float64, from float32 weights and images, so that the reference
carries no rounding of its own.
"""

from pathlib import Path

import numpy as np

from tests.golden.formulas import images, tensor

GOLDEN = Path(__file__).with_name("torch_logits.npz")
# Names in the registry, and fields that differ: a network or two of each family, short ones where that is enough. Each
# is held at 224 pixels, or at the size of its data, and at an odd one, where padding mistakes show.
SHORT = dict(stage_sizes=(1, 1, 1))
# The ResNeXt block of d2l.ai, ResNeXtBlock(channels, groups=channels / 4, bot_mul=1), in the place of its Residual.
D2L_RESNEXT = dict(block="bottleneck", expansion=1, cardinality=4, base_width=16, projection_norm=True)
LOGITS = {
    **dict.fromkeys(("resnet18", "resnet50", "resnet14_v1", "plain10", "plain14"), ((224, 75), {})),
    **dict.fromkeys(("resnet10c", "resnet14d", "resnet10s", "resnet14t"), ((224, 75), {})),
    **dict.fromkeys(("resnext50_32x4d", "wide_resnet14_2", "seresnet18", "seresnext50_32x4d"), ((224, 75), {})),
    **dict.fromkeys(("resnetv2_18", "resnetv2_14", "resnetv2_10d", "densenet121"), ((224, 75), {})),
    **dict.fromkeys(("cifar_resnet20", "cifar_plain8", "cifar_resnext11_4x16d"), ((32, 37), {})),
    **dict.fromkeys(("cifar_wrn10_2", "cifar_densenet_bc16_4"), ((32, 37), {})),
    **dict.fromkeys(("cifar_preact_resnet110", "cifar_preact_resnet164"), ((32, 37), SHORT)),
    "d2l_resnet18": ((96, 75), {}),
    "d2l_resnet10": ((96, 75), D2L_RESNEXT),
}


def channels(name: str) -> int:
    """Return the channels of a network's images."""
    return 1 if name.startswith("d2l") else 3


def main() -> None:
    """Compute and write the reference."""
    import torch

    from tests.golden.torch_networks import filled

    golden = {}
    for name, (sizes, fields) in LOGITS.items():
        network = filled(name, tensor, **fields).eval()
        for size in sizes:
            with torch.no_grad():
                logits = network(torch.from_numpy(images(1, size, channels(name))).double())
            golden[f"{name}/{size}"] = np.float32(logits)
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    main()
