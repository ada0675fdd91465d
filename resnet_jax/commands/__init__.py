"""The verbs of `python -m resnet_jax`, a module each: `add_arguments` says what it takes, `run` does it."""
