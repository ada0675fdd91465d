"""Train or evaluate a network: `python main.py --config=configs/digits.py --workdir=runs/digits`.

It is `resnet-jax train`, or `python -m resnet_jax train`, in a checkout; `--help` says the rest.
"""

import sys

from resnet_jax.run import interrupts

if __name__ == "__main__":
    interrupts.watch()  # before what follows is imported, which takes seconds

from resnet_jax.commands.train import main, parse

__all__ = ["main", "parse"]

if __name__ == "__main__":
    sys.exit(main(sys.argv))
