"""Writes torch_steps.npz: ten steps of training in torch, and an evaluation after them.

Run it from the root of the repository, in the environment of torch_networks.py:

    torchenv/bin/python -m tests.golden.make_torch_steps

Contents, for each NAME of `STEPS`, with the weights of formulas.py, one batch that returns, and SGD as `SGD` says:
    NAME/losses (10,): before each step.
    NAME/gradients (parameters, 2): of the first step, each as `digest` gives it, in the order of their names.
    NAME/statistics (statistics, 2): running means and variances after the first step, likewise.
    NAME/last_statistics (statistics, 2): after the tenth.
    NAME/logits (classes,): of the first image in evaluation after the tenth.

Torch computes in float64, from float32 weights and images, and so does the test: in float32, rounding moves some value
across ReLU's corner, which changes a gradient by up to a hundredth, and every step after it.
"""

from pathlib import Path

import numpy as np

from tests.golden.formulas import digest, images, labels, tensor
from tests.golden.make_torch_logits import SHORT, channels

GOLDEN = Path(__file__).with_name("torch_steps.npz")
# Names in the registry: images a batch, their size, and fields that differ.
STEPS = {
    **dict.fromkeys(("resnet10", "resnet10d", "seresnet10", "d2l_resnet10"), (4, 32, {})),
    # Where the last maps have one pixel, ten steps of these amplify rounding.
    **dict.fromkeys(("resnet14", "resnetv2_10", "resnext14_4x16d"), (4, 96, {})),
    **dict.fromkeys(("cifar_resnet8", "cifar_plain8", "cifar_wrn10_1", "cifar_densenet_bc16_4"), (4, 16, {})),
    **dict.fromkeys(("cifar_preact_resnet110", "cifar_preact_resnet164"), (4, 16, SHORT)),
}
SGD = dict(lr=0.001, momentum=0.9, weight_decay=1e-4)
COUNT = 10


def main() -> None:
    """Compute and write the reference."""
    import torch

    from tests.golden.torch_networks import filled

    golden = {}
    for name, (batch, size, fields) in STEPS.items():
        network = filled(name, tensor, **fields).train()
        optimizer = torch.optim.SGD(network.parameters(), **SGD)
        inputs = torch.from_numpy(images(batch, size, channels(name))).double()
        losses = []
        for step in range(COUNT):
            loss = torch.nn.functional.cross_entropy(network(inputs), torch.from_numpy(labels(batch)))
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            if step == 0:
                gradients = {key: parameter.grad.numpy() for key, parameter in network.named_parameters()}
                golden[f"{name}/gradients"] = digests(gradients)
                golden[f"{name}/statistics"] = digests(statistics(network))
            optimizer.step()
        golden[f"{name}/losses"] = np.array(losses)
        golden[f"{name}/last_statistics"] = digests(statistics(network))
        with torch.no_grad():
            golden[f"{name}/logits"] = network.eval()(inputs)[0].numpy()
        print(name, losses, flush=True)
    np.savez_compressed(GOLDEN, **{key: np.float32(value) for key, value in golden.items()})


def digests(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the digests of arrays in the order of their names."""
    return np.stack([digest(name, arrays[name]) for name in sorted(arrays)])


def statistics(network) -> dict[str, np.ndarray]:
    """Return the running statistics of a network by name."""
    return {key: buffer.numpy() for key, buffer in network.named_buffers() if "running" in key}


if __name__ == "__main__":
    main()
