"""Recipes beside their sources: what a config has, what the source says, and why they differ where they do."""

import math
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from resnet_jax.config import default_config, flat
from resnet_jax.errors import ConfigError, nearest
from resnet_jax.models.registry import create_model

# Fields of recipes that say how a run is watched and kept, not what it learns: no source has them.
OWN = ("model.name", "data.source", "data.workers", "training.log_every", "evaluation.batch_size")


class Source(NamedTuple):
    """What the source of a recipe says.

    Attributes:
      name: of the recipe.
      config: which runs it, as `main.py` takes it.
      source: where it was published.
      where: the file or page of each group of fields.
      published: top-1 accuracy in percent by network.
      values: by field.
      differs: by field, what the source says and why the recipe has another value.
    """

    name: str
    config: str
    source: str
    where: Mapping[str, str]
    published: Mapping[str, float]
    values: Mapping[str, Any]
    differs: Mapping[str, tuple[Any, str]]


class Row(NamedTuple):
    """A field of a recipe beside its source.

    Attributes:
      field: its dotted name.
      ours: the config's value.
      theirs: the source's.
      where: the source's file or page.
      verdict: empty where they agree, why they differ where that is known, else "UNEXPLAINED".
    """

    field: str
    ours: Any
    theirs: Any
    where: str
    verdict: str


def read_sources(file: pathlib.Path) -> dict[str, Source]:
    """Return the sources of `configs/sources.toml` by name, in its order; one that is `like` another has its values."""
    entries = tomllib.loads(file.read_text())
    found: dict[str, Source] = {}
    for name, entry in entries.items():
        base = found[entry["like"]]._asdict() if "like" in entry else dict(where={}, values={}, differs={})
        values = base["values"] | entry.get("values", {})
        differs = {field: tuple(pair) for field, pair in (base["differs"] | entry.get("differs", {})).items()}
        values = {field: value for field, value in values.items() if field not in entry.get("without", ())}
        given = {field: entry[field] for field in ("config", "source", "published") if field in entry}
        # A field has one meaning: what an entry says of it takes the place of what it was like.
        values = {field: value for field, value in values.items() if field not in entry.get("differs", {})}
        differs = {field: pair for field, pair in differs.items() if field not in entry.get("values", {})}
        joined: dict[str, Any] = dict(
            name=name, where=base["where"] | entry.get("where", {}), values=values, differs=differs
        )
        found[name] = Source(**base | given | joined)
    return found


def find_source(sources: Mapping[str, Source], name: str) -> Source:
    """Return the source of that name. Raises ConfigError for an unknown one, naming the nearest."""
    if name not in sources:
        raise ConfigError(f"no recipe is called {name!r}{nearest(name, sources)}; there are {', '.join(sources)}.")
    return sources[name]


def compare(source: Source, config: ConfigDict) -> list[Row]:
    """Return a row for each field of which the source says something."""
    rows = []
    for field, theirs in source.values.items():
        ours = value(config, field)
        rows.append(Row(field, ours, theirs, where(source, field), "" if same(ours, theirs) else "UNEXPLAINED"))
    for field, (theirs, why) in source.differs.items():
        ours = value(config, field)
        rows.append(Row(field, ours, theirs, where(source, field), "UNEXPLAINED" if same(ours, theirs) else why))
    order = {name: place for place, (name, _) in enumerate(flat(default_config()))}
    return sorted(rows, key=lambda row: order[row.field])


def unnamed(source: Source, config: ConfigDict) -> list[str]:
    """Return the fields that the recipe sets and of which the source's entry says nothing."""
    named = {*source.values, *source.differs, *OWN}
    plain = dict(flat(default_config()))
    return [field for field, ours in flat(config) if not same(ours, plain[field]) and field not in named]


def value(config: ConfigDict, field: str) -> Any:
    """Return the value that a field comes to: one that is not set is the network's own, or that of another field."""
    fields: Any = config
    group: Any = config
    for part in field.split("."):
        group = group[part]
    if group is None and field == "data.eval_size":
        return fields.data.image_size
    if group is None and field.startswith("model.overrides."):
        return getattr(create_model(fields.model.name), field.rpartition(".")[2])
    return group


def where(source: Source, field: str) -> str:
    """Return the file or page of the source that says what a field is."""
    return source.where.get(field.partition(".")[0], source.source)


def same(ours: Any, theirs: Any) -> bool:
    """Whether two values are one: numbers up to rounding, tuples as lists."""
    if isinstance(ours, tuple | list) and isinstance(theirs, tuple | list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, bool) or isinstance(theirs, bool) or not isinstance(ours, int | float):
        return ours == theirs
    return isinstance(theirs, int | float) and math.isclose(ours, theirs, rel_tol=1e-9)
