"""From a config to a trainer: the objects that train and evaluate."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from resnet_jax.config import Config, typed_config
from resnet_jax.config.files import as_tuples, import_network
from resnet_jax.data.augment import Augment
from resnet_jax.data.identity import identity
from resnet_jax.data.own_transforms import InMemory, own_transforms
from resnet_jax.data.pipeline import EvaluationOrder, Resident, Streamed, TrainingOrder
from resnet_jax.data.policies import ColorJitter, Lighting, RandAugment, TrivialAugmentWide
from resnet_jax.data.sources import Arrays, Dataset, open_dataset
from resnet_jax.data.sources.archives import TRAIN
from resnet_jax.data.sources.dataset import share
from resnet_jax.data.sources.records import INDEX, Raw
from resnet_jax.data.transforms import RandomResizedCrop, ResizeCenterCrop
from resnet_jax.errors import ConfigError, DataError
from resnet_jax.lookup import is_import
from resnet_jax.models.registry import create_model, own_network
from resnet_jax.models.resnet import declared_fields
from resnet_jax.run.hardware import usable_cores
from resnet_jax.run.identity import flattened
from resnet_jax.run.workers import Workers
from resnet_jax.training.checking import check_own_code
from resnet_jax.training.losses import choose_loss
from resnet_jax.training.metrics import choose_metrics
from resnet_jax.training.optimizers import create_optimizer
from resnet_jax.training.parallel import Devices
from resnet_jax.training.schedules import create_schedule, first_step, scaled_peak
from resnet_jax.training.steps import eval_step, train_step
from resnet_jax.training.trainer import Trainer
from resnet_jax.weights.presets import Preset, of_weights, run_folder

# Most processes that read for one accelerator. `results/input` has 619 ImageNet JPEGs a second of one, and
# `results/step` 7,243 images a second of ResNet-50's step on an H200.
WORKERS_PER_DEVICE = 16


def build(fields: ConfigDict, mode: str = "train", begun: dict | None = None) -> Trainer:
    """Return the trainer of a config.

    Args:
      fields: the config of a run.
      mode: "train", "eval" or "replay"; only an evaluation needs no images to train on.
      begun: the config with which the run was begun, as `to_dict` returns it; None for a new one.

    Raises:
      ConfigError: a value, or a combination of values, that cannot be run.
      DataError: the data are missing or damaged, or have no images to train on and the mode is not "eval".
    """
    config = typed_config(fields)
    training, dtype = config.training, config.model.dtype
    devices = Devices.create(config.parallel.devices, config.parallel.norm_scope, config.parallel.norm_group)
    for batch, field in ((training.batch_size, "training"), (config.evaluation.batch_size, "evaluation")):
        devices.rows_of_host(batch, f"{field}.batch_size")  # before the data are read, which may take long
    dataset = open_dataset(
        source_in(config.data.source, config.data.path),
        config.data.path,
        **{name: value for name, value in dataclasses.asdict(config.data).items() if name not in ("source", "path")},
    )
    import_network(fields)  # which the preset of the weights that it begins with may name too
    config = with_preset(config, dataset, begun)
    if config.data.train_fraction is not None:
        dataset = dataclasses.replace(dataset, train=share(dataset.train, config.data.train_fraction, training.seed))
    description = dataset.description
    if not len(dataset.train):
        if mode != "eval":
            raise DataError(f"{config.data.path} holds no images to train on: add train/, or evaluate by --mode=eval.")
        dataset = dataclasses.replace(dataset, train=dataset.test)  # which is never drawn from
    image_shape = shape_of_images(config, dataset)
    train_loader, eval_loader = loaders(config, dataset, *orders(config, dataset, devices))
    epoch_steps = len(dataset.train) / training.batch_size
    total_steps = training.steps or max(1, round(training.epochs * epoch_steps))
    if total_steps > 1_000_000 * epoch_steps:
        raise ConfigError(f"{total_steps} steps are more than a million epochs: set fewer training.steps.")
    learning_rate = schedule(config, epoch_steps, total_steps / epoch_steps)
    optimizer = update_rule(config, learning_rate)
    model = network(config, len(dataset.classes), devices.norm_axis)
    augment = augmentation(config, dataset, image_shape[-1], model.num_classes)
    check_microbatches(training.microbatches, training.batch_size // devices.count)
    check_norms(model, image_shape, training.batch_size // devices.count // training.microbatches)

    one_train_step, one_eval_step = steps(config, model, optimizer, augment, devices.average)
    many = isinstance(train_loader, Resident) and jax.default_backend() != "cpu"
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        learning_rate=learning_rate,
        devices=devices,
        train_loader=train_loader,
        eval_loader=eval_loader,
        train_program=devices.train_program(one_train_step, train_loader.read),
        eval_program=devices.eval_program(one_eval_step, eval_loader.read),
        image_shape=image_shape,
        seed=training.seed,
        total_steps=total_steps,
        epoch_steps=epoch_steps,
        batch_size=training.batch_size,
        steps_per_call=training.steps_per_call or (training.log_every if many else 1),
        log_every=training.log_every,
        evaluate_every=float(config.evaluation.every_steps or config.evaluation.every_epochs * epoch_steps),
        save_every=float(config.checkpoint.every_steps or config.checkpoint.every_epochs * epoch_steps),
        keep_average=training.ema_decay > 0,
        guarded=training.skip_nonfinite > 0 or dtype == "float16",
        scaled=dtype == "float16",
        init_from=training.init_from,
        init_adapt=training.init_adapt,
        init_from_ema=training.init_from_ema,
        preset=preset(config, dataset, image_shape),
        identity=functools.partial(identity, dataset),
        config=dataclasses.asdict(config),
        data=description,
    )
    check_named_code(config, trainer)
    return trainer


def orders(config: Config, dataset: Dataset, devices: Devices) -> tuple[TrainingOrder, EvaluationOrder]:
    """Return the order of the training and of the evaluation examples, as this host reads them."""
    # No larger than the devices need to hold all examples at once.
    eval_batch = min(config.evaluation.batch_size, -(-len(dataset.test) // devices.count) * devices.count)
    train_order = TrainingOrder(
        examples=len(dataset.train),
        batch_size=config.training.batch_size,
        seed=config.training.seed,
        share=devices.rows_of_host(config.training.batch_size, "training.batch_size"),
        repeats=config.augment.repeats,
        alternates=config.augment.alternate_flip,
    )
    eval_share = devices.rows_of_host(eval_batch, "evaluation.batch_size")
    return train_order, EvaluationOrder(len(dataset.test), eval_batch, eval_share)


def shape_of_images(config: Config, dataset: Dataset) -> tuple[int, int, int]:
    """Return height, width and channels of the images that the network gets."""
    data = config.data
    if isinstance(dataset.train, Arrays):
        height, width, channels = dataset.train.images.shape[1:]
        return data.input_size or height, data.input_size or width, channels
    if data.input_size:
        raise ConfigError("data.input_size applies to in-memory images: set data.image_size for streamed ones.")
    return data.image_size, data.image_size, 3


def steps(
    config: Config, model: nn.Module, optimizer: optax.GradientTransformation, augment: Augment, average: Callable
) -> tuple[Callable, Callable]:
    """Return the train step and the eval step of one device; `average` is over all of them."""
    training, metrics = config.training, choose_metrics(config.evaluation.metrics)
    one_train_step = functools.partial(
        train_step,
        model=model,
        optimizer=optimizer,
        augment=augment,
        loss=choose_loss(training.loss),
        counted=metrics,
        microbatches=training.microbatches,
        ema_decay=training.ema_decay,
        skip_nonfinite=training.skip_nonfinite,
        average=average,
    )
    how = dict(inputs=augment.inputs, flip=config.evaluation.flip, counted=metrics)
    return one_train_step, functools.partial(eval_step, model=model, **how)


def check_named_code(config: Config, trainer: Trainer) -> None:
    """Check what a config names of the user's own code, or of Optax without being registered, if it names any."""
    network = [name for name in (config.model.name, config.model.overrides.get("block", "")) if is_import(name)]
    others = (config.optimizer.name, config.training.loss, *config.evaluation.metrics, *config.augment.transforms)
    if network or any(is_import(name) or name.startswith("optax.") for name in others):
        check_own_code(trainer, network)


