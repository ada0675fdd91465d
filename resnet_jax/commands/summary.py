"""`summary`: the layers of a network, what they make, cost and see."""

import argparse
import dataclasses
import json

from resnet_jax.commands.networks import add_fields_argument, overrides
from resnet_jax.errors import ConfigError
from resnet_jax.models.registry import create_model
from resnet_jax.models.summary import Layer, layers
from resnet_jax.run import tables

HEADER = ("layer", "#output", "#parameters", "#multiply-adds", "#receptive field")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", help="name of a network, such as `models` lists")
    parser.add_argument("--image-size", type=int, help="image size in pixels; default: 32 for CIFAR networks, else 224")
    parser.add_argument("--channels", type=int, default=3, help="channels of the image (3)")
    parser.add_argument("--format", choices=("table", "markdown", "json"), default="table")
    add_fields_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Show the layers of the network."""
    model = create_model(args.name, **overrides(args.set))
    size = args.image_size or (32 if getattr(model, "stem", "") == "cifar" else 224)
    if size < 1 or args.channels < 1:
        raise ConfigError(f"an image of {size} pixels and {args.channels} channels is none: use 1 or more of both.")
    show(args.name, size, layers(model, (size, size, args.channels)), args.format)


def show(name: str, size: int, found: list[Layer], style: str) -> None:
    """Print the layers as a table for a terminal, as Markdown, or as JSON."""
    parameters, macs = sum(layer.parameters for layer in found), sum(layer.multiply_adds for layer in found)
    if style == "json":
        rows = [dataclasses.asdict(layer) for layer in found]
        print(
            json.dumps({"name": name, "image_size": size, "params": parameters, "macs": macs, "layers": rows}, indent=2)
        )
        return
    cells = [
        (
            layer.name,
            "x".join(map(str, layer.output)),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.multiply_adds:,}" if layer.multiply_adds else "",
            str(layer.receptive_field or "image"),
        )
        for layer in found
    ]
    total = ("all", "", f"{parameters:,}", f"{macs:,}", "")
    tables.show(HEADER, cells, title=f"{name} for images of {size}x{size}", total=total, style=style)
