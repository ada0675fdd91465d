"""Writes torch_training.npz, next to this file: what torch's SGD and learning-rate schedulers do.

It needs the environment of make_torch_logits.py (the numbers are from torch 2.13.0 and timm 1.0.31 on a CPU):

    python tests/golden/make_torch_training.py

Contents:
    sgd_weights, sgd_curvature (12,), sgd_targets (steps, 12), sgd_rates (steps,): float64. The gradient at step k is
        curvature * (w - targets[k]), of a parabola whose minimum moves, and the learning rate is rates[k].
    sgd_NAME (steps, 12): the weights after each step, for each NAME of `SGD`.
    multistep_steps, multistep_rates: CIFAR's MultiStepLR by step, around its boundaries.
    step_rates: StepLR of torchvision's first recipe at each of its 90 epochs.
    cosine_rates: LinearLR then CosineAnnealingLR of torchvision's second recipe at each of its 600 epochs.
    timm_rates: timm's CosineLRScheduler in procedure A2 (rate 5e-3) at each of its 300 epochs.
"""

import pathlib
import warnings

import numpy as np
import torch

SGD = {
    "plain": dict(momentum=0.0, nesterov=False, weight_decay=0.0),
    "decayed": dict(momentum=0.0, nesterov=False, weight_decay=0.05),
    "momentum": dict(momentum=0.9, nesterov=False, weight_decay=0.0),
    "momentum_decayed": dict(momentum=0.9, nesterov=False, weight_decay=0.05),
    "nesterov": dict(momentum=0.875, nesterov=True, weight_decay=0.0),
    "nesterov_decayed": dict(momentum=0.875, nesterov=True, weight_decay=0.05),
}


def trajectory(weights, curvature, targets, rates, **options):
    parameter = torch.nn.Parameter(torch.tensor(weights, dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], lr=1.0, **options)
    passed = []
    for target, rate in zip(targets, rates, strict=True):
        optimizer.param_groups[0]["lr"] = float(rate)
        parameter.grad = torch.tensor(curvature) * (parameter.detach() - torch.tensor(target))
        optimizer.step()
        passed.append(parameter.detach().numpy().copy())
    return np.stack(passed)


def rates_of(scheduler_of, base, count):
    """Return the learning rate in force before each of `count` calls of scheduler.step()."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = scheduler_of(optimizer)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.asarray(rates)


def timm_rates(epochs, base):
    """Return the learning rate of each epoch under timm's cosine with 5 epochs of warm-up from 1e-4, to 1e-6."""
    # torchvision's compiled operators need another torch. Nothing here uses them, once their names are known.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = CosineLRScheduler(optimizer, t_initial=epochs, lr_min=1e-6, warmup_t=5, warmup_lr_init=1e-4)
    rates = []
    for epoch in range(epochs):
        scheduler.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    return np.asarray(rates)


def main():
    # SequentialLR passes an epoch to its parts' step() and is warned of that itself.
    warnings.filterwarnings("ignore", message="The epoch parameter in `scheduler.step")
    schedulers = torch.optim.lr_scheduler
    random = np.random.default_rng(0)
    steps = 12
    found = {
        "sgd_weights": random.normal(size=12),
        "sgd_curvature": random.uniform(0.1, 2.0, 12),
        "sgd_targets": random.normal(size=(steps, 12)),
        "sgd_rates": np.repeat([0.2, 0.1, 0.02, 0.3], 3),
    }
    problem = [found[f"sgd_{part}"] for part in ("weights", "curvature", "targets", "rates")]
    for name, options in SGD.items():
        found[f"sgd_{name}"] = trajectory(*problem, **options)

    by_step = rates_of(lambda optimizer: schedulers.MultiStepLR(optimizer, [32_000, 48_000]), 0.1, 64_000)
    near = [np.arange(boundary - 3, boundary + 4) for boundary in (32_000, 48_000)]
    sampled = np.concatenate([[0, 1, 390, 391], near[0], [40_000], near[1], [63_998, 63_999]])
    found["multistep_steps"], found["multistep_rates"] = sampled, by_step[sampled]
    found["step_rates"] = rates_of(lambda optimizer: schedulers.StepLR(optimizer, 30, 0.1), 0.1, 90)

    def warm_cosine(optimizer):
        warm = schedulers.LinearLR(optimizer, start_factor=0.01, total_iters=5)
        cosine = schedulers.CosineAnnealingLR(optimizer, T_max=600 - 5, eta_min=0)
        return schedulers.SequentialLR(optimizer, [warm, cosine], milestones=[5])

    found["cosine_rates"] = rates_of(warm_cosine, 0.5, 600)
    found["timm_rates"] = timm_rates(epochs=300, base=5e-3)
    np.savez(pathlib.Path(__file__).with_name("torch_training.npz"), **found)


if __name__ == "__main__":
    main()