def with_preset(config: Config, dataset: Dataset, begun: dict | None) -> Config:
    """Return a config of which what is not set is as the weights of `training.init_from` expect it.

    These are the fields of the network, and the mean and deviation of the channels. They are printed, and so is what is
    set and differs from what the weights expect. A run that was begun keeps what it was begun with.
    """
    source = config.training.init_from
    known = of_weights(run_folder(source) or source) if source else None
    if known is None or known.network != config.model.name:
        return config
    arrays = dataset.train.images.shape if isinstance(dataset.train, Arrays) else None
    expected: dict[str, Any] = {
        f"model.overrides.{name}": value for name, value in known.overrides.items() if name != "num_classes"
    }
    if len(known.mean) == (arrays[-1] if arrays else 3):
        expected |= {"data.mean": known.mean, "data.std": known.std}
    if begun is not None:
        expected = {name: value for name, value in flattened(begun).items() if name in expected}
    present, taken, said = flattened(dataclasses.asdict(config)), {}, []
    for name, value in expected.items():
        value = as_tuples(value)
        if value is None:
            continue
        if present.get(name) is None:
            taken[name] = value
            said.append(f"{name}={value} is taken")
        elif present[name] != value:
            said.append(f"{name} is {present[name]} here and {value} there")
    if arrays is None:
        there = {"interpolation": known.interpolation, "image_size": known.size, "resize": known.resize}
        said += [
            f"data.{name} is {present[f'data.{name}']} here and {value} there"
            for name, value in there.items()
            if present[f"data.{name}"] != value
        ]
    elif (size := config.data.input_size or arrays[1]) != known.size:
        said.append(f"images have {size} pixels a side here and {known.size} there")
    if said and begun is None and jax.process_index() == 0:
        print(f"What {source} expects: {'; '.join(said)}.")
    overrides = {name.rpartition(".")[2]: value for name, value in taken.items() if name.startswith("model.")}
    data = {name.rpartition(".")[2]: value for name, value in taken.items() if name.startswith("data.")}
    model = dataclasses.replace(config.model, overrides={**config.model.overrides, **overrides})
    return dataclasses.replace(config, model=model, data=dataclasses.replace(config.data, **data))


