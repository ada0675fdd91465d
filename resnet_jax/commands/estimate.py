"""`estimate`: how long a recipe takes on given hardware, and what that costs, from a measured throughput."""

import argparse
import math
import pathlib

from resnet_jax.commands.configs import load
from resnet_jax.config import Config, typed_config, upgraded
from resnet_jax.errors import ConfigError
from resnet_jax.lab.estimate import Estimate, Work, estimate, work_of
from resnet_jax.run import tables
from resnet_jax.run.files import read_json

IMAGENET = (1_281_167, 50_000)
EXAMPLES = {  # training and test images of the data sets whose numbers are known before they are read
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "fashion_mnist": (60_000, 10_000),
    "digits": (1_438, 359),
}
ARRAY_SIZES = {"cifar10": 32, "cifar100": 32, "fashion_mnist": 28, "digits": 8}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "--config", required=True, metavar="FILE:NAME", help="config file, such as configs/resnet50.py:rsb_a2"
    )
    rate = parser.add_mutually_exclusive_group(required=True)
    rate.add_argument("--images-per-second", type=float, help="training speed of one device")
    rate.add_argument(
        "--from",
        dest="record",
        metavar="FILE",
        help="take the speed from a record of results/step/ or a run's summary.json",
    )
    parser.add_argument(
        "--size-of-measurement", type=int, help="image size of the measurement in pixels; default: 224, or FILE's"
    )
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--price", type=float, help="price of one device for one hour, in any currency")
    parser.add_argument("--input-images-per-second", type=float, help="images that all hosts together read per second")
    parser.add_argument("--examples", type=int, nargs=2, metavar=("TRAIN", "TEST"), help="number of images")


def run(args: argparse.Namespace) -> None:
    """Show time and cost as a table, and a sentence on what they rest on."""
    rows, basis = estimated(args)
    tables.show(("", f"{args.config} on {args.devices} device{'s' * (args.devices > 1)}"), rows)
    print(basis)


def estimated(args: argparse.Namespace) -> tuple[list[tuple[str, str]], str]:
    """Return the rows of the table, and on what they rest.

    Raises ConfigError for a config, a record or a number that gives no estimate.
    """
    config = typed_config(load(args.config))
    given = dict(vars(args))
    for name in ("images_per_second", "size_of_measurement", "devices", "price", "input_images_per_second"):
        if given[name] is not None and not 0 < given[name] < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')} is {given[name]} and must be more than 0.")
    if args.examples and min(args.examples) < 1:
        raise ConfigError(f"--examples is {args.examples}: give 1 or more of both.")
    work = work_of_config(config, args.examples)
    if args.record:
        rate, size, what = measured(pathlib.Path(args.record), config)
        size = args.size_of_measurement or size
    else:
        rate, size = args.images_per_second, args.size_of_measurement or 224
        what = f"{rate:,.6g} images a second of one device, as given"
    found = estimate(
        work,
        rate,
        args.devices,
        measured_size=size,
        input_images_per_second=args.input_images_per_second or math.inf,
        price=args.price,
    )
    basis = (
        f"It rests on {what}, at {size} pixels a side; on an image costing what its pixels cost, an evaluation a third "
        "of a training step, and devices adding up; without start, compilation and checkpoints."
    )
    return table_of(work, found), basis


def work_of_config(config: Config, examples: tuple[int, int] | None) -> Work:
    """Return the work of a config on its data set, or on one of so many training and test images."""
    train, test = examples or EXAMPLES.get(config.data.source, IMAGENET)
    epochs = config.training.epochs
    if config.training.steps:
        epochs = config.training.steps * config.training.batch_size / train
    every_epochs = config.evaluation.every_epochs
    if config.evaluation.every_steps:
        every_epochs = config.evaluation.every_steps * config.training.batch_size / train
    size = config.data.input_size or ARRAY_SIZES.get(config.data.source) or config.data.image_size
    return work_of(
        epochs,
        train,
        test,
        size=size,
        size_schedule=config.data.size_schedule,
        eval_size=None if config.data.source in ARRAY_SIZES else config.data.eval_size,
        every_epochs=every_epochs,
        mirrored=config.evaluation.flip,
    )


def measured(file: pathlib.Path, config: Config) -> tuple[float, int, str]:
    """Return images a second of training, the pixels a side they had, and what was measured, from a record.

    Raises ConfigError where the file is no record, or not one of the config's network in training.
    """
    network = config.model.name
    record = read_json(file)
    if record is None:
        raise ConfigError(f"{file} is no JSON file that can be read: name a record or a summary.json.")
    if isinstance(record, dict) and record.get("mode") == "train" and "rows" in record:
        for row in record["rows"]:
            if row["network"] == network and row["images_per_second"].get("ours"):
                what = f"{row['images_per_second']['ours']:,.6g} images a second of one device, measured in {file}"
                return row["images_per_second"]["ours"], row["image"], what
        names = ", ".join(dict.fromkeys(row["network"] for row in record["rows"]))
        raise ConfigError(f"{file} has no measurement of {network}; it has {names}.")
    if isinstance(record, dict) and record.get("images_per_second") and "wall_seconds" in record:
        try:
            run = upgraded(read_json(file.parent / "config.json"))
            name, size = run["model"]["name"], run["data"]["input_size"] or ARRAY_SIZES.get(run["data"]["source"])
            size = size or run["data"]["image_size"]
        except (TypeError, KeyError) as error:
            raise ConfigError(f"{file} has no config.json of its run beside it: give --images-per-second.") from error
        if name != network:
            raise ConfigError(f"{file} belongs to a run of {name}, and the config has {network}.")
        rate = record["images_per_second"]
        return rate, size, f"{rate:,.6g} images a second of the run in {file}, whose devices count as one"
    raise ConfigError(f"{file} has no throughput of training: name a record of results/step/, or a run's summary.json.")


def table_of(work: Work, found: Estimate) -> list[tuple[str, str]]:
    """Return an estimate as names and values."""
    sizes = dict.fromkeys([str(size) for size, _ in work.training])
    rows = [
        ("training images", f"{found.training_images:,.0f} of {' and '.join(sizes)} pixels a side"),
        ("evaluation images", f"{found.evaluation_images:,.0f} of {work.eval_size} pixels a side"),
        ("training", duration(found.training_hours)),
        ("evaluation", duration(found.evaluation_hours)),
        ("in all", duration(found.training_hours + found.evaluation_hours)),
        ("device-hours", f"{found.device_hours:,.1f}" if found.device_hours >= 1 else f"{found.device_hours:.2g}"),
    ]
    if found.cost is not None:
        rows.append(("cost", f"{found.cost:,.2f}"))
    if found.input_bound:
        rows.append(("limited by the input", f"{100 * found.input_bound:.0f} % of the training"))
    return rows


def duration(hours: float) -> str:
    """Return a time in the unit that suits it."""
    if hours >= 1:
        return f"{hours:,.2f} hours"
    return f"{60 * hours:.1f} minutes" if hours >= 1 / 60 else f"{3600 * hours:.1f} seconds"
