"""Batches by step: the batch at step k is a pure function of (seed, k).

The training examples form one endless stream: epoch after epoch, each in an order of its own that has every example
once. Step k takes the positions k * batch_size to (k + 1) * batch_size of that stream. Nothing is remembered between
steps, so a run that was resumed, or moved to other hosts, reads what the run that never stopped reads. A batch may lie
across two epochs, so that none of them loses its last examples.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import grain
import jax
import numpy as np
from absl import flags

from resnet_jax.data.sources import Arrays, Split

Rows = dict[str, np.ndarray]

READ_AHEAD = 8  # batches that are read at once, each by a thread, and held until their step


@functools.lru_cache(maxsize=4)
def epoch_order(examples: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of an epoch: a permutation of the example numbers, drawn by (seed, epoch)."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(examples)


@dataclasses.dataclass(frozen=True)
class TrainingOrder:
    """Which examples each training step reads.

    Attributes:
      examples: in the data set.
      batch_size: global.
      seed: of the order.
      share: the rows of each batch that this host reads.
    """

    examples: int
    batch_size: int
    seed: int
    share: range

    def rows(self, step: int) -> Rows:
        """Return each row's "index" in the data set and its "position" in the stream of all steps."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)[self.share.start : self.share.stop]
        epochs, places = np.divmod(positions, self.examples)
        index = np.empty(len(positions), np.int32)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            index[here] = epoch_order(self.examples, self.seed, int(epoch))[places[here]]
        return {"index": index, "position": positions.astype(np.uint32)}


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
Cut = tuple[int, int]  # the steps of one dispatch: first, and one past the last


@dataclasses.dataclass(frozen=True)
class Resident:
    """A feed for data that fits: all examples lie on every device, and only the numbers of those to read travel."""

    split: Arrays
    order: Order

    @property
    def data(self) -> dict[str, np.ndarray]:
        """What is laid on every device once."""
        return {"image": self.split.images, "label": self.split.labels}

    @staticmethod
    def read(data: dict[str, jax.Array], row: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Return a batch from the data and one step's rows (inside a program)."""
        rest = {name: value for name, value in row.items() if name != "index"}
        return {name: array[row["index"]] for name, array in data.items()} | rest

    def chunks(self, cuts: Iterable[Cut]) -> Iterator[Rows]:
        """Yield the rows of each cut, stacked by step."""
        for start, end in cuts:
            yield stack([self.order.rows(step) for step in range(start, end)])


@dataclasses.dataclass(frozen=True)
class Streamed:
    """A feed for data that does not fit: examples are read and transformed on the host, ahead of the step that needs
    them.

    Attributes:
      split: examples by number; must pickle where there are worker processes.
      order: which of them at which step.
      transform: (image or its encoded bytes, random generator) to uint8 (height, width, channels).
      seed: of the transform's randomness, which is drawn from (seed, position) for every example.
      workers: processes that read and transform; 0 leaves it to threads of this one.
    """

    split: Split
    order: Order
    transform: Callable[[np.ndarray | bytes, np.random.Generator], np.ndarray]
    seed: int
    workers: int = 0

    @property
    def data(self) -> dict[str, np.ndarray]:
        """Nothing lies on the devices."""
        return {}

    @staticmethod
    def read(data: dict[str, jax.Array], row: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Return the rows, which are the batch already."""
        return row

    def chunks(self, cuts: Iterable[Cut]) -> Iterator[Rows]:
        """Yield the batches of each cut, stacked by step. The cuts must follow each other without a gap."""
        batches, first = None, None
        try:
            for start, end in cuts:
                if batches is None:
                    batches, first = iter(self._batches(start)), start
                yield stack([next(batches) for _ in range(start, end)])
        finally:
            # Worker processes and their shared memory outlive an iterator that is only dropped.
            if first is not None and hasattr(batches, "close"):
                batches.close()

    def _batches(self, first_step: int) -> grain.IterDataset:
        examples = grain.MapDataset.source(_Examples(self, first_step)).batch(len(self.order.share))
        batches = examples.to_iter_dataset(grain.ReadOptions(num_threads=READ_AHEAD, prefetch_buffer_size=READ_AHEAD))
        if not self.workers:
            return batches
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads flags as it starts a worker; only main.py parses them.
        return batches.mp_prefetch(grain.MultiprocessingOptions(self.workers))


@dataclasses.dataclass(frozen=True)
class _Examples:
    """The examples of this host's rows from `first_step` on, one after the other, as Grain reads them."""

    feed: Streamed
    first_step: int

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, number: int) -> dict[str, np.ndarray | np.generic]:
        step, row = divmod(number, len(self.feed.order.share))
        rows = _rows_of_step(self.feed.order, self.first_step + step)
        example = {name: values[row] for name, values in rows.items()}
        index = int(example.pop("index"))
        image, label = self.feed.split[index]
        random = np.random.Generator(np.random.Philox(key=[self.feed.seed, int(example.get("position", index))]))
        return example | {"image": self.feed.transform(image, random), "label": np.int32(label)}


@functools.lru_cache(maxsize=16)
def _rows_of_step(order: Order, step: int) -> Rows:
    return order.rows(step)


def stack(rows: list[Rows]) -> Rows:
    """Stack the rows of several steps along a new first axis."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
