"""What a checkpoint says of its arrays, checked before any is read.

TensorStore takes memory by the shapes, chunks and types that a file claims. Where it cannot have that much it ends the
process, which no handler can prevent.
"""

import json
import math
from pathlib import Path
from typing import Any

import jax
import tensorstore

from resnet_jax.run.reading import read_file

LARGEST_TREE = 2**26  # bytes of the list of all arrays
LARGEST = 2**16  # bytes of an array's metadata, which have about 200
TYPES = {"<f2", "<f4", "<f8", "bfloat16", "<i4", "<i8", "<u4", "<u8", "|i1", "|u1", "|b1"}
# What Orbax writes besides the shape, the chunks, the type and the codec of an array.
SAME = {"dimension_separator": ".", "fill_value": None, "filters": None, "order": "C", "zarr_format": 2}

Shapes = dict[str, tuple[int, ...]]


def stored_shapes(folder: Path) -> Shapes:
    """Return the shape of each array of a checkpoint by its dotted name, such as "params.head.kernel".

    Raises ValueError, which names the array, for metadata that no run writes.
    """
    tree = json.loads(read_file(folder / "_METADATA", LARGEST_TREE))
    if not tree.get("use_ocdbt", True) or tree.get("use_zarr3"):
        raise ValueError("its arrays are kept in another format than a run's")
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}).result()
    keys = [key for key in store.list().result() if key.endswith(b".zarray") or key.endswith(b"zarr.json")]
    shapes = {}
    for key in keys:
        name = key.decode().removesuffix("/.zarray")
        try:
            content = store.read(key).result().value
            shapes[name] = sound_shape(json.loads(content) if len(content) <= LARGEST else None)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"the metadata of {name} are not those of a run's array") from error
    return shapes


def sound_shape(metadata: Any) -> tuple[int, ...]:
    """Return the shape that an array's metadata give. Raises ValueError, KeyError or TypeError where they are odd."""
    shape, chunks, codec = metadata["shape"], metadata["chunks"], metadata["compressor"]
    sound = (
        metadata.keys() == {"shape", "chunks", "compressor", "dtype"} | SAME.keys()
        and all(metadata[name] == value for name, value in SAME.items())
        and metadata["dtype"] in TYPES
        and codec["id"] == "zstd"
        and type(codec["level"]) is int
        and abs(codec["level"]) <= 22
        and all(type(size) is int and size >= 0 for size in [*shape, *chunks])
        and all(1 <= chunk <= max(1, size) for chunk, size in zip(chunks, shape, strict=True))
    )
    if not sound:
        raise ValueError("other metadata than Orbax writes")
    return tuple(shape)


def shapes_of(state: Any) -> Shapes:
    """Return the shape of each array of a state by the name under which a checkpoint keeps it."""
    leaves, _ = jax.tree.flatten_with_path(state)
    return {".".join(str(part(step)) for step in path): tuple(leaf.shape) for path, leaf in leaves}


def part(step: Any) -> Any:
    """Return the name of one step on the way to a leaf: a key, an attribute or a number."""
    return next(getattr(step, kind) for kind in ("key", "name", "idx") if hasattr(step, kind))


def elements(shapes: Shapes) -> int:
    """Return how many values arrays have together."""
    return sum(math.prod(shape) for shape in shapes.values())
