"""Data of which each process reads its own part."""

import contextlib
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_spm.backend.parts import own_part
from keras_spm.backend.processes import gathered, of_first_process
from keras_spm.backend.replicas import current, has_local_batches, has_torch_processes, independent

_BATCH_SIZE = 32  # Keras's default.


class _Batches(keras.utils.PyDataset):
    """The batches of a data set, or some of them, each of which a function changes."""

    def __init__(self, dataset: Any, change: Callable, indices: Sequence[int] | None = None):
        super().__init__()
        self._dataset, self._change, self._indices = dataset, change, indices

    def __len__(self) -> int:
        return len(self._dataset) if self._indices is None else len(self._indices)

    def __getitem__(self, index: int) -> Any:
        index = index if self._indices is None else self._indices[index]
        return self._change(self._dataset[index])

    def on_epoch_begin(self) -> None:
        self._dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._dataset.on_epoch_end()


class ArrayBatches(keras.utils.PyDataset):
    """Batches of arrays, shuffled alike in every process.

    Args:
        arrays: tuple of `x`, `y` and `sample_weight`, structures of arrays; the last ones may be
            None.
        batch_size: int, 32 by default.
        shuffle: whether the examples are shuffled before each epoch.
    """

    def __init__(self, arrays: tuple, batch_size: int | None = None, shuffle: bool = False):
        super().__init__()
        while len(arrays) > 1 and arrays[-1] is None:
            arrays = arrays[:-1]
        self._arrays = keras.tree.map_structure(_to_numpy, arrays)
        self._count = len(keras.tree.flatten(self._arrays)[0])
        self._batch_size = batch_size or _BATCH_SIZE
        self._order = np.arange(self._count)
        self._generator = None
        if shuffle:
            self._generator = np.random.default_rng(of_first_process(np.random.randint(2**31)))
            self.on_epoch_end()

    def __len__(self) -> int:
        return -(-self._count // self._batch_size)

    def __getitem__(self, index: int) -> tuple:
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return keras.tree.map_structure(
            lambda array: None if array is None else array[rows], self._arrays
        )

    def on_epoch_end(self) -> None:
        if self._generator is not None:
            self._generator.shuffle(self._order)


class EvaluationPart(_Batches):
    """The batches that one process evaluates.

    A process without batches evaluates one that does not count.

    Attributes:
        counts: whether the batches count.
    """

    def __init__(self, dataset: keras.utils.PyDataset):
        active = current()
        # Neighbors, so that results of all processes, joined, are in the order of the data.
        parts = np.array_split(np.arange(len(dataset)), active.processes)
        indices = parts[active.process].tolist()
        super().__init__(dataset, lambda batch: batch, indices or [0])
        self.counts = bool(indices)


def is_arrays(x: Any, y: Any) -> bool:
    """Whether data for `fit` are arrays, or structures of them."""
    if isinstance(x, (keras.utils.PyDataset, types.GeneratorType)):
        return False
    leaves = keras.tree.flatten(x)
    return y is not None or all(hasattr(each, "shape") for each in leaves)


def check_batch_size(batch_size: int | None) -> None:
    """Raises a `ValueError` if the devices do not divide the batches of arrays.

    The last batch may be smaller: some devices then have fewer rows than others.
    """
    current().check_batch_size(batch_size or _BATCH_SIZE)


def training_part(x: Any) -> tuple[Any, bool]:
    """Returns the data of `fit` in this process, and whether they are its rows alone.

    On JAX a process gives whole batches, of which its devices get their rows.

    Args:
        x: data without `y`, as in `keras.Model.fit`.

    Raises:
        ValueError: for a `DataLoader` that does not divide its data.
    """
    active = current()
    if active.processes == 1:
        return x, False
    if has_local_batches():
        return x, True
    if hasattr(x, "collate_fn"):  # A torch DataLoader.
        if getattr(x.sampler, "num_replicas", None) != active.processes:
            raise ValueError(
                "A `DataLoader` needs a `torch.utils.data.DistributedSampler` within "
                f"`data_parallel`. Received: a {type(x.sampler).__name__}"
            )
        return x, True
    if keras.config.backend() == "jax":
        return x, False
    return _own_rows(x), True


def _own_rows(x):
    if isinstance(x, keras.utils.PyDataset):
        return _Batches(x, own_part)
    if isinstance(x, types.GeneratorType):
        return (own_part(batch) for batch in x)
    if hasattr(x, "element_spec"):  # A tf.data.Dataset.
        return x.map(lambda *parts: own_part(parts))
    return x.map(own_part)  # Of Grain.


def evaluation_part(x: Any, y: Any, weight: Any, batch_size: int | None) -> EvaluationPart | None:
    """Returns the batches that this process evaluates, or None for all of them.

    Args:
        x, y, weight, batch_size: as in `keras.Model.evaluate`.
    """
    if is_arrays(x, y):
        x = ArrayBatches((x, y, weight), batch_size)
    if isinstance(x, EvaluationPart) or not isinstance(x, keras.utils.PyDataset):
        return x if isinstance(x, EvaluationPart) else None
    return EvaluationPart(x)


def split_validation(arguments: dict[str, Any]) -> None:
    """Replaces `validation_split` of `fit` by `validation_data`, the last examples."""
    share = arguments.pop("validation_split", 0)
    if not share or arguments.get("validation_data") is not None:
        return
    names = ("x", "y", "sample_weight")
    start = int(len(keras.tree.flatten(arguments["x"])[0]) * (1 - share))
    given = {name: arguments[name] for name in names if arguments.get(name) is not None}
    arguments["validation_data"] = keras.tree.map_structure(
        lambda array: array[start:], tuple(given.values())
    )
    arguments.update(keras.tree.map_structure(lambda array: array[:start], given))


def _to_numpy(array):
    if array is None or isinstance(array, np.ndarray):
        return array
    return keras.ops.convert_to_numpy(array)


@contextlib.contextmanager
def evaluated_together(x: Any) -> Iterator[tuple[Any, Callable]]:
    """Context manager in which every PyTorch process evaluates some batches.

    Args:
        x: data without `y`, as in `keras.Model.evaluate`.

    Yields:
        (the data of this process, function that joins its results and those of the others): a
        structure of arrays and lists, whose entries are in the order of the data.
    """
    part = evaluation_part(x, None, None, None) if has_torch_processes() else None
    if part is None:
        with independent() if has_torch_processes() else contextlib.nullcontext():
            yield x, lambda results: results
        return

    def joined(results):
        every = [each for each in gathered(results if part.counts else None) if each is not None]
        return _join(every)

    with independent():
        yield part, joined


def _join(results):
    first = results[0]
    if isinstance(first, dict):
        return {name: _join([each[name] for each in results]) for name in first}
    if isinstance(first, tuple):
        return tuple(map(_join, zip(*results, strict=True)))
    if isinstance(first, list):
        return [entry for each in results for entry in each]
    return np.concatenate(results)
