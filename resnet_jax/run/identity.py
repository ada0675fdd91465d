"""Whether two starts belong to one run: the differences between their configs, and between their data."""

import json
from typing import Any

DIFFERENCES_SHOWN = 5
_ABSENT = object()


def changed(there: dict, now: dict) -> dict[str, tuple[Any, Any]]:
    """Field to its value in each of two configs, for the fields that differ."""
    there, now = flattened(there), flattened(now)
    pairs = {field: (there.get(field, _ABSENT), now.get(field, _ABSENT)) for field in there.keys() | now.keys()}
    # A field that came later, and is not set or empty, leaves the experiment what it was.
    unset = (_ABSENT, None, [])
    return {field: pair for field, pair in pairs.items() if pair[0] != pair[1] and not all(x in unset for x in pair)}


def other_data(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In what two data sets differ, in the user's words; what one of them does not say is not compared."""
    old, new = there.get("classes"), now["classes"]
    found = []
    if isinstance(old, list) and old != new:
        changes = [
            ("missing", [name for name in old if name not in new]),
            ("new", sorted(set(new) - set(map(str, old)))),
        ]
        found += [f"{how} classes: {_few(names)}" for how, names in changes if names]
        found = found or ["the classes are in another order"]
    for split in ("train", "test"):
        before, after = (_dict(each.get(split)) for each in (there, now))
        if before.get("examples") != after.get("examples") and before and after:
            found.append(f"{split} had {before.get('examples')} examples and has {after['examples']}")
        elif before.get("hash") and after.get("hash") and before["hash"] != after["hash"]:
            found.append(f"{split} has other examples")
    return found


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _few(names: list) -> str:
    more = f" and {len(names) - DIFFERENCES_SHOWN} more" if len(names) > DIFFERENCES_SHOWN else ""
    return ", ".join(json.dumps(name) for name in names[:DIFFERENCES_SHOWN]) + more


def flattened(config: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted names."""
    flat = {}
    for name, value in config.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def covered(field: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a dotted field is one of `prefixes`, or below one."""
    return any(field == prefix or field.startswith(f"{prefix}.") for prefix in prefixes)


def shown(value: Any) -> str:
    """`value` as a message shows it."""
    return "absent" if value is _ABSENT else json.dumps(value)
