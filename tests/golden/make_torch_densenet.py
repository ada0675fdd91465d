"""Writes torch_densenet.npz: what torchvision's DenseNets compute from weights that a formula gives: none are stored.

Run it from the root of the repository, in the environment that make_torch_logits.py describes:

    torchenv/bin/python -m tests.golden.make_torch_densenet

Torch computes in float64, from float32 weights and images, so that the reference carries no rounding of its own.
Contents:
    logits/SIZE: of densenet121 in evaluation, for two images of each of `SIZES`.
    loss, gradients/NAME, statistics/NAME: of the tiny network `TINY` after one step in training.
"""

from pathlib import Path

import numpy as np

from tests.golden.make_torch_logits import images, labels, tensor

GOLDEN = Path(__file__).with_name("torch_densenet.npz")
SIZES = (64, 75)  # one is odd, where padding mistakes show
TINY = dict(growth_rate=4, block_config=(2, 2), num_init_features=6, num_classes=10)
TINY_BATCH, TINY_SIZE = 8, 32


def filled(network):
    """Return the network in float64, with the weights that `tensor` gives."""
    import torch

    for key, value in network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            value.copy_(torch.from_numpy(tensor(key, tuple(value.shape))))
    return network.double()


def main() -> None:
    """Compute and write the reference."""
    import torch

    # torchvision's compiled operators need another torch. Its networks do not, once these two names are known.
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision.models import DenseNet, densenet121

    golden = {}
    network = filled(densenet121()).eval()
    for size in SIZES:
        with torch.no_grad():
            golden[f"logits/{size}"] = network(torch.from_numpy(images(2, size)).double()).numpy()

    network = filled(DenseNet(**TINY)).train()
    logits = network(torch.from_numpy(images(TINY_BATCH, TINY_SIZE)).double())
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels(TINY_BATCH)))
    loss.backward()
    golden["loss"] = loss.detach().numpy()
    for key, parameter in network.named_parameters():
        golden[f"gradients/{key}"] = parameter.grad.numpy()
    for key, buffer in network.named_buffers():
        if not key.endswith("num_batches_tracked"):
            golden[f"statistics/{key}"] = buffer.numpy()
    np.savez_compressed(GOLDEN, **{key: np.float32(value) for key, value in golden.items()})


if __name__ == "__main__":
    main()
