"""The reference of all fields, from the schema: for `python main.py --help`, and as the page `docs/config.md`."""

import inspect
import textwrap

from resnet_jax.config.derived import ARGUMENTS, FIELDS, GROUPS, OVERRIDES
from resnet_jax.config.fields import Field
from resnet_jax.errors import ConfigError, nearest

PAGE = """# The config

What `python -m resnet_jax fields --format=markdown` prints, from `resnet_jax/config/schema.py`, where each field is
stated once. `python main.py --help` shows the same in a terminal, `--help=WORD` the fields that mention a word.

A config file starts from `resnet_jax.config.default_config()` or a recipe and sets what differs; the command line
overrides it: `--config.training.epochs=20`. Unknown names, values of another type and values outside the allowed range
are refused. A resumed run must have the same values as before, except in the fields marked under "resume".

A duration is given in epochs or in steps: `schedule.boundaries_steps = (32_000, 48_000)` in place of
`schedule.boundaries`, likewise `schedule.warmup_steps`, `evaluation.every_steps` and `checkpoint.every_steps`; setting
both is refused. `training.steps` takes precedence over `training.epochs`, so that any recipe can be tried for a few
steps.
"""
RENAMES = """
## Renamed fields

Earlier names are refused with the present one, and understood in the `config.json` of earlier runs.
"""


def sections(word: str = "") -> dict[str, tuple[str, list[Field]]]:
    """Return group to its meaning and its fields, of those whose name or meaning contains `word` in any case.

    Raises ConfigError if no field does, naming the nearest.
    """
    network = "Fields of the network that replace those of its registered name; None keeps them."
    rule = "Further arguments of the optimizer's function; None keeps their defaults."
    parts = {}
    for group, kind in GROUPS.items():
        parts[group] = inspect.getdoc(kind)
        parts |= {"model": {"model.overrides": network}, "optimizer": {"optimizer.arguments": rule}}.get(group, {})
    every = FIELDS | OVERRIDES | ARGUMENTS
    found = {
        group: (meaning, [field for field in every.values() if _in(field, group) and _mentions(field, word)])
        for group, meaning in parts.items()
    }
    found = {group: (meaning, fields) for group, (meaning, fields) in found.items() if fields}
    if not found:
        keys = [name.rpartition(".")[2] for name in every]
        raise ConfigError(f"no field of the config mentions {word!r}{nearest(word, keys) or '; --help lists all.'}")
    return found


def help_text(word: str = "") -> str:
    """Return the fields that mention `word`, grouped, for a terminal of 100 columns. Raises as `sections` does."""
    lines = []
    for group, (meaning, fields) in sections(word).items():
        lines += ["", f"{group}: {meaning}"]
        for field in fields:
            facts = [field.type_in_words, f"default {field.default!r}"]
            facts += [field.allowed.words] if field.allowed else []
            facts += ["may change on resume"] if field.may_change else []
            lines += [f"  --config.{field.name}  {'; '.join(facts)}"]
            lines += textwrap.wrap(field.meaning, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines[1:])


def page() -> str:
    """Return the reference page in Markdown."""
    lines = [PAGE]
    for group, (meaning, fields) in sections().items():
        lines += [f"## {group}", "", meaning, ""]
        lines += ["| field | type | default | allowed | resume | meaning |", "| --- | --- | --- | --- | --- | --- |"]
        for field in fields:
            allowed = field.allowed.words if field.allowed else ""
            cells = (
                f"`{field.name.removeprefix(f'{group}.')}`",
                field.type_in_words,
                f"`{field.default!r}`",
                allowed,
                "may change" if field.may_change else "",
                field.meaning,
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += [RENAMES.strip(), "", "| earlier | present |", "| --- | --- |"]
    lines += [f"| `{field.was}` | `{field.name}` |" for field in FIELDS.values() if field.was]
    return "\n".join(lines)


def _in(field: Field, group: str) -> bool:
    return field.name.rpartition(".")[0] == group


def _mentions(field: Field, word: str) -> bool:
    return word.lower() in f"{field.name} {field.meaning}".lower()
