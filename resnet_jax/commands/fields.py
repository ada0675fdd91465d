"""`fields`: every field of a config with its type, default, meaning and allowed values.

`docs/config.md` is what it prints with `--format=markdown`.
"""

import argparse

from resnet_jax.config.reference import help_text, page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("word", nargs="?", default="", help="show only the fields that mention this word")
    parser.add_argument("--format", choices=("text", "markdown"), default="text")


def run(args: argparse.Namespace) -> None:
    """Print the fields that mention a word, or the reference page of all."""
    print(page() if args.format == "markdown" else help_text(args.word))
