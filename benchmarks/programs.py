"""What a compiled program moves, read off its text: through the accelerator's memory, and between devices."""

import collections
import math
import re

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# These name arrays and move none. What an asynchronous copy moves is counted where it starts.
NAMES = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "copy-done", "slice-done")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.+?) ([a-z][\w-]*)\((.*)")
ARRAY = re.compile(r"\b(pred|bf16|[a-z](\d+)\w*)\[([\d,]*)\](\{[^}]*\})?")


def arrays(shape: str) -> list[tuple[int, bool]]:
    """Return the bytes of each array of a shape, and whether it lies in memory, and not on the chip (S(1) or more)."""
    bits = {"pred": 8, "bf16": 16}
    return [
        (bits.get(item, int(size or 0)) * math.prod(int(n) for n in dims.split(",") if n) // 8, not on_chip(layout))
        for item, size, dims, layout in ARRAY.findall(shape)
    ]


def on_chip(layout: str) -> bool:
    """Whether a layout names a memory space that is not the main one."""
    return bool(re.search(r"S\([1-9]", layout))


def instructions(text: str):
    """Yield kind, shape and operands' shapes of each instruction of the program itself, not of what it calls."""
    shapes = {}
    for line in text[text.index("ENTRY ") :].splitlines():
        if found := INSTRUCTION.match(line):
            name, shape, kind, rest = found.groups()
            shapes[name] = shape
            operands = [shapes.get(operand, "") for operand in re.findall(r"%([\w.-]+)", rest.partition(")")[0])]
            yield kind, shape, operands, rest


def memory_bytes(text: str) -> dict[str, int]:
    """Return the bytes that pass between the chip and its memory, by kind of instruction.

    Each array that an instruction reads or writes counts once, as it is in a chip's memory: what lies on the chip
    counts for nothing, and what is copied from one to the other counts once. (The compiler's own "bytes accessed"
    counts both, and for a TPU, whose compiler keeps much on the chip, is far more.)
    """
    moved = collections.Counter()
    for kind, shape, operands, rest in instructions(text):
        if kind in NAMES or "ConcatBitcast" in rest:
            continue
        if kind == "copy-start":  # gives (where to, where from, ...)
            counted = arrays(shape)[:2]
        elif kind == "slice-start":  # gives ((where from), where to, ...), and moves as much as it writes
            source, made = arrays(shape)[:2]
            counted = [(made[0], source[1]), made]
        else:
            counted = [array for each in (shape, *operands) for array in arrays(each)]
        moved[kind] += sum(size for size, in_memory in counted if in_memory)
    return dict(moved)


def collectives(text: str) -> dict[str, dict[str, float]]:
    """Return how many collectives of each kind there are, and the megabytes of the arrays that one device gives."""
    found = {}
    for kind, shape, _, _ in instructions(text):
        kind = kind.removesuffix("-start")
        if kind in COLLECTIVES:
            count, sent = found.get(kind, (0, 0))
            found[kind] = (count + 1, sent + sum(size for size, _ in arrays(shape)))
    return {kind: {"count": count, "megabytes": sent / 1e6} for kind, (count, sent) in sorted(found.items())}
