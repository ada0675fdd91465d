"""Packing: from any source of labelled images to shards that are read fast, checked, resumable, and always the same."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from resnet_jax.data.decoding import Pixels, decode, decode_jpeg, open_image
from resnet_jax.data.sources import Dataset, Split
from resnet_jax.data.sources.dataset import example
from resnet_jax.data.sources.records import FORMAT, INDEX, read_index
from resnet_jax.data.transforms import ResizeCenterCrop
from resnet_jax.errors import DataError, library
from resnet_jax.run.workers import WorkerKilled, Workers

UNFINISHED = ".unfinished"  # the folder of what is not yet in the index, inside of the packed one
JPEG_NAMES = (".jpg", ".jpeg")
OPTIONS = "group_size:1,uncompressed"  # each example can be read alone, and what is a JPEG gets no smaller


@dataclasses.dataclass(frozen=True)
class PackFormat:
    """What an example becomes.

    Attributes:
      size: None keeps the files' bytes. Else the short side of what is packed, in pixels, which Pillow resizes to,
        bilinear and antialiased, as torchvision does; smaller images are kept as they are unless `pixels` is set.
      pixels: keep uint8 pixels, of the central square of `size`, instead of a JPEG.
      quality: of the JPEGs that are re-encoded, 1 to 100, with halved colour.
    """

    size: int | None = None
    pixels: bool = False
    quality: int = 90

    @property
    def extension(self) -> str:
        """Of the shards' names."""
        return "npy" if self.pixels else "array_record"

    def __call__(self, image: bytes, decoded: Pixels) -> bytes | Pixels:
        """Return what is kept of an image, given as the bytes of its file and as its RGB pixels."""
        if self.pixels and self.size is not None:
            return ResizeCenterCrop(self.size, self.size)(decoded)
        height, width, _ = decoded.shape
        short = min(height, width)
        if self.size is None or short <= self.size:
            return image
        new_width, new_height = (int(self.size * side / short) for side in (width, height))
        resized = np.array(Image.fromarray(decoded).resize((new_width, new_height), Image.Resampling.BILINEAR))
        return library("simplejpeg").encode_jpeg(resized, self.quality, colorsubsampling="420")


@dataclasses.dataclass(frozen=True)
class Shard:
    """A shard to write: the examples `first` to `end` of a split, those left out that can not be decoded."""

    split: str
    number: int
    first: int
    end: int


