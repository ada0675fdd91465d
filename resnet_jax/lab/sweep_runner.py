"""Running a sweep: what is not done yet, one run after the other, where a run that fails does not stop the rest."""

import json
import pathlib
import statistics
import traceback
from typing import Any, cast

import jax
from ml_collections import ConfigDict

from resnet_jax import runner
from resnet_jax.config import MAY_CHANGE, to_dict, upgraded
from resnet_jax.errors import ConfigError, Diverged, InUse, UserError
from resnet_jax.lab.sweep import SWEEP_FILE, Trial, chosen, description, trials
from resnet_jax.run import tables
from resnet_jax.run.files import read_json, write_atomically
from resnet_jax.run.interrupts import Interrupted
from resnet_jax.run.workdir import RunDirectory

FAILED_FILE = "failed.json"


def run_sweep(config: ConfigDict, workdir: str | None, mode: str, which: str | None) -> int:
    """Train the runs of a sweep that are not done, or list them ("train" or "list"); return how many have failed.

    A run that diverged is not tried again: it would diverge once more. One that failed otherwise is.

    Args:
      config: of a sweep.
      workdir: its folder, in which each run has its own: LABEL/seedN.
      mode: "train" or "list".
      which: the number, the name or the variant of the runs to take; None takes all.

    Raises:
      UserError: the sweep cannot be run at all.
      Interrupted: it was asked to stop; the run that it was at has saved its state.
    """
    if mode not in ("train", "list"):
        raise ConfigError(f"--mode={mode} needs one run of this sweep: name its folder by --workdir.")
    if workdir is None:
        raise ConfigError("no folder is given for the sweep: name one by --workdir=DIR, such as --workdir=runs/depth.")
    taken = chosen(trials(config), which)
    sweep: Any = config
    parallel = sweep.base.parallel
    if mode == "train" and len(taken) > 1 and (parallel.hosts > 1 or parallel.coordinator == "auto"):
        raise ConfigError("hosts join for one run only: name one by --variant, as --mode=list numbers them.")
    folder = pathlib.Path(workdir)
    for trial in taken:  # before any of them is run
        record = RunDirectory(folder / trial.name, upgrade=upgraded)
        # With weights to begin with, a run's config has what these expect too: it is compared when the run starts.
        if record.config.exists() and cast(Any, trial.config).training.init_from is None:
            record.check(to_dict(trial.config), MAY_CHANGE)
    there = read_json(folder / SWEEP_FILE)
    if isinstance(there, dict) and there.get("title") != config.title:
        raise ConfigError(f"{folder} holds another sweep ({str(there.get('title'))!a}): choose another --workdir.")
    if mode == "train":
        RunDirectory(folder).create()
        described = json.loads(json.dumps(description(config)))
        if read_json(folder / SWEEP_FILE) != described:  # else other processes may be about to write the same
            write_atomically(folder / SWEEP_FILE, json.dumps(described, indent=2).encode() + b"\n")
        for trial in taken:
            if state(folder / trial.name) in ("done", "diverged"):
                continue
            print(f"{trial.name}: run {trial.number + 1} of {len(trials(config))}", flush=True)
            run_trial(trial, folder / trial.name)
    show(sweep.title, taken, folder)
    if mode == "train":
        print(f"python -m resnet_jax report {folder} makes the tables and figures.")
    return sum(state(folder / trial.name) in ("diverged", "failed") for trial in taken) if mode == "train" else 0


def run_trial(trial: Trial, folder: pathlib.Path) -> None:
    """Train one run to its end; a failure is printed, and kept in `failed.json`.

    Raises Interrupted: the run was asked to stop.
    """
    failed = folder / FAILED_FILE
    failed.unlink(missing_ok=True)
    try:
        runner.run(trial.config, str(folder), "train")
    except Interrupted:
        raise
    except InUse as error:
        print(f"{trial.name} is left to another process: {error}", flush=True)
    except Diverged as error:
        print(f"{trial.name} diverged: {error}", flush=True)
    except UserError as error:
        _keep(failed, str(error), "")
    except Exception as error:  # The rest of the sweep is worth more than a clean end: an accelerator may be full.
        _keep(failed, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", traceback.format_exc())
    jax.clear_caches()  # the next variant cannot use the programs of this one


def state(folder: pathlib.Path) -> str:
    """Return how far the run in a folder is: "done", "diverged", "failed", "begun" or "new"."""
    for file, reached in (
        ("summary.json", "done"),
        ("diverged.json", "diverged"),
        (FAILED_FILE, "failed"),
        ("config.json", "begun"),
    ):
        if (folder / file).exists():
            return reached
    return "new"


def show(title: str, taken: list[Trial], folder: pathlib.Path) -> None:
    """Print how far each variant is and what its runs have reached."""
    rows = []
    for label in dict.fromkeys(trial.label for trial in taken):
        mine = [trial for trial in taken if trial.label == label]
        states = [state(folder / trial.name) for trial in mine]
        reached = [accuracy for trial in mine if (accuracy := _top1(folder / trial.name)) is not None]
        rows.append(
            (
                " ".join(str(trial.number) for trial in mine),
                label,
                " ".join(str(trial.seed) for trial in mine),
                ", ".join(f"{states.count(each)} {each}" for each in dict.fromkeys(states)),
                _mean(reached),
            )
        )
    tables.show(("numbers", "variant", "seeds", "runs", "top-1 (%)"), rows, title=title)


def _keep(file: pathlib.Path, error: str, trace: str) -> None:
    print(f"{file.parent} failed: {error}", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps({"error": error, "traceback": trace}, indent=2).encode() + b"\n")


def _top1(folder: pathlib.Path) -> float | None:
    summary: Any = read_json(folder / "summary.json")
    return summary.get("top1") if isinstance(summary, dict) else None


def _mean(accuracies: list[float]) -> str:
    if not accuracies:
        return ""
    spread = f" ± {100 * statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"{100 * statistics.mean(accuracies):.2f}{spread}"
