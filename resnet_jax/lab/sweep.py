"""What a sweep is: a base config, its variants and seeds, and the runs that these make."""

import copy
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from resnet_jax.config import RENAMED
from resnet_jax.errors import ConfigError, nearest

# Beside its runs, a sweep's folder holds this: what was asked, of which variants, and what the source found.
SWEEP_FILE = "sweep.json"
LABEL = r"[\w+=-]{1,60}"  # of a variant: the name of its folder
MOST_VARIANTS = 200  # which a table and a figure can show


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of a sweep's table.

    Attributes:
      label: names it, its folder and its row.
      fields: dotted fields of the config to the values that make the variant.
      series: its line in the figure.
      x: where on that line; None where the axis is one of labels.
      published: its row of `lab/report/published.csv`: the name of a network, and after a blank the fields in
        which the published one differs, such as "resnet34 shortcut=C".
    """

    label: str
    fields: dict[str, Any]
    series: str = ""
    x: float | None = None
    published: str = ""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep: a variant with a seed.

    Attributes:
      number: from 0, by seed and then by variant, so that the first ones make a whole table.
      label: of the variant.
      seed: `training.seed`.
      config: of the run.
    """

    number: int
    label: str
    seed: int
    config: ConfigDict

    @property
    def name(self) -> str:
        """The run's folder inside the sweep's."""
        return f"{self.label}/seed{self.seed}"


def sweep(
    base: ConfigDict,
    variants: Sequence[Variant],
    *,
    title: str,
    question: str,
    source: str,
    finding: str,
    axis: str,
    seeds: tuple[int, ...] = (0, 1, 2),
) -> ConfigDict:
    """Return the config of a sweep: what `get_config` of a file in `configs/sweeps/` returns.

    Args:
      base: the config that the variants change.
      variants: of different labels.
      title: heads its page.
      question: what it answers, in one sentence.
      source: the paper with its tables and figures.
      finding: what the paper found, in one sentence.
      axis: the quantity that `x`, or else the labels, stand for.
      seeds: each variant is run with each of them.
    """
    labels = [variant.label for variant in variants]
    if len(labels) > MOST_VARIANTS:
        raise ConfigError(f"a sweep has {len(labels)} variants: make several of at most {MOST_VARIANTS} of it.")
    for label in labels:
        if labels.count(label) > 1 or label.isdigit() or not re.fullmatch(LABEL, label):
            raise ConfigError(
                f"a variant is called {label!r}: use each label once, of at most 60 letters, digits and _+=-, not of "
                "digits alone."
            )
    config = ConfigDict(dict(title=title, question=question, source=source, finding=finding, axis=axis, seeds=seeds))
    config.base = base
    config.variants = tuple(variants)
    return config.lock()


def is_sweep(config: ConfigDict) -> bool:
    """Return whether a config is one of a sweep and not of a run."""
    return "variants" in config and "base" in config


def description(config: ConfigDict) -> dict[str, Any]:
    """Return all that a report needs to know of a sweep, as JSON values: its config without the base."""
    described = {name: config[name] for name in ("title", "question", "source", "finding", "axis", "seeds")}
    variants: Any = config.variants
    return described | {"variants": [dataclasses.asdict(variant) for variant in variants]}


def trials(sweep: ConfigDict) -> list[Trial]:
    """Return the runs of a sweep in the order in which they are run. Raises ConfigError for unknown fields."""
    config: Any = sweep
    if not config.seeds or not config.variants or any(type(seed) is not int or seed < 0 for seed in config.seeds):
        raise ConfigError(f"seeds is {config.seeds!r}: give one or more whole numbers, such as --config.seeds=(0,1,2).")
    if len(set(config.seeds)) != len(config.seeds):
        raise ConfigError(f"seeds is {config.seeds!r}: give each seed once.")
    made = []
    for seed in config.seeds:
        for variant in config.variants:
            made.append(Trial(len(made), variant.label, seed, _run_config(config.base, variant, seed)))
    return made


def chosen(all_trials: list[Trial], which: str | None) -> list[Trial]:
    """Return the trials that `which` names: all for None, one by its number or name, those of a variant by its label.

    Raises ConfigError if it names none.
    """
    if which is None:
        return all_trials
    found = [trial for trial in all_trials if which in (str(trial.number), trial.label, trial.name)]
    if not found:
        labels = dict.fromkeys(trial.label for trial in all_trials)
        raise ConfigError(
            f"no variant is called {which!r}{nearest(which, labels)}: give a number from 0 to {len(all_trials) - 1}, "
            f"or one of {', '.join(labels)}."
        )
    return found


def _run_config(base: ConfigDict, variant: Variant, seed: int) -> ConfigDict:
    config = copy.deepcopy(base)
    for name, value in (*variant.fields.items(), ("training.seed", seed)):
        *groups, field = name.split(".")
        group: Any = config
        try:
            for each in groups:
                group = group[each]
            group[field] = value
        except (KeyError, AttributeError, TypeError) as error:
            now = f"; it is now called {RENAMED[name]}" if name in RENAMED else ""
            raise ConfigError(
                f"the variant {variant.label!r} sets {name} to {value!r}, which configs cannot have{now}."
            ) from error
    return config
