"""How long a recipe takes on given hardware, and what that costs, from a measured throughput."""

import itertools
import math
from typing import NamedTuple

FORWARD = 1 / 3  # of a training step: its backward pass has two convolutions for each of the forward pass


class Work(NamedTuple):
    """What a run computes.

    Attributes:
      training: (pixels a side, images) of each part of the training, in order.
      eval_size: pixels a side in evaluation.
      eval_images: all that are evaluated, each as often as the network sees it.
    """

    training: tuple[tuple[int, float], ...]
    eval_size: int
    eval_images: float


class Estimate(NamedTuple):
    """What a run takes.

    Attributes:
      training_images: of all epochs.
      evaluation_images: of all evaluations.
      training_hours, evaluation_hours: by the clock.
      input_bound: share of the training hours in which the input and not the devices is the limit.
      device_hours: of all devices together.
      cost: in the currency of the price; None without one.
    """

    training_images: float
    evaluation_images: float
    training_hours: float
    evaluation_hours: float
    input_bound: float
    device_hours: float
    cost: float | None


def work_of(
    epochs: float,
    train_examples: int,
    eval_examples: int,
    *,
    size: int,
    size_schedule: tuple[tuple[float, int], ...] = (),
    eval_size: int | None = None,
    every_epochs: float = 1.0,
    mirrored: bool = False,
) -> Work:
    """Return the work of a run: `epochs` of the training images, and an evaluation every `every_epochs` and at the end.

    Args:
      epochs: passes over the training images; need not be whole.
      train_examples, eval_examples: in the data set.
      size: pixels a side in training, from epoch 0 on.
      size_schedule: (epoch, size) pairs: another size from that epoch on.
      eval_size: pixels a side in evaluation; None: `size`.
      every_epochs: from one evaluation to the next; need not be whole.
      mirrored: whether each image is evaluated with its mirror image.
    """
    starts = [(0.0, size), *((min(epoch, epochs), later) for epoch, later in size_schedule), (epochs, 0)]
    training = [
        (pixels, (end - start) * train_examples)
        for (start, pixels), (end, _) in itertools.pairwise(starts)
        if end > start
    ]
    passes = math.ceil(epochs / every_epochs - 1e-9) * (2 if mirrored else 1)
    return Work(tuple(training), eval_size or size, float(passes * eval_examples))


def estimate(
    work: Work,
    images_per_second: float,
    devices: int = 1,
    *,
    measured_size: int = 224,
    input_images_per_second: float = math.inf,
    price: float | None = None,
) -> Estimate:
    """Return what a run takes where devices add up and an image costs what its pixels cost.

    Args:
      work: of the run.
      images_per_second: of one device that trains on images of `measured_size` pixels a side.
      devices: in use.
      measured_size: pixels a side of the measurement.
      input_images_per_second: which all hosts together can read; infinite: the input is never the limit.
      price: of a device for an hour.
    """
    rate = images_per_second * devices
    training = limited = 0.0
    for size, images in work.training:
        computing, reading = images / rate * (size / measured_size) ** 2, images / input_images_per_second
        training += max(computing, reading)
        limited += reading if reading > computing else 0.0
    evaluation = max(
        work.eval_images * FORWARD / rate * (work.eval_size / measured_size) ** 2,
        work.eval_images / input_images_per_second,
    )
    device_hours = (training + evaluation) / 3600 * devices
    return Estimate(
        training_images=sum(images for _, images in work.training),
        evaluation_images=work.eval_images,
        training_hours=training / 3600,
        evaluation_hours=evaluation / 3600,
        input_bound=limited / training,
        device_hours=device_hours,
        cost=None if price is None else price * device_hours,
    )
