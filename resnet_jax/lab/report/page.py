"""The report: studies, runs, and the published tables with ours beside them, as the parts of one page."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterable, Sequence

from resnet_jax.errors import UserError
from resnet_jax.lab.report.analysis import draw_analysis
from resnet_jax.lab.report.analysis_tables import table
from resnet_jax.lab.report.document import Figure, Heading, Part, Table, Text
from resnet_jax.lab.report.published import Published, find_published, read_published
from resnet_jax.lab.report.runs import Found, Row, Run, Study
from resnet_jax.lab.report.studies import draw_learning_curves, draw_results, mean_and_deviation
from resnet_jax.run.drawing import STYLES

LONGEST_TABLE = 30  # rows of a measurement
TITLES = {"imagenet": "ImageNet, top-1", "cifar10": "CIFAR-10, top-1", "cifar100": "CIFAR-100, top-1"}


def page(found: Found, notes: list[str]) -> list[Part]:
    """Return the parts of the report of what `runs.find` found; what is left out is reported, and added to `notes`."""
    studies, runs, _ = found
    parts: list[Part] = [Heading("Residual networks: what was run, beside what was published", 1)]
    measured = measurement_parts(found.measurements, notes)
    if notes:
        parts += [Heading("Left out"), Text(" ".join(notes))]
    for study in studies:
        parts += study_parts(study)
    if runs:
        parts += [Heading("Runs"), runs_table(runs), *runs_curves(runs)]
    parts += measured
    everything = [*runs, *(run for study in studies for row in study.rows for run in row.runs)]
    for dataset in TITLES:
        if any(run.dataset == dataset for run in everything):
            parts += published_parts(dataset, everything)
    return with_own_names(parts)


def with_own_names(parts: Sequence[Part]) -> list[Part]:
    """Return the parts with a number behind the name of each figure whose name another one before it has."""
    named: list[Part] = []
    used: set[str] = set()
    for part in parts:
        if isinstance(part, Figure):
            numbers = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
            name = next(name for number in numbers if (name := part.name + number) not in used)
            used.add(name)
            part = dataclasses.replace(part, name=name)
        named.append(part)
    return named


def study_parts(study: Study) -> list[Part]:
    """Return heading, question, table and figures of a study."""
    known = {row.label: result for row in study.rows if (result := _published(study, row)) is not None}
    parts = [
        Heading(study.title),
        Text(f"{study.question} {study.source}: {study.finding}"),
        study_table(study, known),
    ]
    done = [run for row in study.rows for run in row.done]
    if not done:
        return [*parts, Text("No run of it is done yet.")]
    source = {run.config["data"]["source"] for run in done}
    hardware = sorted({run.summary.get("hardware", "hardware not recorded") for run in done})
    parts.append(
        Text(
            f"Top-1 error on the test images of {', '.join(sorted(source))} after the last epoch, and training loss "
            "over the last epoch: mean ± standard deviation over seeds. "
            f"Run on {'; '.join(hardware)}; JAX {', '.join(sorted({_jax(run) for run in done}))}."
        )
    )
    if sources := sorted({result.source for result in known.values()}):
        parts.append(Text(f"Published: {'; '.join(sources)}."))
    name = re.sub(r"\W+", "_", study.path.name)
    parts.append(
        Figure(
            f"{name}_results",
            draw_results(study, known),
            f"{study.title}. Points: means over seeds; bars: standard deviation; dots: runs"
            f"{'; hollow: published' if known else ''}.",
        )
    )
    if any(run.metrics for run in done):
        parts.append(
            Figure(
                f"{name}_curves",
                draw_learning_curves(study),
                f"{study.title}: learning curves. Lines: means over seeds; bands: least to greatest.",
            )
        )
    return parts


def study_table(study: Study, known: dict[str, Published]) -> Table:
    """Return a row a variant, without the columns that no variant has a value for."""
    header = (
        *("variant", "#parameters", "#multiply-adds", "#runs", "#error (%)", "#training loss"),
        *("#published (%)", "#difference", "within its spread", "#epochs", "#seconds a run"),
    )
    own = own_names([run for row in study.rows for run in row.done])
    header = (*header, *(f"#{name}" for name in own))
    rows = [(*_study_row(row, known.get(row.label)), *own_cells(row.done, own)) for row in study.rows]
    columns = zip(header, *rows, strict=True)
    header, *rows = zip(*(column for column in columns if any(column[1:])), strict=True)
    return Table(header, rows)


def measurement_parts(records: dict[pathlib.Path, dict], notes: list[str]) -> list[Part]:
    """Return the figure of each measurement, and its table if that is short; damaged records are added to `notes`."""
    parts: list[Part] = []
    for file, record in records.items():
        try:
            figure = draw_analysis(record)
            header, rows = table(record)
            networks = ", ".join(str(network["name"]) for network in record["networks"])
            name = re.sub(r"\W+", "_", "_".join([*file.parts[-3:-1], file.stem]))
            title = f"{record['what'].replace('_', ' ')} ({networks})"
            parts += [Heading(title, 3), Figure(name, figure, f"{title}: {file}.")]
            if len(rows) <= LONGEST_TABLE:  # the figure shows what has more
                names = [header[0], *(f"#{name}" for name in header[1:])]
                parts.append(Table(names, [[str(cell) for cell in row] for row in rows]))
        except (UserError, KeyError, TypeError, ValueError, IndexError) as error:
            notes.append(f"{file} is left out: {str(error).rstrip('.')}.")
    return [Heading("Measurements on networks"), *parts] if parts else []


def own_names(runs: Iterable[Run]) -> list[str]:
    """Return the names of the user's own metrics that some runs have."""
    return sorted({name for run in runs for name in run.own_metrics})


