"""A run, from its config and its folder: what `main.py` and `resnet_jax.train` start."""

import contextlib
import dataclasses
import json
import time
from typing import Any

import absl.logging
import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from resnet_jax.config import MAY_CHANGE, Config, typed_config, upgraded
from resnet_jax.errors import CheckpointError, ConfigError, Diverged, MissingLibrary, UserError, named_extra
from resnet_jax.models.summary import costs
from resnet_jax.run import tables
from resnet_jax.run.checkpoints import Checkpoints, check_shapes
from resnet_jax.run.compilation import keep_programs
from resnet_jax.run.distributed import joined
from resnet_jax.run.hardware import hardware
from resnet_jax.run.identity import flattened
from resnet_jax.run.interrupts import Interrupts
from resnet_jax.run.loggers import Loggers, create_loggers
from resnet_jax.run.metrics import read_metrics
from resnet_jax.run.progress import Progress, final_line
from resnet_jax.run.workdir import RunDirectory
from resnet_jax.setup import build
from resnet_jax.training import loop
from resnet_jax.training.log import Log, summarize
from resnet_jax.training.replay import replay
from resnet_jax.training.trainer import Trainer
from resnet_jax.weights.presets import RUN_FILE


def train(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Train the run of a config in a folder, from its newest checkpoint if there is one; return its summary.

    Args:
      config: such as `default_config()`, or what `get_config()` of a file in `configs/` returns.
      workdir: the folder of the run, which must not hold a run of another config or other data.

    Raises: as `run`.
    """
    return run(config, workdir, "train")


def evaluate(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run; return the summary.

    Weights that `training.init_from` names are evaluated instead, unless the run in the folder began with them.

    The summary has `top1` and `top5` as fractions, `loss`, `eval_examples`, `steps`, `params`, `wall_seconds` and the
    metrics of `evaluation.metrics`, and is also written to `evaluation.json`. Raises: as `run`.
    """
    return run(config, workdir, "eval")


def run(config: ConfigDict, workdir: str | None, mode: str) -> dict[str, Any]:
    """Train, evaluate or replay ("train", "eval" or "replay"); return the summary, which is also written and shown.

    Raises:
      UserError: config, data, checkpoints or disk are not what the run needs.
      Diverged: the loss or the gradient became NaN or infinite.
      Interrupted: the run was asked to stop, and has saved its state.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax logs each of its steps, and each error that it raises too.
    keep_programs()
    if workdir is None:
        raise ConfigError("no folder is given for the run: name one by --workdir=DIR, such as --workdir=runs/first.")
    settings = typed_config(config)
    parallel = settings.parallel
    with joined(parallel.coordinator, parallel.hosts, parallel.host, parallel.heartbeat_seconds):
        record = RunDirectory(workdir, writes=jax.process_index() == 0, upgrade=upgraded)
        trainer = build(config, mode, record.begun())
        if jax.process_index() == 0:
            print(*trainer.data, sep="\n", flush=True)
        with contextlib.closing(trainer), contextlib.closing(record), Interrupts() as interrupts:
            start = {"train": _train, "eval": _evaluate, "replay": _replay}[mode]
            return start(settings, trainer, record, interrupts)


def _train(config: Config, trainer: Trainer, record: RunDirectory, interrupts: Interrupts) -> dict[str, Any]:
    """Train from the newest checkpoint, or from the start, to the end."""
    loggers = Loggers(create_loggers(config.logging.loggers) if record.writes else {})
    state = trainer.initial_state()
    data = trainer.identity() if record.writes else None
    record.open_for(trainer.config, MAY_CHANGE, data)
    check_shapes(record.checkpoints, state)
    params = parameter_overview.count_parameters(state.params)
    keep = config.checkpoint
    with (
        contextlib.closing(Checkpoints(record.checkpoints, keep.keep_latest, keep.keep_best)) as checkpoints,
        contextlib.closing(loggers),
    ):
        restored = checkpoints.restore(state)
        # What can refuse the start was asked; from here on the folder is written.
        record.begin(trainer.config, data)
        record.write_text(RUN_FILE, trainer.preset.write())
        overview = parameter_overview.get_parameter_overview(state.params, include_stats=False)
        record.write_text("parameters.txt", overview)
        show_parameters(config.model.name, state.params)
        state = state if restored is None else restored
        first = int(state.step)
        record.rewind(first)
        loggers.start(trainer.config, record.path)
        try:
            with Progress(trainer.total_steps, trainer.epoch_steps, first) as progress:
                if first:
                    progress.note(f"Resuming at step {first} of the run in {record.path}.")
                log = Log(trainer, record, progress, loggers)
                loop.train(trainer, state, first, log, checkpoints, interrupts)
        except Diverged as error:
            checkpoints.wait()
            record.write_text("diverged.json", json.dumps({"step": error.step, "error": str(error)}))
            raise Diverged(f"{error}; {what_to_try(checkpoints.steps)}", error.step) from error
        finally:
            draw(record, f"{config.model.name} on {config.data.source}")
    summary = log.summary() | {
        "steps": trainer.total_steps,
        "params": params,
        "multiply_adds": costs(trainer.model, trainer.image_shape).macs,
        "hardware": hardware(trainer.devices.count),
    }
    record.write_summary(summary)
    print(final_line(summary, record.path))
    if interrupts.requested:
        interrupts.stop("after the last step")
    return summary


def draw(record: RunDirectory, title: str) -> None:
    """Draw the curves of what was measured, on the host that writes, if it can be done."""
    if jax.process_index() != 0:
        return
    # Whatever ended the run is what the user must hear of, and not a picture.
    with contextlib.suppress(UserError):
        try:
            with named_extra():
                from resnet_jax.run.curves import draw_curves
        except MissingLibrary as error:
            print(f"No curves were drawn: {error}")
            return
        draw_curves(read_metrics(record.metrics), record.curves, title)


def _evaluate(config: Config, trainer: Trainer, record: RunDirectory, interrupts: Interrupts) -> dict[str, Any]:
    """Evaluate the newest checkpoint of the run, or the weights `training.init_from` where it did not begin with them.

    Writes `evaluation.json` to the run's folder.
    """
    started = time.perf_counter()
    weights = config.training.init_from
    of_run = weights is None or weights == flattened(record.begun() or {}).get("training.init_from")
    if of_run:
        record.check(trainer.config, MAY_CHANGE, {"classes": list(trainer.preset.classes)})
        trainer = dataclasses.replace(trainer, init_from=None)  # which may be gone by now
    state = trainer.initial_state()
    if of_run:
        with contextlib.closing(Checkpoints(record.checkpoints, read_only=True)) as checkpoints:
            state = checkpoints.restore(state)
        if state is None:
            raise CheckpointError(
                f"{record.path} has no checkpoint yet: train for longer, or name weights by training.init_from."
            )
    results = loop.evaluator(trainer, interrupts)(state)
    if not results:
        interrupts.stop("before all examples were counted")
    summary = summarize(results) | {
        "steps": int(state.step),
        "params": parameter_overview.count_parameters(state.params),
        "wall_seconds": round(time.perf_counter() - started, 3),
    }
    record.create()
    record.write_summary(summary, "evaluation.json")
    print(final_line(summary, record.path, "evaluation.json is"))
    return summary


def _replay(config: Config, trainer: Trainer, record: RunDirectory, interrupts: Interrupts) -> dict[str, Any]:
    """Take the step at which the run diverged once more, from the newest checkpoint or the start.

    Writes what it began with to `diverged.npz` and what came out to `replay.json`, both in the run's folder.
    """
    record.check(trainer.config, MAY_CHANGE, trainer.identity())
    step = record.diverged_at()
    state = trainer.initial_state()
    with contextlib.closing(Checkpoints(record.checkpoints, read_only=True)) as checkpoints:
        restored = checkpoints.restore(state)
    before, metrics, non_finite = replay(trainer, state if restored is None else restored, step)
    record.write_arrays("diverged.npz", before)
    result = {"step": step, **metrics, "spoiled": len(non_finite), "first_spoiled": non_finite[:3]}
    record.write_summary(result, "replay.json")
    print(
        f"Step {step} gives a loss of {metrics['loss']} and a gradient of norm {metrics['gradient_norm']}, which "
        f"spoils {len(non_finite)} arrays of parameters; what it began with is in {record.path / 'diverged.npz'}"
    )
    return result


def what_to_try(saved: list[int]) -> str:
    """Return what to do about a run that diverged and that has these checkpoints."""
    last = f"the last good checkpoint is that of step {saved[-1]}" if saved else "there is no checkpoint yet"
    return (
        f"{last}. Try, in a new --workdir, a lower optimizer.learning_rate, a longer schedule.warmup_epochs, "
        "optimizer.clip_norm=1, or model.dtype=float32; --mode=replay takes the step once more and keeps its state and "
        "batch."
    )


def show_parameters(name: str, params: Any) -> None:
    """Print how many parameters each part of the network has."""
    parts = {}
    for part, arrays in params.items():
        stage = part.partition("_")[0]
        parts[stage] = parts.get(stage, 0) + parameter_overview.count_parameters(arrays)
    order = sorted(parts, key=lambda stage: ({"stem": 0, "last": 2, "head": 3}.get(stage, 1), stage))
    rows = [(stage, f"{parts[stage]:,}") for stage in order]
    total = ("all", f"{sum(parts.values()):,}")
    tables.show(("part", "#parameters"), rows, title=f"Parameters of {name}", total=total)
