"""Batches for `fit`, in a deterministic order, through Grain."""

import functools

import numpy as np

from keras_spm.data.transforms import random_affine

# Grain's own 500 batches would be 25 GB of COCO's images.
_THREADS, _BATCHES_AHEAD = 8, 8


def repeated_batches(examples, prepared, collated, batch_size, seed):
    """Returns an endless Grain data set of batches: shuffled anew each time all have been.

    Args:
        examples: sequence.
        prepared: function (example, `numpy.random.Generator`) that augments one.
        collated: function from a list of what is prepared to a batch.
        batch_size: int.
        seed: int, of order and augmentation; the same gives the same batches.

    Raises:
        ValueError: where there are no examples.
    """
    import grain

    if not len(examples):
        raise ValueError("`examples` must not be empty. Received: 0 examples")
    order = grain.MapDataset.source(examples).seed(seed).shuffle()
    order = order.repeat(reseed_each_epoch=True).random_map(prepared)
    order = order.batch(batch_size, batch_fn=collated)
    return order.to_iter_dataset(grain.ReadOptions(_THREADS, _BATCHES_AHEAD))


def training_batches(examples, batch_size, epochs, seed, rotation, zoom, translation):
    """Returns a Grain data set of augmented batches for a whole training.

    Every epoch shuffles and augments anew; the same seed gives the same batches. What
    does not fill a batch at the end of an epoch is left out of that epoch.

    Args:
        examples: `LabelledImages`.
        batch_size: int.
        epochs: int.
        seed: int.
        rotation, zoom, translation: see `random_affine`.

    Returns:
        (data set, batches per epoch)

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

    return order.random_map(augmented).to_iter_dataset(), count // batch_size