def own_cells(runs: Sequence[Run], names: Iterable[str]) -> list[str]:
    """Return the mean over runs of each of the user's own metrics, empty where no run has it."""
    values = [[run.own_metrics[name] for run in runs if name in run.own_metrics] for name in names]
    return [_spread(of_runs, ".4f") if of_runs else "" for of_runs in values]


def runs_table(runs: Sequence[Run]) -> Table:
    """Return a row a run."""
    own = own_names(runs)
    rows = [
        (
            str(run.path),
            run.network,
            run.dataset,
            str(run.config["training"].get("seed", "")),
            f"{run.epochs:.4g}",
            _percent(run.test_error),
            _loss(run.training_loss),
            *own_cells([run], own),
            run.state,
            _seconds(run),
            run.summary.get("hardware", ""),
        )
        for run in runs
    ]
    header = ("run", "network", "data", "#seed", "#epochs", "#error (%)", "#training loss")
    return Table((*header, *(f"#{name}" for name in own), "state", "#seconds", "hardware"), rows)


def runs_curves(runs: Sequence[Run]) -> list[Figure]:
    """Return the learning curves of the finished runs, a few in a figure, and those of one data set together."""
    done = [run for run in runs if run.state == "done" and run.metrics]
    figures = []
    for dataset in dict.fromkeys(run.dataset for run in done):
        rows = [Row(_short(run), dataset, None, "", [run]) for run in done if run.dataset == dataset]
        for first in range(0, len(rows), len(STYLES)):
            shown = Study(pathlib.Path(), "", "", "", "", "", rows[first : first + len(STYLES)])
            name = re.sub(r"\W+", "_", f"runs_{dataset}_{first // len(STYLES) + 1}")
            figures.append(Figure(name, draw_learning_curves(shown), f"Learning curves of the runs on {dataset}."))
    return figures


def _short(run: Run) -> str:
    """The last two names of a run's path."""
    return "/".join(run.path.parts[-2:])


