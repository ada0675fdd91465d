"""Writes torch_*.pth, next to this file: small weights files in each format and with each habit that is met.

It needs an environment with torch that is not the project's (the files are from torch 2.13.0 on a CPU):

    pip install torch==2.13.0 numpy
    python tests/golden/make_torch_files.py

Contents:
    torch_zip.pth, torch_legacy.pth, torch_protocol4.pth: the tensors of `every_kind`, whose values the test makes again
        by the same formulas. "sliced" and "transposed" are views of one storage, "parameter" is an nn.Parameter.
    torch_checkpoint.pth, torch_checkpoint_legacy.pth: what a training script leaves of a BatchNorm layer in
        DataParallel: a state dict of names with "module.", beside an optimizer's state, the epoch and arguments.
    torch_densenet.pth: one dense layer under the names that torchvision's published DenseNet files have.
    torch_module.pth: a pickled layer, not its state dict.
    torch_nothing.pth: a dictionary without tensors.
"""

import argparse
import pathlib

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent


def every_kind():
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "plain": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 8,
        "transposed": base.t(),
        "sliced": base[1:, 1::2],
        "half": torch.arange(5, dtype=torch.float16) / 4 - 0.5,
        "bfloat16": torch.arange(5, dtype=torch.bfloat16) * 3 - 1.5,
        "double": torch.arange(3, dtype=torch.float64) / 3,
        "bn.num_batches_tracked": torch.tensor(2**40 + 1),
        "bytes": torch.arange(250, 256, dtype=torch.uint8),
        "flags": torch.tensor([True, False, True]),
        "parameter": torch.nn.Parameter(torch.arange(4, dtype=torch.float32) - 2),
        "empty": torch.zeros(0, 3),
    }


def checkpoint():
    model = torch.nn.DataParallel(torch.nn.BatchNorm2d(3))
    with torch.no_grad():
        model.module.weight.copy_(torch.arange(3) + 1.0)
        model.module.running_var.copy_(torch.arange(3) + 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer.step()
    model.load_state_dict(before)
    return {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, classes=[1, 2]),
        "best_prec1": 91.25,
        "accuracy": np.float64(0.9125),
        "optimizer": optimizer.state_dict(),
        "state_dict": model.state_dict(),
    }


def densenet():
    names = ["norm.1.weight", "norm.1.running_mean", "conv.1.weight", "norm.2.bias", "conv.2.weight"]
    layer = {f"features.denseblock1.denselayer10.{name}": torch.tensor([float(i)]) for i, name in enumerate(names)}
    return layer | {"features.norm5.weight": torch.tensor([5.0])}


def main():
    for name, content, options in (
        ("zip", every_kind(), {}),
        ("legacy", every_kind(), {"_use_new_zipfile_serialization": False}),
        ("protocol4", every_kind(), {"pickle_protocol": 4}),
        ("checkpoint", checkpoint(), {}),
        ("checkpoint_legacy", checkpoint(), {"_use_new_zipfile_serialization": False}),
        ("densenet", densenet(), {}),
        ("module", torch.nn.Linear(2, 1), {}),
        ("nothing", {"epoch": 3}, {}),
    ):
        torch.save(content, HERE / f"torch_{name}.pth", **options)


if __name__ == "__main__":
    main()
