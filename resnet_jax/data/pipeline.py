"""Batches by step: the batch at step k is a pure function of (seed, k).

The training examples form one endless stream: epoch after epoch, each in an order of its own that has every example
once. Step k takes the positions k * batch_size to (k + 1) * batch_size of that stream. Nothing is remembered between
steps, so a run that was resumed, or moved to other hosts, reads what an uninterrupted run reads. A batch may lie
across two epochs, so that none of them loses its last examples.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable
from typing import Any, cast

import grain
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.sources import Arrays, Split
from resnet_jax.data.sources.dataset import transformed
from resnet_jax.errors import DataError
from resnet_jax.run.workers import WorkerKilled, Workers

Rows = dict[str, np.ndarray]

PART = 64  # examples, at most, that are read as one: a batch is joined from such parts
THREADS = 8  # that read parts where there are no worker processes, and parts that each of both holds ready


@functools.lru_cache(maxsize=4)
def epoch_order(examples: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of an epoch: a permutation of the example numbers, drawn by (seed, epoch)."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(examples)


@functools.lru_cache(maxsize=4)
def first_mirrored(examples: int, seed: int) -> np.ndarray:
    """Return which examples are mirrored in the first epoch where they alternate: each by even chance, by the seed."""
    return np.random.Generator(np.random.Philox(key=[seed, 2**63])).random(examples) < 0.5


@dataclasses.dataclass(frozen=True)
class TrainingOrder:
    """Which examples each training step reads.

    Attributes:
      examples: in the data set.
      batch_size: global.
      seed: of the order.
      share: the rows of each batch that this host reads.
      repeats: how often an example follows itself in the stream, with another augmentation each time (Hoffer et al.
        2020, arXiv:1901.09335). Within a batch, copies are batch_size / repeats rows apart, so that they
        come to different devices. A pass over all examples then takes as many epochs.
      alternates: give each row whether it is "mirrored": an example is in every other epoch, which shows both of its
        sides more evenly than chance does (Jordan 2024, arXiv:2404.00498, section 3.6).
    """

    examples: int
    batch_size: int
    seed: int
    share: range
    repeats: int = 1
    alternates: bool = False

    def rows(self, step: int) -> Rows:
        """Return each row's "index" in the data set, its "position" in the stream, and whether it is "mirrored"."""
        by_copy = [np.arange(copy, self.batch_size, self.repeats) for copy in range(self.repeats)]
        positions = step * self.batch_size + np.concatenate(by_copy)[self.share.start : self.share.stop]
        epochs, places = np.divmod(positions // self.repeats, self.examples)
        index = np.empty(len(positions), np.int32)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            index[here] = epoch_order(self.examples, self.seed, int(epoch))[places[here]]
        rows = {"index": index, "position": positions.astype(np.uint32)}
        if self.alternates:
            rows["mirrored"] = first_mirrored(self.examples, self.seed)[index] ^ (epochs % 2 == 1)
        return rows


@dataclasses.dataclass(frozen=True)
class EvaluationOrder:
    """Every example once and in order; the last batch is filled with rows that are not valid, and count for nothing."""

    examples: int
    batch_size: int
    share: range

    @property
    def steps(self) -> int:
        """Batches that hold all examples: the same number on every host, so that none waits for another."""
        return -(-self.examples // self.batch_size)

    def rows(self, step: int) -> Rows:
        """Return each row's "index" in the data set and whether it is "valid"."""
        index = np.arange(step * self.batch_size, (step + 1) * self.batch_size)[self.share.start : self.share.stop]
        valid = index < self.examples
        return {"index": np.where(valid, index, 0).astype(np.int32), "valid": valid}


Order = TrainingOrder | EvaluationOrder
StepRange = tuple[int, int]  # the steps of one dispatch: first, and one past the last


@dataclasses.dataclass(frozen=True)
class Resident:
    """A loader for data that fits into memory: every device holds all examples, and receives only indices."""

    split: Arrays
    order: Order

    @property
    def data(self) -> dict[str, np.ndarray]:
        """What is laid on every device once."""
        return {"image": self.split.images, "label": self.split.labels}

    @staticmethod
    def read(data: dict[str, jax.Array], row: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Return a batch from the data and one step's rows (inside a program)."""
        rest = {name: value for name, value in row.items() if name not in ("index", "mirrored")}
        batch = {name: array[row["index"]] for name, array in data.items()} | rest
        if "mirrored" in row:
            images = batch["image"]
            batch["image"] = jnp.where(row["mirrored"][:, None, None, None], images[:, :, ::-1], images)
        return batch

    def close(self) -> None:
        """Nothing needs to be ended."""

    def batches(self, ranges: Iterable[StepRange]) -> Generator[Rows]:
        """Yield the rows of each cut, stacked by step."""
        for start, end in ranges:
            yield stack([self.order.rows(step) for step in range(start, end)])


# Image, or its encoded bytes; random generator; the array that the result may be put into, or None.
Transform = Callable[[np.ndarray | bytes, np.random.Generator, np.ndarray | None], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Streamed:
    """A loader for data that does not fit: examples are read and transformed on the host, ahead of the step that needs
    them.

    A batch is read in parts of up to `PART` examples. At most 2 * `THREADS` parts are in memory besides the batch of
    the step, or three for each worker process.

    Attributes:
      split: examples by number; must pickle where there are worker processes.
      order: which of them at which step.
      transform: (image or its encoded bytes, random generator, where to put it or None) to uint8 (height, width,
        channels), which lies there or anywhere.
      seed: of the transform's randomness, which is drawn from (seed, position) for every example.
      workers: processes that read and transform, which loaders may share; None leaves it to threads of this one.
      later: pairs of a step and the transform that takes over from that step on, by step; the images of one step are
        of one size, and those of another may be of another.
    """

    split: Split
    order: Order
    transform: Transform
    seed: int
    workers: Workers | None = None
    later: tuple[tuple[int, Transform], ...] = ()

    @property
    def data(self) -> dict[str, np.ndarray]:
        """Streamed examples are not kept on the devices."""
        return {}

    @staticmethod
    def read(data: dict[str, jax.Array], row: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Return the rows, which are the batch already."""
        return row

    @property
    def parts(self) -> int:
        """The number of parts of this host's share of a batch."""
        return -(-len(self.order.share) // PART)

    @functools.cached_property
    def reader(self) -> "Reader":
        """What reads a part: the same object each time, which worker processes then know."""
        return Reader(self.split, self.order, self.transform, self.seed, self.later, self.parts)

    def close(self) -> None:
        """End the worker processes, which other loaders may share and which the next batch starts again."""
        if self.workers is not None:
            self.workers.close()

    def batches(self, ranges: Iterable[StepRange]) -> Generator[Rows]:
        """Yield the batches of each cut, stacked by step. The ranges must follow each other without a gap.

        Raises DataError for an example that cannot be read, by its name, and for a worker process that was killed.
        """
        ranges = list(ranges)
        if not ranges:
            return
        with contextlib.closing(self._read(range(ranges[0][0] * self.parts, ranges[-1][1] * self.parts))) as parts:
            for start, end in ranges:
                yield _join([next(parts) for _ in range((end - start) * self.parts)], end - start)

    def _read(self, numbers: range) -> Generator[Rows]:
        """Yield the parts of these numbers, read ahead."""
        if self.workers is None:
            options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=THREADS)
            parts = grain.MapDataset.source(cast(Any, _Numbered(self.reader, numbers))).to_iter_dataset(options)
            with contextlib.closing(iter(parts)) as read:
                yield from read
            return
        try:
            yield from self.workers.map(self.reader, numbers)
        except WorkerKilled as error:
            raise DataError(
                f"A data worker was killed, most often for want of memory ({error}): start again with fewer "
                "data.workers."
            ) from error


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """Reads the parts of this host's rows of each batch, by number; what worker processes get of a loader."""

    split: Split
    order: Order
    transform: Transform
    seed: int
    later: tuple[tuple[int, Transform], ...]
    parts: int

    def __call__(self, number: int) -> Rows:
        """Return a part: the rows with their images and labels."""
        step, part = divmod(number, self.parts)
        share = len(self.order.share)
        here = slice(part * share // self.parts, (part + 1) * share // self.parts)
        rows = {name: values[here] for name, values in _rows_of_step(self.order, step).items()}
        index, transform = rows.pop("index"), self.transform_at(step)
        draws, split = _Draws(self.seed), self.split
        images, labels = None, np.empty(len(index), np.int32)
        for row, (number, drawn_by) in enumerate(
            zip(index.tolist(), rows.get("position", index).tolist(), strict=True)
        ):
            place = None if images is None else images[row]
            image, labels[row] = transformed(split, number, transform, draws.of(drawn_by), place)
            if images is None:
                images = np.empty((len(index), *image.shape), image.dtype)
            if image is not place:
                images[row] = image
        return rows | {"image": images, "label": labels}

    def transform_at(self, step: int) -> Transform:
        """Return the transform of a step's examples."""
        return [self.transform, *(transform for first, transform in self.later if first <= step)][-1]


@dataclasses.dataclass(frozen=True, eq=False)
class _Numbered:
    """The parts of some numbers, as a source of Grain's."""

    reader: Reader
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Rows:
        return self.reader(self.numbers[place])


class _Draws:
    """The random numbers of one example after the other: those of `Generator(Philox(key=[seed, number]))`.

    A generator is made once and set to each number, which takes a tenth of the time that a new one takes.
    """

    def __init__(self, seed: int):
        self._philox = np.random.Philox(key=[seed, 0])
        self._fresh = self._philox.state
        self._generator = np.random.Generator(self._philox)

    def of(self, number: int) -> np.random.Generator:
        """Return the generator, at the first of the numbers of an example."""
        self._fresh["state"]["key"][1] = number
        self._philox.state = self._fresh
        return self._generator


def _join(parts: list[Rows], steps: int) -> Rows:
    """Join the parts of some batches, in order, to arrays of (steps, rows, ...)."""
    # A single part is its batch, and need not be copied.
    joined = parts[0] if len(parts) == 1 else {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
    return {name: values.reshape(steps, -1, *values.shape[1:]) for name, values in joined.items()}


@functools.lru_cache(maxsize=16)
def _rows_of_step(order: Order, step: int) -> Rows:
    return order.rows(step)


def stack(rows: list[Rows]) -> Rows:
    """Stack the rows of several steps along a new first axis."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
