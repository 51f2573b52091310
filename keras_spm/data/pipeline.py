"""Batches for `fit`, in a deterministic order, through Grain."""

import functools

import keras
import numpy as np

from keras_spm.data.transforms import random_affine

# Grain's own 500 batches would be 25 GB of COCO's images.
_THREADS, _BATCHES_AHEAD = 8, 8


def repeated_batches(
    examples, prepared, collated, batch_size, seed, repeats=1, mixed=None, shard=0, shards=1
):
    """Returns an endless sequence of batches, a Grain `MapDataset`: shuffled anew each time.

    Processes that train together draw the same order, and each takes every `shards`-th
    example of it: among them, every example comes once before any comes again. A batch is
    decided by its number, which is therefore the position of a training; see `read_ahead`.

    Args:
        examples: sequence.
        prepared: function (example, `numpy.random.Generator`) that augments one.
        collated: function from a list of what is prepared to a batch.
        batch_size: int, of each process.
        seed: int, of order and augmentation; the same gives the same batches.
        repeats: int, how often an example comes in succession, each time augmented anew.
            A pass then has as many examples as before, so that a part of them, chosen anew
            each time, takes all places.
        mixed: optional function (batch, `numpy.random.Generator`) that augments a batch.
        shard: int from 0, the number of this process.
        shards: int, how many processes there are.

    Raises:
        ValueError: where there are no examples, and for a shard that is not one of them.

    Reference:
        Repeated augmentation: Hoffer et al., "Augment your batch" (CVPR 2020), as in the
        sampler of the DeiT and PVT code.
    """
    import grain

    if not len(examples):
        raise ValueError("`examples` must not be empty. Received: 0 examples")
    if not 0 <= shard < shards:
        raise ValueError(
            "`shard` must be at least 0 and less than `shards`. "
            f"Received: shard={shard}, shards={shards}"
        )
    order = grain.MapDataset.source(examples).seed(seed).shuffle()
    if repeats > 1:
        order = grain.MapDataset.mix([order] * repeats)[: len(examples)]
    order = order.repeat(reseed_each_epoch=True).random_map(prepared)
    batches = order[shard::shards].batch(batch_size, batch_fn=collated)
    if mixed is not None:
        of_shard = np.random.SeedSequence([seed, shard]).generate_state(1)
        batches = batches.random_map(mixed, seed=int(of_shard[0]))
    return batches


def read_ahead(batches, start=0):
    """Returns a Grain data set for `fit`, whose batches are made by threads.

    Args:
        batches: a Grain `MapDataset`.
        start: int, number of the first one.
    """
    import grain

    return batches[start:].to_iter_dataset(grain.ReadOptions(_THREADS, _BATCHES_AHEAD))


class EvaluationBatches(keras.utils.PyDataset):
    """All examples once, in their order, read by threads.

    Not Grain's: Keras takes the end of its data sets for a mistake and warns of it.

    Args:
        examples: sequence.
        prepared: function of an example.
        collated: function from a list of what is prepared to a batch.
        batch_size: int; the last batch may be smaller.
    """

    def __init__(self, examples, prepared, collated, batch_size):
        super().__init__(workers=_THREADS)
        self._examples = examples
        self._prepared = prepared
        self._collated = collated
        self._batch_size = batch_size

    def __len__(self):
        return -(-len(self._examples) // self._batch_size)

    def __getitem__(self, index):
        start = index * self._batch_size
        stop = min(start + self._batch_size, len(self._examples))
        return self._collated(
            [self._prepared(self._examples[place]) for place in range(start, stop)]
        )


def training_batches(examples, batch_size, epochs, seed, rotation, zoom, translation):
    """Returns the augmented batches of a whole training, a Grain `MapDataset`.

    Every epoch shuffles and augments anew; the same seed gives the same batches. What
    does not fill a batch at the end of an epoch is left out of that epoch.

    Args:
        examples: `LabeledImages`.
        batch_size: int.
        epochs: int.
        seed: int.
        rotation, zoom, translation: see `random_affine`.

    Returns:
        (batches, batches per epoch)

    Raises:
        ValueError: where there are not enough examples for one batch.
    """
    import grain

    count = len(examples.labels)
    if not 1 <= batch_size <= count:
        raise ValueError(
            f"`batch_size` must be from 1 to the number of examples, {count}. "
            f"Received: batch_size={batch_size}"
        )

    augment = functools.partial(
        random_affine, rotation=rotation, zoom=zoom, translation=translation
    )
    order = grain.MapDataset.range(count).seed(seed).shuffle()
    order = order.batch(batch_size, drop_remainder=True).repeat(epochs, reseed_each_epoch=True)

    def augmented(indices, generator):
        images = [augment(examples.images[index], generator) for index in indices]
        return np.stack(images), examples.labels[indices]

    return order.random_map(augmented), count // batch_size
