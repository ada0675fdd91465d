"""What a user sees while a run runs: a bar on a terminal, plain lines in a log, one line at the end."""

import math
import os
import sys
from collections.abc import Iterable
from time import monotonic
from typing import Any, TextIO

import rich.progress
from rich.console import Console, RenderableType
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from resnet_jax.run.metrics import own_metrics

_SECONDS_BETWEEN_LINES = 10


class Progress:
    """Shows how far a run is, how good it is and how long it will take; a context manager.

    Args:
        total_steps: The step at which the run ends.
        steps_per_epoch: Need not be whole.
        start_step: The step at which a resumed run starts.
        file: Where to write; stdout if None. A terminal gets a bar, anything else plain lines.
    """

    def __init__(self, total_steps: int, steps_per_epoch: float, start_step: int = 0, file: TextIO | None = None):
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._start = self._reference = (start_step, monotonic())
        self._file = sys.stdout if file is None else file
        self._bar: _Bar | None = None
        self._task = TaskID(0)
        self._pending = None
        self._last_line = -math.inf
        console = Console(file=self._file, highlight=False)
        if console.is_terminal:
            self._bar = _Bar(console)

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            start_step, _ = self._start
            self._bar.start()
            self._task = self._bar.add_task(
                "", total=self._total_steps, completed=start_step, where=self._where(start_step), state="", left="-"
            )
        return self

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._write_pending()

    def train(self, step: int, metrics: dict[str, Any]) -> None:
        """Shows `loss`, `top1` (a fraction) and `images_per_second`, those that `metrics` has, after `step` steps."""
        state, left = _state(metrics), self._time_left(step)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, where=self._where(step), state=state, left=left)
            return
        self._pending = f"{self._where(step)}  train  {state}  {self._elapsed()} elapsed  {left} left"
        if monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES or step >= self._total_steps:
            self._write_pending()

    def evaluation(self, step: int, metrics: dict[str, Any]) -> None:
        """Shows the `loss`, `top1` and `top5` of an evaluation at `step`, under its `split` ("test" if it has none)."""
        self.note(f"{self._where(step)}  {metrics.get('split', 'test')}  {_state(metrics)}")

    def note(self, text: str) -> None:
        """Shows a line of text."""
        if self._bar is not None:
            # Nothing in the text is markup, and a line is longer than a narrow terminal, not cut by it.
            self._bar.console.print(text, markup=False, soft_wrap=True)
            return
        self._write_pending()
        self._write(text)

    def _where(self, step: int) -> str:
        return f"epoch {self._epoch(step)}/{self._epoch(self._total_steps)}  step {step}/{self._total_steps}"

    def _epoch(self, step: int) -> int:
        """The epoch, counted from 1, in which the last of `step` steps began."""
        return max(0, math.floor((step - 1) / self._steps_per_epoch)) + 1

    def _elapsed(self) -> str:
        return duration(monotonic() - self._start[1])

    def _time_left(self, step: int) -> str:
        """The time for the remaining steps at the speed of this start's steps."""
        now = monotonic()
        from_step, from_time = self._reference
        if self._reference is self._start:
            # The steps until the first report also waited for compilation; what follows is measured without them.
            self._reference = (step, now)
        if step <= from_step:
            return "-"
        return duration((self._total_steps - step) * (now - from_time) / (step - from_step))

    def _write_pending(self) -> None:
        if self._pending is not None:
            self._write(self._pending)
            self._pending = None
            self._last_line = monotonic()

    def _write(self, line: str) -> None:
        print(line, file=self._file, flush=True)


class _Bar(rich.progress.Progress):
    """A line for how far the run is, with a bar in what the text leaves of it, and a line for how good it is."""

    def __init__(self, console: Console):
        super().__init__(
            TextColumn("{task.fields[where]}", markup=False),
            BarColumn(bar_width=None),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]} left", markup=False),
            console=console,
            expand=True,
            refresh_per_second=4,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """The lines, which rich draws again and again."""
        yield from super().get_renderables()
        for task in self.tasks:
            yield Text(task.fields["state"], no_wrap=True, overflow="ellipsis")


def final_line(
    summary: dict[str, Any], workdir: str | os.PathLike, what: str = "metrics, checkpoints and curves are"
) -> str:
    """The line that ends a run: how good, counted on what, how long it took, and where what it leaves is."""
    accuracies = ", ".join(_accuracies(summary))
    return (
        f"{accuracies} on {summary['eval_examples']:,} examples after {summary['steps']:,} steps "
        f"in {duration(summary['wall_seconds'])}; {what} in {os.fspath(workdir)}"
    )


def duration(seconds: float) -> str:
    """Seconds in the two largest units that a reader needs: "42 s", "3 min 5 s", "2 h 14 min", "1 d 3 h"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def _state(metrics: dict[str, Any]) -> str:
    """The metrics that a user follows, in one string."""
    parts = [f"loss {_number(metrics['loss']):.4f}"] if "loss" in metrics else []
    parts += _accuracies(metrics)
    parts += [f"{name} {_number(value):.4f}" for name, value in own_metrics(metrics).items()]
    if "images_per_second" in metrics:
        parts.append(f"{_number(metrics['images_per_second']):,.0f} images/s")
    return "  ".join(parts)


def _accuracies(metrics: dict[str, Any]) -> list[str]:
    names = {"top1": "top-1", "top5": "top-5"}
    return [f"{name} {100 * _number(metrics[key]):.2f}%" for key, name in names.items() if key in metrics]


def _number(value: float | None) -> float:
    """A metric that was not finite is None in the run's record."""
    return math.nan if value is None else float(value)