def source_in(source: str, path: str | None) -> str:
    """Return what a folder holds where `source` is "folder": images, what `pack` wrote, or ImageNet's archives.

    All three give the same examples with the same labels.
    """
    if source == "folder" and path and not Path(path, "train").is_dir():
        if Path(path, INDEX).is_file():
            return "records"
        if Path(path, TRAIN).is_file():
            return "archives"
    return source


def preset(config: Config, dataset: Dataset, image_shape: tuple[int, int, int]) -> Preset:
    """Return what the weights of a run of this config expect of an image, and what they say about it."""
    data, size = config.data, image_shape[0]
    streamed = not isinstance(dataset.train, Arrays)
    if streamed:
        size = data.eval_size or data.image_size
    return Preset(
        network=config.model.name,
        overrides={"num_classes": len(dataset.classes), **config.model.overrides},
        dataset=data.source,
        classes=dataset.classes,
        resize=data.resize if streamed else size,
        size=size,
        interpolation=data.interpolation,
        mean=tuple(map(float, data.mean or dataset.mean)),
        std=tuple(map(float, data.std or dataset.std)),
    )


def network(config: Config, num_classes: int, norm_axis: str | tuple[str, ...] | None) -> nn.Module:
    """Return the network of a config, for `num_classes` unless it overrides them."""
    fields = dict(num_classes=num_classes, dtype=jnp.dtype(config.model.dtype), norm_axis=norm_axis)
    if is_import(config.model.name):
        declared = declared_fields(own_network(config.model.name))
        for name, field, needed in (
            ("dtype", "model.dtype", config.model.dtype != "float32"),
            ("norm_axis", "parallel.norm_scope", norm_axis is not None),
        ):
            if needed and name not in declared:
                raise ConfigError(f"the network {config.model.name!r} has no field {name}: add it, or reset {field}.")
        fields = {name: value for name, value in fields.items() if name in declared}
    model = create_model(config.model.name, **fields | dict(config.model.overrides))
    if model.num_classes < num_classes:
        raise ConfigError(
            f"model.overrides.num_classes is {model.num_classes} and the data have {num_classes} classes."
        )
    return model


