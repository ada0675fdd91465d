"""What run directories say, read for a report: single runs, and the runs of a sweep by variant."""

import collections
import dataclasses
import os
import pathlib
import re
import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

from resnet_jax.config import MAY_CHANGE, RENAMED, upgraded
from resnet_jax.errors import UserError
from resnet_jax.lab.sweep import LABEL, MOST_VARIANTS, SWEEP_FILE
from resnet_jax.models.registry import named
from resnet_jax.run.archives import SUFFIX, is_folder, listed, shown
from resnet_jax.run.files import read_json
from resnet_jax.run.identity import covered, flattened
from resnet_jax.run.metrics import MOST_OF_METRICS, own_metrics, read_metrics
from resnet_jax.run.reading import read_file

ANALYSIS = "analysis"  # the folder of the measurements on a run, inside of it
RECORDS = (SWEEP_FILE, "config.json", "metrics.jsonl", "summary.json", "diverged.json", "failed.json")
MOST_OWN_METRICS = 10  # of a run, in a table
MOST_SERIES = 20  # of a sweep: a figure has a row of panels for each
IMAGENET_EXAMPLES = 50_000  # in its validation set, which identifies it whatever its folder is called


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
      path: its folder, or that which was packed into an archive.
      config: as `config.json` has it.
      metrics: the records of `metrics.jsonl`.
      summary: of a finished run; empty for one that is not.
      state: "done", "diverged", "failed" or "unfinished".
    """

    path: pathlib.Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    state: str

    @property
    def network(self) -> str:
        """The name of its network, with the fields in which it differs."""
        return named(self.config["model"]["name"], self.config["model"]["overrides"])

    @property
    def dataset(self) -> str:
        """What it was trained on, by the name that `published.csv` uses."""
        source = self.config["data"]["source"]
        if source.startswith("tfds:imagenet2012") or (
            source in ("folder", "archives", "records") and self.summary.get("eval_examples") == IMAGENET_EXAMPLES
        ):
            return "imagenet"
        return source

    @property
    def epochs(self) -> float:
        """How far it was trained."""
        return max((record["epoch"] for record in self.metrics), default=0.0)

    @property
    def test_error(self) -> float | None:
        """Top-1 error of the last evaluation, in percent; None for a run that is not done."""
        top1 = self.summary.get("top1")
        return None if top1 is None else 100 * (1 - top1)

    @property
    def own_metrics(self) -> dict[str, float]:
        """Means of the user's own metrics in the last evaluation, by name; empty where there is none."""
        last = next((record for record in reversed(self.metrics) if record["split"] == "test"), {})
        found = {name: value for name, value in own_metrics(last).items() if value is not None and _is_number(value)}
        return dict(sorted(found.items())[:MOST_OWN_METRICS])

    @property
    def training_loss(self) -> float | None:
        """Mean training loss over the last epoch; None where there is none."""
        losses = [
            record["loss"]
            for record in self.metrics
            if record["split"] == "train" and record["epoch"] > self.epochs - 1 and record["loss"] is not None
        ]
        return statistics.mean(losses) if losses else None


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant of a study with its runs; the other fields are those of `sweep.Variant`."""

    label: str
    series: str
    x: float | None
    published: str
    runs: list[Run]

    @property
    def done(self) -> list[Run]:
        """The runs that are finished."""
        return [run for run in self.runs if run.state == "done"]


@dataclasses.dataclass(frozen=True)
class Study:
    """A sweep and its runs; the texts are those of `sweep.sweep`."""

    path: pathlib.Path
    title: str
    question: str
    source: str
    finding: str
    axis: str
    rows: list[Row]


def read_run(folder: pathlib.Path) -> Run:
    """Return the run in a folder or an archive, finished or not.

    Raises UserError: there is none, or its files are damaged.
    """
    config = read_json(folder / "config.json")
    if not _is_config(config):
        raise UserError(f"{folder} holds no run, or its config.json is damaged")
    config = upgraded(config)
    metrics, (_, files) = [], listed(folder)
    if "metrics.jsonl" in files:
        metrics = read_metrics(folder / "metrics.jsonl", MOST_OF_METRICS)
    for record in metrics:
        if not _is_number(record.get("epoch")) or not all(
            name in record and (record[name] is None or _is_number(record[name])) for name in ("loss", "top1")
        ):
            raise UserError(f"{folder / 'metrics.jsonl'} has records without an epoch, a loss or an accuracy")
    summary = read_json(folder / "summary.json")
    if summary is not None and _is_summary(summary):
        return Run(shown(folder), config, metrics, summary, "done")
    if "summary.json" in files:
        raise UserError(f"{folder / 'summary.json'} is damaged")
    state = next((state for state in ("diverged", "failed") if f"{state}.json" in files), "unfinished")
    return Run(shown(folder), config, metrics, {}, state)


def read_study(folder: pathlib.Path, notes: list[str]) -> Study:
    """Return the sweep in a folder or an archive, with its runs; what is left out is added to `notes`.

    Raises UserError: the description of the sweep is damaged.
    """
    record: Any = read_json(folder / SWEEP_FILE)
    try:
        texts = {name: str(record[name]) for name in ("title", "question", "source", "finding", "axis")}
        variants = [
            (str(each["label"]), str(each["series"]), each["x"], str(each["published"]), dict(each["fields"]))
            for each in record["variants"]
        ]
        assert all(x is None or _is_number(x) for _, _, x, _, _ in variants)
        assert all(re.fullmatch(LABEL, label) for label, *_ in variants)
        assert len({label for label, *_ in variants}) == len(variants) > 0
        assert len(variants) <= MOST_VARIANTS and len({series for _, series, *_ in variants}) <= MOST_SERIES
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{folder / SWEEP_FILE} is damaged: start the sweep again, which rewrites it") from error
    turned = {"training.seed", *(RENAMED.get(field, field) for *_, fields in variants for field in fields)}
    found = {label: list(_readable(_seeds(folder / label), notes)) for label, *_ in variants}
    strange = _of_other_configs([run for runs in found.values() for run in runs], turned, notes)
    rows = [
        Row(label, series, x, published, [run for run in found[label] if run.path not in strange])
        for label, series, x, published, _ in variants
    ]
    return Study(shown(folder), **texts, rows=rows)


class Found(NamedTuple):
    """What folders hold.

    Attributes:
      studies: the sweeps.
      runs: the runs that belong to no sweep.
      measurements: the records of `analyze` by their files.
    """

    studies: list[Study]
    runs: list[Run]
    measurements: dict[pathlib.Path, dict[str, Any]]


def find(paths: Iterable[str | os.PathLike], notes: list[str]) -> Found:
    """Return the sweeps, other runs and measurements in folders and archives; what is left out is added to `notes`.

    Raises UserError: a folder does not exist, or holds none of them.
    """
    studies, runs, measurements = {}, {}, {}
    for given in paths:
        path = pathlib.Path(given)
        if not is_folder(path):
            raise UserError(f"there is no folder {path}: name the folders of runs or of sweeps.")
        before = len(studies) + len(runs) + len(measurements) + len(notes)
        folders = [path]
        while folders:
            here, below = folders.pop(), []
            try:
                below, files = listed(here)
                if SWEEP_FILE in files:
                    studies[here.resolve()] = read_study(here, notes)
                elif "config.json" in files:
                    runs[here.resolve()] = read_run(here)
                else:
                    measurements |= read_measurements(here, files)
                    folders += reversed(list(_followed(here, below, notes)))
                    continue
            except UserError as error:
                notes.append(f"{error}.".replace("..", "."))
            if ANALYSIS in below:
                measurements |= read_measurements(here / ANALYSIS, listed(here / ANALYSIS)[1])
        all_found = len(studies) + len(runs) + len(measurements) + len(notes)
        if all_found == before and path.resolve() not in studies | runs:
            raise UserError(f"there is no run in {path}: name the folders of runs or of sweeps.")
    return Found(list(studies.values()), list(runs.values()), measurements)


def read_measurements(folder: pathlib.Path, files: Iterable[str]) -> dict[pathlib.Path, dict[str, Any]]:
    """Return those of the files that are records of `analyze`."""
    records = {shown(folder) / name: read_json(folder / name) for name in sorted(files) if name.endswith(".json")}
    return {
        file: record
        for file, record in records.items()
        if isinstance(record, dict) and isinstance(record.get("what"), str) and isinstance(record.get("networks"), list)
    }


def records(folder: pathlib.Path) -> dict[str, bytes]:
    """Return the files of a folder's runs that a report reads, by their names below the folder.

    Raises UserError: one cannot be read.
    """
    files = [file for file in sorted(folder.rglob("*.json*")) if file.name in RECORDS or file.parent.name == ANALYSIS]
    try:
        return {file.relative_to(folder).as_posix(): read_file(file, MOST_OF_METRICS) for file in files}
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read ({error.strerror}): mend or move it.") from error


def _followed(folder: pathlib.Path, below: list[str], notes: list[str]) -> Iterable[pathlib.Path]:
    """Yield the folders and archives in a folder that a report reads: no link, and no archive beside its folder."""
    for name in below:
        if name.removesuffix(SUFFIX) != name and name.removesuffix(SUFFIX) in below:
            notes.append(f"{folder / name} is left out: the folder beside it is read.")
        elif not (folder / name).is_symlink():
            yield folder / name


def _seeds(folder: pathlib.Path) -> list[pathlib.Path]:
    below, files = listed(folder)
    return [folder / name for name in sorted([*below, *files]) if name.startswith("seed")]


def _readable(folders: Iterable[pathlib.Path], notes: list[str]) -> Iterable[Run]:
    for folder in folders:
        try:
            yield read_run(folder)
        except UserError as error:
            notes.append(f"{error}.")


def _of_other_configs(runs: list[Run], turned: set[str], notes: list[str]) -> set[pathlib.Path]:
    """Return the runs whose configs differ from most others' in a field that the sweep does not turn."""

    def kept(run):
        fields = flattened(run.config).items()
        return {name: str(value) for name, value in fields if name not in turned and not covered(name, MAY_CHANGE)}

    configs = {run.path: kept(run) for run in runs}
    if not configs:
        return set()
    usual = dict(collections.Counter(tuple(sorted(config.items())) for config in configs.values()).most_common(1)[0][0])
    strange = set()
    for path, config in configs.items():
        if differing := sorted(name for name in usual.keys() | config.keys() if usual.get(name) != config.get(name)):
            strange.add(path)
            notes.append(f"{path} is left out: its {differing[0]} is not that of the sweep's other runs.")
    return strange


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a number that can be shown and drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _is_summary(summary: Any) -> bool:
    if not isinstance(summary, dict) or not _is_number(summary.get("top1")):
        return False
    numbers = ("params", "multiply_adds", "wall_seconds", "eval_examples")
    return (
        all(_is_number(summary.get(name, 0)) for name in numbers)
        and isinstance(summary.get("hardware", ""), str)
        and isinstance(summary.get("versions", {}), dict)
    )


def _is_config(config: Any) -> bool:
    named = ("model", "data", "training")
    groups = isinstance(config, dict) and all(isinstance(config.get(group), dict) for group in named)
    return (
        groups
        and isinstance(config["model"].get("name"), str)
        and isinstance(config["model"].get("overrides"), dict)
        and isinstance(config["data"].get("source"), str)
    )