def published_parts(dataset: str, runs: Sequence[Run] | None) -> list[Part]:
    """Return a table of all that was published on a dataset, with the runs of the same networks beside it.

    Args:
      dataset: one of `TITLES`.
      runs: None leaves their columns out.
    """
    header = ("network", "#published (%)", "#spread", "#epochs", "source")
    ours = ("#ours (%)", "#runs", "#our epochs", "#difference")
    rows = []
    for result in read_published():
        if result.dataset != dataset:
            continue
        spread = "" if result.spread is None else f"{100 * result.spread:.2f}"
        epochs = "" if result.epochs is None else f"{result.epochs:g}"
        row = (result.key, f"{100 * result.top1:.2f}", spread, epochs, result.source)
        rows.append(row if runs is None else (*row, *_ours(result, runs)))
    return [Heading(TITLES[dataset]), Table(header if runs is None else (*header, *ours), rows)]


def _study_row(row: Row, result: Published | None) -> tuple[str, ...]:
    done = row.done
    errors = [run.test_error for run in done if run.test_error is not None]
    losses = [run.training_loss for run in done if run.training_loss is not None]
    return (
        row.label,
        f"{done[0].summary['params']:,}" if done and "params" in done[0].summary else "",
        f"{done[0].summary['multiply_adds'] / 1e6:,.1f} M" if done and "multiply_adds" in done[0].summary else "",
        _count(row),
        _spread(errors, ".2f"),
        _spread(losses, ".3g", ".1g"),
        f"{100 * (1 - result.top1):.2f}" if result else "",
        *_difference(errors, result),
        f"{max(run.epochs for run in done):.4g}" if done else "",
        f"{sum(run.summary.get('wall_seconds', 0) for run in done) / len(done):.0f}" if done else "",
    )


def _difference(errors: list[float], result: Published | None) -> tuple[str, str]:
    """Return ours less theirs in points of error, and whether it is within two published standard deviations."""
    if not errors or result is None:
        return "", ""
    difference = round(mean_and_deviation(errors)[0] - 100 * (1 - result.top1), 2) + 0.0  # without a sign of zero
    if result.spread is None:
        return f"{difference:+.2f}", "none published"
    return f"{difference:+.2f}", "yes" if abs(difference) <= 200 * result.spread else "no"


def _ours(result: Published, runs: Sequence[Run]) -> tuple[str, ...]:
    found = result.dataset, result.network
    same = [run for run in runs if (run.dataset, run.network) == found and run.state == "done"]
    if not same:
        return "", "", "", ""
    accuracies = [100 - run.test_error for run in same if run.test_error is not None]
    mean, _ = mean_and_deviation(accuracies)
    epochs = "/".join(dict.fromkeys(f"{run.epochs:.4g}" for run in same))
    return _spread(accuracies, ".2f"), str(len(same)), epochs, f"{mean - 100 * result.top1:+.2f}"


def _published(study: Study, row: Row) -> Published | None:
    """Return what was published of a variant on the data that it was run on."""
    datasets = {run.dataset for run in row.done}
    if not row.published or len(datasets) != 1:
        return None
    return find_published(row.published, datasets.pop(), study.source.partition(" (")[0])


def _count(row: Row) -> str:
    """How many runs are done, and what has become of the others."""
    others = [run.state for run in row.runs if run.state != "done"]
    counts = [f"{others.count(state)} {state}" for state in dict.fromkeys(others)]
    return ", ".join([str(len(row.done)), *counts])


def _spread(values: list[float], form: str, deviation_form: str | None = None) -> str:
    if not values:
        return ""
    mean, deviation = mean_and_deviation(values)
    return f"{mean:{form}}" if deviation is None else f"{mean:{form}} ± {deviation:{deviation_form or form}}"


def _percent(error: float | None) -> str:
    return "" if error is None else f"{error:.2f}"


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.3g}"


def _seconds(run: Run) -> str:
    return f"{run.summary['wall_seconds']:.0f}" if "wall_seconds" in run.summary else ""


def _jax(run: Run) -> str:
    return str(run.summary.get("versions", {}).get("jax", "unknown"))
