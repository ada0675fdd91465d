"""The log of a run: from what the devices return to records, speed, and what the user sees."""

import statistics
import time
from typing import Any

import jax
import numpy as np

from resnet_jax.errors import Diverged
from resnet_jax.run.loggers import Loggers
from resnet_jax.run.metrics import own_metrics, read_metrics
from resnet_jax.run.progress import Progress
from resnet_jax.run.workdir import RunDirectory
from resnet_jax.training.trainer import Trainer


class Log:
    """Collects the metrics of steps and writes their means every so many of them.

    They are fetched one dispatch late, so that the devices never wait for the host to have written them.
    """

    def __init__(self, trainer: Trainer, record: RunDirectory, progress: Progress, loggers: Loggers | None = None):
        self._trainer = trainer
        self._record = record
        self._progress = progress
        self._loggers = loggers
        self._learning_rate = jax.jit(trainer.learning_rate)
        self._past = read_metrics(record.metrics) if record.metrics.exists() else []
        self._earlier_seconds = self._past[-1]["wall_seconds"] if self._past else 0.0
        self._started = time.perf_counter()
        self._clock: Any = None  # step and time from which speed is measured
        self._window = []  # numbers of steps, and the metrics of these, that no record has yet
        self._late = None  # of the next record: step, learning rate, time if it is past, and metrics

    def trained(self, start: int, end: int, means: dict[str, Any]) -> None:
        """Take the metrics, arrays of (steps,) or longer, of one dispatch that begins after `start` and ends at `end`.

        Raises Diverged if those of the dispatch before were not finite.
        """
        if self._clock is None:
            # The first dispatch has waited for the compiler: the speed is that of the others.
            jax.block_until_ready(means)
            self._clock = (end, time.perf_counter())
        self._write()
        self._window.append((end - start, means))
        if end % self._trainer.log_every == 0:
            self._close(end)

    def flush(self, end: int) -> None:
        """Write what there is up to the step `end`. Raises Diverged if it is not finite."""
        self._write()
        if self._window:
            self._close(end)
            self._write()

    def evaluated(self, step: int, results: dict[str, dict[str, float]]) -> None:
        """Write the metrics of each split that was evaluated. Raises Diverged if the loss of one is not finite."""
        for split, metrics in results.items():
            if not np.isfinite(metrics["loss"]):
                raise Diverged(f"the {split} loss at step {step} is {metrics['loss']}")
            self._add(step, split, metrics)
            self._progress.evaluation(step, {"split": split, **metrics})
        self._clock = (step, time.perf_counter())

    def evaluation_at(self, step: int) -> dict[str, Any] | None:
        """Return the record of the evaluation after `step` steps, or None."""
        found = [record for record in self._past if record["step"] == step and record["split"] == "test"]
        return found[-1] if found else None

    def summary(self) -> dict[str, Any]:
        """Return the last evaluation, the median speed of training and the time that the run took."""
        last = self._past[-1]["step"]
        results = {record["split"]: record for record in self._past if record["step"] == last}
        speeds = [record["images_per_second"] for record in self._past if record.get("images_per_second")]
        return summarize({split: metrics for split, metrics in results.items() if split != "train"}) | {
            "images_per_second": round(statistics.median(speeds), 1) if speeds else None,
            "wall_seconds": self._past[-1]["wall_seconds"],
        }

    @property
    def wall_seconds(self) -> float:
        """Seconds spent on the run, those of earlier starts up to their last record included."""
        return self._earlier_seconds + time.perf_counter() - self._started

    def _close(self, end: int) -> None:
        """Let the steps up to `end` make the next record."""
        # The rate is asked for here and not when it is written: behind the steps that come next it would wait for them.
        rate = self._learning_rate(jax.device_put(np.int32(end - 1)))
        # A GPU's loop keeps the host until it is done; elsewhere it is done when its metrics can be fetched.
        done = time.perf_counter() if all(x.is_ready() for x in self._window[-1][1].values()) else None
        self._late, self._window = (end, rate, done, self._window), []

    def _write(self) -> None:
        if self._late is None:
            return
        end, rate, done, window = self._late
        self._late = None
        rate, window = jax.device_get((rate, window))
        now = done or time.perf_counter()
        means = {name: np.concatenate([part[name][:steps] for steps, part in window]) for name in window[0][1]}
        failed = means.pop("failed")
        if failed.any():
            at = int(np.argmax(failed))
            step, loss, norm = end - len(failed) + at + 1, means["loss"][at], means["gradient_norm"][at]
            raise Diverged(f"at step {step} the loss is {loss} and the gradient's norm {norm}", step)
        step, since = self._clock
        self._clock = (end, now)
        speed = (end - step) * self._trainer.batch_size / (now - since) if end > step else None
        counted = {name: means.pop(name)[-1] for name in ("skipped", "loss_scale") if name in means}
        taken = np.isfinite(means["loss"]) & np.isfinite(means["gradient_norm"])
        metrics = {name: float(np.mean(values[taken])) if taken.any() else None for name, values in means.items()}
        metrics |= {name: value.item() for name, value in counted.items()}
        metrics |= {"learning_rate": float(rate), "images_per_second": speed}
        self._add(end, "train", metrics)
        self._progress.train(end, {name: value for name, value in metrics.items() if value is not None})

    def _add(self, step: int, split: str, metrics: dict[str, Any]) -> None:
        epoch = round(step / self._trainer.epoch_steps, 4)
        record = {"step": step, "epoch": epoch, "split": split, **metrics, "wall_seconds": round(self.wall_seconds, 3)}
        self._record.log(record)
        if self._loggers is not None:
            self._loggers.log(record)
        self._past.append(record)


def summarize(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what a summary says of an evaluation; the moving averages' metrics have names that end with "_ema"."""
    summary = {
        name + split.removeprefix("test"): metrics[name]
        for split, metrics in results.items()
        for name in ("top1", "top5", "loss", *own_metrics(metrics))
    }
    return summary | {"eval_examples": results["test"]["examples"]}
