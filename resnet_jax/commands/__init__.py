"""The verbs of `python -m resnet_jax`, a module each: `add_arguments(parser)` says what it takes, `run(values)` does it."""
