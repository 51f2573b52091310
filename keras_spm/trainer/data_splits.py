"""The splits of a data set."""

import collections.abc
import dataclasses

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class DataSplits:
    """Examples of each split, and the classes' names.

    Attributes:
        train, validation, test: sequences of examples. Data without a split of their own to
            test on are tested on what they are validated on.
        class_names: list of strings.
    """

    train: collections.abc.Sequence
    validation: collections.abc.Sequence
    test: collections.abc.Sequence
    class_names: list

    def sizes(self):
        """Returns {split: examples in it}."""
        return {split: len(getattr(self, split)) for split in SPLITS}
