"""All that a training needs, before its first step."""

import dataclasses
import typing

import keras


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model and its data, ready to be trained.

    Attributes:
        model: a compiled task.
        batches: sequence of all batches of the training.
        steps_per_epoch: int.
        rates: the learning rate's schedule.
        data: the splits that the task is validated and tested on.
        counts: {split: examples in it}.
    """

    model: keras.Model
    batches: typing.Any
    steps_per_epoch: int
    rates: keras.optimizers.schedules.LearningRateSchedule
    data: typing.Any
    counts: dict

    def first_batch(self):
        """Returns (images, targets), arrays, as the first step gets them."""
        images, targets, *_ = self.batches[0]
        return images, targets