def check_norms(model: nn.Module, image_shape: tuple[int, ...], images: int) -> None:
    """Raise ConfigError if a BatchNorm would train on one value a channel, with so many images at once on a device."""
    if not hasattr(model, "feature_info") or model.norm_frozen or model.norm_axis is not None:
        return
    stride = model.feature_info()[-1].stride
    if images * max(1, image_shape[0] // stride) * max(1, image_shape[1] // stride) > 1:
        return  # the usual case, which needs no trace of the network
    batch = jax.ShapeDtypeStruct((images, *image_shape), jnp.float32)
    key = jax.random.key(0)
    variables = jax.eval_shape(functools.partial(model.init, key), batch)
    train = functools.partial(model.apply, train=True, mutable=["batch_stats"], rngs={"dropout": key})
    jax.eval_shape(train, variables, batch)


def check_microbatches(microbatches: int, images: int) -> None:
    """Raise ConfigError if the images of a device cannot be cut into equal parts."""
    if images % microbatches:
        raise ConfigError(
            f"training.microbatches is {microbatches} and does not divide the {images} images of a device."
        )


def augmentation(config: Config, dataset: Dataset, channels: int, num_classes: int) -> Augment:
    """Return what is done to a batch on the device."""
    mean, std = (
        tuple(map(float, values)) for values in (config.data.mean or dataset.mean, config.data.std or dataset.std)
    )
    if len(mean) != channels or len(std) != channels:
        raise ConfigError(f"data.mean and data.std must have {channels} values, one a channel of {config.data.source}.")
    on_devices = {field.name for field in dataclasses.fields(Augment)}
    fields = {name: value for name, value in dataclasses.asdict(config.augment).items() if name in on_devices}
    fields |= dict(
        transforms=own_transforms(config.augment.transforms)[1],
        size=config.data.input_size,
        label_smoothing=config.training.label_smoothing,
    )
    return Augment(mean=mean, std=std, num_classes=num_classes, **fields)


def image_changes(config: Config) -> tuple[Callable, ...]:
    """Return what is done to the colours and the geometry of each training image on the host, in order."""
    augment = config.augment
    policies = {
        "": (),
        "trivial_augment_wide": (TrivialAugmentWide(),),
        "rand_augment": (RandAugment(augment.magnitude, augment.layers, interpolation=config.data.interpolation),),
    }
    jitter = (ColorJitter(augment.color_jitter),) if augment.color_jitter else ()
    lighting = (Lighting(augment.lighting),) if augment.lighting else ()
    return policies[augment.policy] + jitter + lighting + own_transforms(augment.transforms)[0]


def update_rule(config: Config, learning_rate: Callable) -> optax.GradientTransformation:
    """Return the optimizer of a config."""
    fields = dataclasses.asdict(config.optimizer)
    del fields["learning_rate"], fields["base_batch_size"]  # part of the schedule
    return create_optimizer(fields.pop("name"), learning_rate, **fields)


def schedule(config: Config, epoch_steps: float, epochs: float) -> Callable:
    """Return the learning rate of a config as a function of the step."""
    peak = scaled_peak(config.optimizer.learning_rate, config.training.batch_size, config.optimizer.base_batch_size)
    fields = dataclasses.asdict(config.schedule)
    warmup, boundaries = fields.pop("warmup_steps"), fields.pop("boundaries_steps")
    if warmup is not None:
        fields["warmup_epochs"] = warmup / epoch_steps
    if boundaries:
        fields["boundaries"] = tuple(step / epoch_steps for step in boundaries)
    return create_schedule(fields.pop("name"), peak=peak, steps_per_epoch=epoch_steps, epochs=epochs, **fields)


def loaders(
    config: Config, dataset: Dataset, train_order: TrainingOrder, eval_order: EvaluationOrder
) -> tuple[Resident | Streamed, Resident | Streamed]:
    """Return the training and the evaluation loader: resident for arrays, streamed for all else."""
    data, changes = config.data, image_changes(config)
    if config.augment.flip and config.augment.alternate_flip:
        raise ConfigError("augment.flip and augment.alternate_flip both mirror images: turn one of them off.")
    own = own_transforms(config.augment.transforms)[0]
    if isinstance(dataset.train, Arrays) and isinstance(dataset.test, Arrays):
        if len(changes) > len(own) or data.size_schedule:
            raise ConfigError(
                f"The images of {data.source} stay on the devices, where augment.policy, color_jitter and lighting and "
                "data.size_schedule cannot be had: leave them at their defaults."
            )
        if not own:
            return Resident(dataset.train, train_order), Resident(dataset.test, eval_order)
    if config.augment.alternate_flip:
        raise ConfigError("augment.alternate_flip works on in-memory images only: set augment.flip for streamed ones.")
    if data.size_schedule and config.training.steps_per_call > 1:
        raise ConfigError("data.size_schedule needs steps of their own: leave training.steps_per_call at 0.")

    def train_crop(size):
        # Mirrored on the device, where it costs nothing.
        return RandomResizedCrop(
            size, (data.crop_scale[0], data.crop_scale[1]), interpolation=data.interpolation, flip=0.0, changes=changes
        )

    seed = config.training.seed
    count = default_workers(dataset) if data.workers is None else data.workers
    workers = Workers(count) if count else None
    if isinstance(dataset.train, Arrays) and isinstance(dataset.test, Arrays):
        train_loader = Streamed(dataset.train, train_order, InMemory(own), seed, workers)
        return train_loader, Resident(dataset.test, eval_order)
    epochs = np.array([epoch for epoch, _ in data.size_schedule], np.float64)
    starts = first_step(epochs, len(dataset.train) / config.training.batch_size)
    later = tuple((int(start), train_crop(size)) for start, (_, size) in zip(starts, data.size_schedule, strict=True))
    eval_crop = ResizeCenterCrop(data.resize, data.eval_size or data.image_size, data.interpolation)
    return (
        Streamed(dataset.train, train_order, train_crop(data.image_size), seed, workers, later),
        Streamed(dataset.test, eval_order, eval_crop, seed, workers),
    )


def default_workers(dataset: Dataset) -> int:
    """Return how many processes read streamed images on this machine; 0 leaves it to threads.

    Processes are worth their start and a copy of each batch where images are decoded for an accelerator, by several
    cores. One core is left to the process that feeds the devices.
    """
    if jax.default_backend() == "cpu" or isinstance(dataset.train, Raw):
        return 0
    cores = usable_cores()
    return min(cores - 1, WORKERS_PER_DEVICE * jax.local_device_count()) if cores > 2 else 0
