"""The log of what a run measured: `metrics.jsonl`, one JSON object a line."""

import json
import math
import os
from pathlib import Path
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.run.archives import read_stored

MOST_OF_METRICS = 2**26  # bytes of metrics that a report reads: some 200,000 records
# What every record may hold; other names are those of the user's own metrics.
RECORD_FIELDS = (
    *("step", "epoch", "split", "loss", "top1", "top5", "examples", "wall_seconds"),
    *("gradient_norm", "failed", "skipped", "loss_scale", "learning_rate", "images_per_second"),
)
MOST_OF_OWN_METRICS = 2**31  # of a run that resumes, which has written them itself


def read_metrics(path: str | os.PathLike, most: int = MOST_OF_OWN_METRICS) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, without a last line that was cut when the run was killed.

    Raises:
        UserError: There is no such file, it has more than `most` bytes, or a line before the last is damaged.
    """
    return [record for _, record in metric_lines(Path(path), most)]


def own_metrics(record: dict[str, Any]) -> dict[str, float | None]:
    """Return what a record holds of the user's own metrics, by name."""
    return {name: value for name, value in record.items() if name not in RECORD_FIELDS}


def metric_lines(path: Path, most: int = MOST_OF_OWN_METRICS) -> list[tuple[bytes, dict]]:
    """The whole lines of a metrics file, each with what it says."""
    try:
        raw = read_stored(path, most).splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: name the folder of a run that has logged metrics.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): restore it, or leave this run out.") from error
    lines = []
    for number, line in enumerate(raw, start=1):
        if (record := _record(line)) is not None:
            lines.append((line, record))
        elif number < len(raw):
            raise UserError(f"{path} is damaged in line {number}: mend or delete this line.")
    return lines


def _record(line: bytes) -> dict | None:
    """What a line of a metrics file says, or None if it is no measurement."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    named = isinstance(record, dict) and type(record.get("step")) is int and isinstance(record.get("split"), str)
    numbers = named and all(value is None or isinstance(value, int | float | str) for value in record.values())
    return record if numbers else None


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NumPy's and JAX's scalars as Python's, what is not finite as None."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