@dataclasses.dataclass(frozen=True)
class Packer:
    """Writes shards of a data set to a folder; it travels to worker processes."""

    splits: dict[str, Split]
    folder: pathlib.Path
    form: PackFormat

    def __call__(self, task: Shard) -> dict:
        """Write a shard and return its record, which is written after it: a shard without one is not whole.

        The record has the shard's file, examples, bytes and sha256, their labels and names, and the names and reasons
        of "broken" examples, which are left out, and of "odd" ones, which are not what their names say.
        """
        split, stem = self.splits[task.split], f"{task.split}-{task.number:05}"
        record = {"file": f"{stem}.{self.form.extension}", "labels": [], "names": [], "broken": [], "odd": []}
        draft = self.folder / UNFINISHED / record["file"]
        with contextlib.closing(
            PixelWriter(draft) if self.form.pixels else ArrayRecordWriter(str(draft), OPTIONS)
        ) as writer:
            for index in range(task.first, task.end):
                name = split.name(index)
                try:
                    image, label = example(split, index)
                    image = cast(bytes, image)  # what is packed are files
                    decoded, oddity = examine(image, name)
                except DataError as error:
                    record["broken"].append({"name": name, "why": str(error)})
                    continue
                if oddity:
                    record["odd"].append({"name": name, "why": oddity})
                writer.write(cast(Any, self.form(image, decoded)))
                record["labels"].append(label)
                record["names"].append(name)
        record |= {"examples": len(record["labels"])} | size_and_sum(draft)
        publish(draft, self.folder / record["file"])
        write_text(self.record_of(task), json.dumps(record))
        return record

    def record_of(self, task: Shard) -> pathlib.Path:
        """Return where the record of a shard is kept until all are written."""
        return self.folder / UNFINISHED / f"{task.split}-{task.number:05}.json"

    def finished(self, task: Shard) -> dict | None:
        """Return the record of a shard that was written before and is still whole, else None."""
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(self.record_of(task).read_text())
            with open(self.folder / record["file"], "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == record["sha256"]:
                    return record
        return None


class PixelWriter:
    """Writes images of one size to a .npy file, whose header is written last: only then is their number known."""

    def __init__(self, path: pathlib.Path):
        self._file = open(path, "wb")  # noqa: SIM115 (closed by `close`)
        self._count, self._shape = 0, (1, 1, 3)
        self._write_header()

    def write(self, image: Pixels) -> None:
        """Append an image."""
        self._count, self._shape = self._count + 1, image.shape
        self._file.write(image.tobytes())

    def close(self) -> None:
        """Write the header again, which NumPy leaves room to grow in, and close the file."""
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": (self._count, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)


def examine(image: bytes, name: str) -> tuple[Pixels, str | None]:
    """Return an image's RGB pixels, and in what it is odd.

    It is where it is not what its name says, in CMYK, has an error, or values whose range alone says what is white.

    Raises DataError if it can not be decoded as a whole.
    """
    try:
        return decode_jpeg(image), None
    except ValueError as error:
        (decoded, oddity), opened = decode(image), open_image(image)
        decoded = np.asarray(decoded)
        if opened.format != "JPEG":
            misnamed = pathlib.PurePath(name).suffix.lower() in JPEG_NAMES
            return decoded, f"is a {opened.format} file" if misnamed else oddity
        return decoded, "is in CMYK" if opened.mode == "CMYK" else f"has an error that can be read over: {error}"


def pack(
    dataset: Dataset,
    folder: pathlib.Path,
    form: PackFormat,
    *,
    shard_examples: int = 4096,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Write a data set's examples to shards in `folder`, and return the index, which is written last.

    The shards depend on the data set, the form and `shard_examples` alone. The same call resumes what was stopped:
    shards that are whole are kept. Examples that can not be decoded are left out, and the index names them.

    Args:
      dataset: whose images are encoded.
      folder: empty, missing, or begun by a call with the same arguments.
      form: what an example becomes.
      shard_examples: examples of a shard, save the last of a split.
      workers: processes; 1 works in this one.
      progress: called with the number of examples that are done, and of all.

    Raises:
      DataError: the folder holds something else, a worker was killed, or no image of a split can be decoded.
    """
    splits = {name: split for name, split in (("train", dataset.train), ("test", dataset.test)) if len(split)}
    plan = {
        "format": FORMAT,
        "form": dataclasses.asdict(form),
        "shard_examples": shard_examples,
        "given": {name: len(split) for name, split in splits.items()},
        "classes": list(dataset.classes),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
    }
    if (folder / INDEX).is_file():
        index = read_index(folder)
        if {key: index[key] for key in plan} != plan:
            raise DataError(f"{folder} holds other data, or the same in another form: choose another folder.")
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        return index
    begin(folder, plan)

    packer = Packer(splits, folder, form)
    tasks = [
        Shard(name, number, first, min(first + shard_examples, len(split)))
        for name, split in splits.items()
        for number, first in enumerate(range(0, len(split), shard_examples))
    ]
    records = {task: record for task in tasks if (record := packer.finished(task))}
    done, total = sum(task.end - task.first for task in records), sum(plan["given"].values())
    progress(done, total)
    for task, record in work(packer, [task for task in tasks if task not in records], workers):
        records[task] = record
        done += task.end - task.first
        progress(done, total)

    index = plan | {"splits": {}}
    for name in splits:
        index["splits"][name] = finish(folder, name, [records[task] for task in tasks if task.split == name])
    write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")
    shutil.rmtree(folder / UNFINISHED)
    return index


def begin(folder: pathlib.Path, plan: dict) -> None:
    """Make the folder and write down what is to come. Raises DataError if it was begun for something else."""
    written = folder / UNFINISHED / "plan.json"
    if written.is_file():
        if json.loads(written.read_text()) != plan:
            raise DataError(f"{folder} was begun with other data or in another form: use these, or delete it.")
        return
    if folder.is_dir() and any(entry.name != UNFINISHED for entry in folder.iterdir()):
        raise DataError(f"{folder} is not empty and not packed: choose another folder.")
    written.parent.mkdir(parents=True, exist_ok=True)
    write_text(written, json.dumps(plan))


def work(packer: Packer, tasks: list[Shard], workers: int) -> Iterator[tuple[Shard, dict]]:
    """Yield each task with its record, as they are done by so many processes."""
    if workers <= 1:
        yield from ((task, packer(task)) for task in tasks)
        return
    with contextlib.closing(Workers(workers)) as pool:
        try:
            yield from zip(tasks, pool.map(packer, tasks), strict=True)
        except WorkerKilled as error:
            raise DataError(
                f"A worker process was killed, most often for want of memory ({error}): start again with fewer "
                "--workers; the shards that are whole are kept."
            ) from error


def finish(folder: pathlib.Path, split: str, records: list[dict]) -> dict:
    """Write the labels and names of a split, and return its part of the index."""
    labels = [label for record in records for label in record["labels"]]
    names = [os.fsencode(name) for record in records for name in record["names"]]
    if not labels:
        raise DataError(f"No image of the {split} split can be decoded, such as: {records[0]['broken'][0]['why']}")
    tables = []
    for kind, array in (("labels", np.array(labels, np.int32)), ("names", np.array(names))):
        draft = folder / UNFINISHED / f"{split}-{kind}.npy"
        np.save(draft, array)
        tables.append({"file": draft.name} | size_and_sum(draft))
        publish(draft, folder / draft.name)
    for record in records:
        if not record["examples"]:
            (folder / record["file"]).unlink()
    shards = [{key: record[key] for key in ("file", "examples", "bytes", "sha256")} for record in records]
    reports = {kind: [report for record in records for report in record[kind]] for kind in ("broken", "odd")}
    shards = [shard for shard in shards if shard["examples"]]
    return {"examples": len(labels), "shards": shards, "tables": tables} | reports


def size_and_sum(file: pathlib.Path) -> dict:
    """Return the "bytes" and the "sha256" of a file."""
    with open(file, "rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def publish(draft: pathlib.Path, final: pathlib.Path) -> None:
    """Give a file that is written its name, once the disk has it: nobody sees half of it."""
    with open(draft, "rb") as file:
        os.fsync(file.fileno())
    os.replace(draft, final)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(text)
    publish(draft, path)
