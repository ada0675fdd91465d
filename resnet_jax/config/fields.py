"""What a config field is: its type, default, meaning, allowed values, and whether it may change on resume."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from resnet_jax.errors import ConfigError, nearest


class Allowed(NamedTuple):
    """The values that a field may have.

    Attributes:
      holds: whether a value is allowed.
      words: the allowed values as a message describes them.
      choices: the allowed values, where they are a few names.
    """

    holds: Callable[[Any], bool]
    words: str
    choices: tuple[str, ...] = ()


def between(low: float, high: float) -> Allowed:
    """Allow `low` to `high`, both included."""
    return Allowed(lambda value: low <= value <= high, f"{low} to {high}")


def at_least(low: float, below: float = math.inf) -> Allowed:
    """Allow `low` and more, and less than `below`."""
    words = f"{low} or more" + (f" and less than {below}" if below < math.inf else "")
    return Allowed(lambda value: low <= value < below, words)


def above(low: float, at_most: float = math.inf) -> Allowed:
    """Allow more than `low`, up to and including `at_most`."""
    words = f"more than {low}" + (f", and {at_most} at most" if at_most < math.inf else "")
    return Allowed(lambda value: low < value <= at_most, words)


def one_of(*choices: str) -> Allowed:
    """Allow some names; "" is described as empty."""
    *most, last = [choice or "empty" for choice in choices]
    return Allowed(lambda value: value in choices, f"{', '.join(most)} or {last}", choices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """One field of the config.

    Attributes:
      name: with its group, such as "training.epochs".
      type: its annotation, such as `int | None`.
      default: its value where nothing sets it.
      meaning: one sentence.
      allowed: the values of its type that it may have; None allows all.
      may_change: whether a run may be resumed with another value.
      was: its name in earlier versions.
      counts_as: the field, in epochs, for which this one may be set in steps.
    """

    name: str
    type: Any
    default: Any
    meaning: str
    allowed: Allowed | None = None
    may_change: bool = False
    was: str | None = None
    counts_as: str | None = None

    @property
    def base_type(self) -> Any:
        """The type that `ConfigDict` locks: `tuple` of `tuple[int, ...] | None`."""
        [kind] = [kind for kind in _members(self.type) if kind is not types.NoneType]
        return typing.get_origin(kind) or kind

    @property
    def type_in_words(self) -> str:
        """The type as help and documentation show it."""
        return " or ".join(_in_words(kind) for kind in _members(self.type))

    def check(self, value: Any) -> None:
        """Raise ConfigError if the field cannot have this value."""
        if value is None and self.default is None:
            return
        if not _fits(value, self.type):
            wanted = self.allowed.words if self.allowed else f"of type {self.type_in_words}"
        elif not _is_finite(value):
            wanted = "finite"
        elif self.allowed and not self.allowed.holds(value):
            wanted = self.allowed.words
        else:
            return
        close = nearest(value, self.allowed.choices) if self.allowed and isinstance(value, str) else ""
        raise ConfigError(f"{self.name} is {value!r} and must be {wanted}{close or '.'}")


def setting(
    default: Any,
    meaning: str,
    allowed: Allowed | None = None,
    *,
    may_change: bool = False,
    was: str | None = None,
    counts_as: str | None = None,
) -> Any:
    """State a field of a group's dataclass; the arguments are attributes of `Field`."""
    stated = dict(meaning=meaning, allowed=allowed, may_change=may_change, was=was, counts_as=counts_as)
    return dataclasses.field(default=default, metadata=stated)


def fields_of(groups: Mapping[str, type]) -> dict[str, Field]:
    """Return the fields that the dataclasses of some groups state by `setting`, by their dotted names."""
    stated = [(group, field) for group, kind in groups.items() for field in dataclasses.fields(kind) if field.metadata]
    return {
        f"{group}.{field.name}": Field(
            name=f"{group}.{field.name}", type=field.type, default=field.default, **field.metadata
        )
        for group, field in stated
    }


def _members(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value has an annotated type; an int is accepted as a float."""
    if isinstance(kind, types.UnionType):
        return any(_fits(value, member) for member in _members(kind))
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if not isinstance(value, tuple):
            return False
        if kinds[-1] is Ellipsis:
            return all(_fits(each, kinds[0]) for each in value)
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    return isinstance(value, int | float if kind is float else kind)


def _is_finite(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _in_words(kind: Any) -> str:
    """Return an annotated type in words, such as "a tuple of int"."""
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if kinds[-1] is Ellipsis:
            return f"tuple of {_in_words(kinds[0])}"
        return f"({', '.join(map(_in_words, kinds))})"
    return "None" if kind is types.NoneType else getattr(kind, "__name__", str(kind))
