"""The project's studies: `--config=configs/sweeps/NAME.py`, or sweeps/NAME."""
