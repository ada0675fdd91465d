"""The project's config files: `--config=configs/NAME.py`, or NAME alone, wherever the package is installed."""
