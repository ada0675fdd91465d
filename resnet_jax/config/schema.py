"""The config of a run: every field with its type, default, meaning and allowed values, stated here and only here.

The ConfigDict that config files change, the checks, `python main.py --help`, `docs/config.md` and the typed `Config`
that the code reads all come from these classes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from resnet_jax.config.fields import Allowed, above, at_least, between, one_of, setting

SIZE = between(1, 16384)  # pixels
PROBABILITY = between(0, 1)


def _is_size_schedule(value: tuple) -> bool:
    return list(value) == sorted(value) and all(epoch >= 0 and SIZE.holds(size) for epoch, size in value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The network."""

    name: str = setting(
        "cifar_resnet20", 'Network: a name of `python -m resnet_jax models`, or your own as "module:name".'
    )
    dtype: str = setting(
        "float32",
        "Precision of the computation; float16 scales the loss. Parameters and logits stay float32.",
        one_of("float32", "bfloat16", "float16"),
    )
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of the network that are set


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The examples, and how images are decoded, cropped and normalized."""

    source: str = setting(
        "digits",
        "Data set: digits, cifar10, cifar100, fashion_mnist, tfds:NAME, folder, archives, records, synthetic, or your "
        'own as "module:name".',
    )
    path: str | None = setting(None, "Folder of the files; None: the source's own place.", may_change=True)
    image_size: int = setting(32, "Side in pixels of streamed and synthetic training images.", SIZE)
    size_schedule: tuple[tuple[float, int], ...] = setting(
        (),
        "Progressive resizing: training images have another size from an epoch on.",
        Allowed(_is_size_schedule, "pairs of an epoch and a size in pixels, by epoch"),
    )
    eval_size: int | None = setting(None, "Side of streamed images in evaluation; None: data.image_size.", SIZE)
    input_size: int | None = setting(
        None, "Side to which in-memory images are resized on the device; None: their own.", SIZE, was="data.array_size"
    )
    num_classes: int = setting(1000, "Classes of synthetic data; other sources have their own.", between(1, 1000000))
    train_fraction: float | None = setting(
        None, "Fraction of the training images to use, drawn by training.seed; None: all.", above(0, at_most=1)
    )
    mean: tuple[float, ...] | None = setting(None, "Mean per channel of images in 0..1; None: the source's.")
    std: tuple[float, ...] | None = setting(None, "Deviation per channel of images in 0..1; None: the source's.")
    resize: int = setting(256, "Short side of streamed images before the central crop of evaluation.", SIZE)
    crop_scale: tuple[float, float] = setting(
        (0.08, 1.0),
        "Range of the random resized crop's area, relative to the image.",
        Allowed(lambda scale: 0 < scale[0] <= scale[1] <= 1, "two fractions, the smaller first"),
    )
    interpolation: str = setting(
        "bilinear", "Filter of both crops, antialiased.", one_of("bilinear", "bicubic", "nearest")
    )
    workers: int | None = setting(
        None,
        "Processes that decode images; 0: threads of the main process; None: chosen by cores and accelerator.",
        between(0, 1024),
        may_change=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Augmentation of training images."""

    pad: int = setting(0, "Pixels of zero padding before a random crop on the device.", at_least(0))
    flip: bool = setting(False, "Mirror each image with probability one half.")
    alternate_flip: bool = setting(False, "Mirror each in-memory image in every other epoch.")
    policy: str = setting(
        "",
        "Policy for streamed images, applied on the host; empty: none.",
        one_of("", "trivial_augment_wide", "rand_augment"),
    )
    magnitude: float = setting(7.0, "Magnitude of rand_augment.", between(0, 10))
    layers: int = setting(2, "Operations of rand_augment per image.", at_least(1))
    color_jitter: float = setting(
        0.0, "Largest relative change of brightness, contrast and saturation of streamed images.", PROBABILITY
    )
    lighting: float = setting(0.0, "Standard deviation of PCA lighting noise on streamed images.", at_least(0))
    erase: float = setting(0.0, "Probability of random erasing.", PROBABILITY)
    repeats: int = setting(1, "Repeated augmentation: copies of each example in a batch.", at_least(1))
    mixup: float = setting(0.0, "Beta parameter of mixup; 0: off.", at_least(0))
    cutmix: float = setting(0.0, "Beta parameter of CutMix; 0: off.", at_least(0))
    transforms: tuple[str, ...] = setting(
        (), 'Your own transforms, each "module:name", a function of (image, rng) or of (images, targets, key).'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """Length, batches, initial weights and loss."""

    batch_size: int = setting(128, "Images per step, over all devices and hosts.", between(1, 1000000))
    epochs: float = setting(10.0, "Length in epochs; training.steps takes precedence.", above(0, at_most=1000000))
    steps: int | None = setting(None, "Length in steps, in place of training.epochs.", between(1, 2147483647))
    seed: int = setting(0, "Random seed of initialization, shuffling and augmentation.")
    init_from: str | None = setting(
        None, "Initial weights: a weights file, a preset, a run directory or RUN/checkpoints/STEP."
    )
    init_adapt: bool = setting(
        False, "Adapt initial weights: a new head for other classes, and the stem to other image channels."
    )
    init_from_ema: bool = setting(
        False, "Take the moving averages of the run in training.init_from.", was="training.init_average"
    )
    microbatches: int = setting(1, "Gradient accumulation: parts into which a batch is split.", at_least(1))
    loss: str = setting(
        "cross_entropy", 'Loss of an example: cross_entropy, binary_cross_entropy, or your own as "module:name".'
    )
    label_smoothing: float = setting(
        0.0, "Label smoothing: target mass that is spread over all classes.", at_least(0, below=1)
    )
    ema_decay: float = setting(
        0.0, "Decay per step of the moving averages of parameters and statistics; 0: off.", at_least(0, below=1)
    )
    skip_nonfinite: int = setting(
        0, "Steps with a non-finite gradient that may be skipped before training counts as diverged.", at_least(0)
    )
    log_every: int = setting(50, "Steps between records of training metrics.", at_least(1), may_change=True)
    steps_per_call: int = setting(
        0,
        "Steps in one compiled call; 0: training.log_every where data are resident on a GPU or TPU, else 1.",
        at_least(0),
        may_change=True,
        was="training.steps_per_dispatch",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The update rule."""

    name: str = setting(
        "sgd",
        'Optimizer: sgd, lars, lamb, adam, adamw, lion, muon, sam, schedule_free, "optax.NAME", or your own as '
        '"module:name".',
    )
    learning_rate: float = setting(0.1, "Peak learning rate, for a batch of optimizer.base_batch_size.", at_least(0))
    base_batch_size: int = setting(
        0, "Scale the learning rate by training.batch_size over this number; 0: no scaling.", at_least(0)
    )
    momentum: float = setting(0.9, "Momentum of SGD, LARS and SAM.", at_least(0, below=1))
    nesterov: bool = setting(False, "Use Nesterov momentum.")
    weight_decay: float = setting(1e-4, "Coefficient of weight decay.", at_least(0))
    weight_decay_mask: str = setting(
        "all",
        "Parameters with weight decay.",
        one_of("all", "all_but_norm", "all_but_branch_norm", "kernels"),
        was="optimizer.decays",
    )
    clip_norm: float = setting(0.0, "Largest global norm of the gradient; 0: no clipping.", at_least(0))
    backbone_lr_multiplier: float = setting(
        1.0,
        "Learning rate of all parameters but the head's, relative to the head's; 0 freezes them.",
        at_least(0),
        was="optimizer.backbone_rate",
    )
    freeze_norm: bool = setting(False, "Keep the scales and biases of BatchNorm fixed.")
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # further arguments that are set


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over time."""

    name: str = setting(
        "cosine", 'Schedule after warm-up: constant, step, cosine or linear; or your own as "module:name".'
    )
    boundaries: tuple[float, ...] = setting((), "Epochs at which the step schedule multiplies the rate by its factor.")
    boundaries_steps: tuple[int, ...] = setting(
        (), "Boundaries of the step schedule in steps.", counts_as="schedule.boundaries"
    )
    factor: float = setting(0.1, "Factor of the step schedule.", above(0))
    warmup_epochs: float = setting(0.0, "Length of the linear warm-up in epochs.", at_least(0))
    warmup_steps: int | None = setting(
        None, "Length of the linear warm-up in steps.", at_least(0), counts_as="schedule.warmup_epochs"
    )
    warmup_start: float = setting(0.0, "First rate of the warm-up, relative to the peak.", PROBABILITY)
    end: float = setting(0.0, "Last rate of cosine and linear.", at_least(0))
    warmup_overlaps: bool = setting(
        False,
        "Start cosine and linear at step 0, overlapped by the warm-up, as timm does; else after the warm-up.",
        was="schedule.from_start",
    )
    step_per_epoch: bool = setting(False, "Change the rate only between epochs.", was="schedule.by_epoch")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Evaluation during and after training."""

    batch_size: int = setting(256, "Images per evaluation step.", between(1, 1000000), may_change=True)
    every_epochs: int = setting(1, "Epochs between evaluations.", at_least(1))
    every_steps: int | None = setting(
        None, "Steps between evaluations.", at_least(1), counts_as="evaluation.every_epochs"
    )
    flip: bool = setting(False, "Average the logits of each image and of its mirror image.")
    metrics: tuple[str, ...] = setting(
        (), 'Your own metrics, each "module:name"; the name is their key in the records.', may_change=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """When checkpoints are saved, and which are kept."""

    every_epochs: int = setting(1, "Epochs between checkpoints.", at_least(1), may_change=True)
    every_steps: int | None = setting(
        None, "Steps between checkpoints.", at_least(1), may_change=True, counts_as="checkpoint.every_epochs"
    )
    keep_latest: int = setting(2, "Newest checkpoints to keep.", at_least(1), may_change=True)
    keep_best: int = setting(1, "Checkpoints of highest top-1 to keep.", at_least(0), may_change=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logging:
    """Where records go besides metrics.jsonl and TensorBoard."""

    loggers: tuple[str, ...] = setting(
        (), 'Loggers: wandb, mlflow, trackio, or your own as "module:name".', may_change=True
    )
    project: str = setting("resnet_jax", "Project under which the loggers keep the run.", may_change=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parallel:
    """Devices and hosts."""

    devices: int = setting(0, "Devices to use; 0: all.", at_least(0), may_change=True)
    norm_scope: str = setting(
        "local",
        "Scope of BatchNorm statistics: local to a device, a group of devices, or global.",
        one_of("local", "group", "global"),
    )
    norm_group: int = setting(1, "Devices in a group of parallel.norm_scope=group.", at_least(1))
    coordinator: str = setting(
        "",
        'HOST:PORT of the first host, or "auto" on Cloud TPU, Slurm, Open MPI and Kubernetes; empty: one host.',
        may_change=True,
    )
    hosts: int = setting(1, "Number of hosts.", between(1, 100000), may_change=True)
    host: int = setting(0, "Index of this host.", at_least(0), may_change=True)
    heartbeat_seconds: int = setting(
        20, "Seconds of silence after which a host counts as lost.", between(1, 3600), may_change=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The config of a run, by groups."""

    model: Model = Model()
    data: Data = Data()
    augment: Augment = Augment()
    training: Training = Training()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    logging: Logging = Logging()
    parallel: Parallel = Parallel()
