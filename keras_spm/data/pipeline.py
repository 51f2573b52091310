"""Batches for `fit` in a deterministic order, made by Grain."""

import concurrent.futures
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_spm.arguments import check_integer, check_number
from keras_spm.data.digits import LabeledImages
from keras_spm.data.transforms import random_affine

# Grain's default of 500 batches would take 25 GB with COCO's images.
_THREADS, _PREFETCHED_BATCHES = 8, 8
_MAX_ZOOM = 0.9  # At 1, an image could have no size.


def repeated_batches(
    examples: Sequence,
    transform: Callable,
    collate: Callable,
    batch_size: int,
    seed: int,
    repeats: int = 1,
    batch_transform: Callable | None = None,
    shard: int = 0,
    shards: int = 1,
) -> Sequence:
    """Returns an endless sequence of batches, a Grain `MapDataset`, shuffled in each pass.

    Processes that train together draw the same order, and each takes every `shards`-th
    example, or those that `batch_transform` mixes. All their batches together are the batches of a
    single process. A batch depends only on its number, so a training can resume at any batch.

    Args:
        examples: sequence.
        transform: function (example, `numpy.random.Generator`) that augments an example.
        collate: function that makes a batch of a list of transformed examples.
        batch_size: batch size of each process.
        seed: of order and augmentation.
        repeats: number of successive occurrences of an example, each augmented anew. A pass
            keeps its length, so it contains a random 1/`repeats` of the examples.
        batch_transform: optional function (batch, `numpy.random.Generator`) that mixes a batch
            with itself in reverse order, as `Mixing`.
        shard: index of this process.
        shards: number of processes.

    Raises:
        ValueError: if there are no examples or a number is out of range, or if several processes
            mix batches of an odd size.

    Reference:
        Repeated augmentation: Hoffer et al., "Augment your batch" (CVPR 2020).
    """
    import grain

    if not len(examples):
        raise ValueError("`examples` must not be empty. Received: 0 examples")
    for name, value in {"batch_size": batch_size, "repeats": repeats, "shards": shards}.items():
        check_integer(name, value)
    check_integer("seed", seed, 0)
    if not 0 <= shard < shards:
        raise ValueError(
            "`shard` must be at least 0 and less than `shards`. "
            f"Received: shard={shard}, shards={shards}"
        )
    order = grain.MapDataset.source(examples).seed(seed).shuffle()
    if repeats > 1:
        order = grain.MapDataset.mix([order] * repeats)[: len(examples)]
    order = order.repeat(reseed_each_epoch=True).random_map(transform)
    if batch_transform is None:
        return order[shard::shards].batch(batch_size, batch_fn=collate)
    if shards > 1:
        order = grain.MapDataset.source(_MixedRows(order, batch_size, shard, shards))
    # All processes mix alike: the batch of all of them is mixed as that of a single one.
    batch_seed = np.random.SeedSequence([seed, 0]).generate_state(1)
    batches = order.batch(batch_size, batch_fn=collate)
    return batches.random_map(batch_transform, seed=int(batch_seed[0]))


class _MixedRows:
    """The rows of one process in every batch: with each row also the one it is mixed with.

    Args:
        order: sequence of the examples of all processes.
        batch_size: of one process.
        shard, shards: index and number of the processes.
    """

    def __init__(self, order: Sequence, batch_size: int, shard: int, shards: int) -> None:
        if batch_size % 2:
            raise ValueError(
                "`batch_size` of each process must be even to be mixed. "
                f"Received: batch_size={batch_size}, shards={shards}"
            )
        self._order = order
        self._all = batch_size * shards
        first = range(shard * batch_size // 2, (shard + 1) * batch_size // 2)
        self._rows = [*first, *(self._all - 1 - row for row in reversed(first))]

    def __len__(self) -> int:
        return len(self._order) // self._all * len(self._rows)

    def __getitem__(self, index: int) -> Any:
        batch, row = divmod(index, len(self._rows))
        return self._order[batch * self._all + self._rows[row]]


def read_ahead(batches: Sequence, start: int = 0) -> Iterable:
    """Returns a Grain `IterDataset` for `fit`, from batch number `start`, made by threads."""
    import grain

    return batches[start:].to_iter_dataset(grain.ReadOptions(_THREADS, _PREFETCHED_BATCHES))


class EvaluationBatches(keras.utils.PyDataset):
    """All examples once, in order, read by threads.

    It is not a Grain data set, because Keras warns when a Grain data set ends. Keras's own
    threads (`workers`) need shared memory, which containers may lack.

    Args:
        transform: function of an example.
        collate: function that makes a batch of a list of transformed examples.
        batch_size: the last batch may be smaller.
        own_rows: optional function of the size of a batch that returns the rows that this process
            needs. Other rows are not read; they are copies of the first one that is.
    """

    def __init__(
        self,
        examples: Sequence,
        transform: Callable,
        collate: Callable,
        batch_size: int,
        own_rows: Callable[[int], Iterable[int]] = range,
    ) -> None:
        super().__init__()
        self._own_rows = own_rows
        self._examples = examples
        self._transform = transform
        self._collate = collate
        self._batch_size = check_integer("batch_size", batch_size)
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS)
        self._next = {}  # {number of the next batch: its futures}

    def __len__(self) -> int:
        return -(-len(self._examples) // self._batch_size)

    def __getitem__(self, index: int) -> Any:
        futures = self._next.get(index) or self._read(index)
        self._next = {index + 1: self._read(index + 1)}
        return self._collate([future.result() for future in futures])

    def _read(self, index):
        start = index * self._batch_size
        stop = min(start + self._batch_size, len(self._examples))
        futures = {
            row: self._threads.submit(lambda i: self._transform(self._examples[i]), start + row)
            for row in (self._own_rows(stop - start) if stop > start else ())
        }
        return [futures.get(row, next(iter(futures.values()))) for row in range(stop - start)]


def training_batches(
    examples: LabeledImages,
    batch_size: int,
    epochs: int,
    seed: int,
    rotation: float,
    zoom: float,
    translation: float,
) -> tuple[Sequence, int]:
    """Returns (augmented batches of a whole training on images in memory, number per epoch).

    Every epoch is shuffled and augmented anew, by Grain. An incomplete last batch of an epoch
    is dropped.

    Args:
        seed: of order and augmentation.
        rotation, zoom, translation: see `random_affine`.

    Raises:
        ValueError: if there are not enough examples for one batch, or a number is out of range.
    """
    import grain

    count = len(examples.labels)
    check_integer("batch_size", batch_size, maximum=count)  # For at least one batch.
    check_integer("epochs", epochs)
    check_number("rotation", rotation, 0, 180)
    check_number("zoom", zoom, 0, _MAX_ZOOM)
    check_number("translation", translation, 0, 1)
    order = grain.MapDataset.range(count).seed(seed).shuffle()
    order = order.batch(batch_size, drop_remainder=True).repeat(epochs, reseed_each_epoch=True)

    def augmented_batch(indices, generator):
        images = [
            random_affine(examples.images[index], generator, rotation, zoom, translation)
            for index in indices
        ]
        return np.stack(images), examples.labels[indices]

    return order.random_map(augmented_batch), count // batch_size
