"""The parts of a data set."""

import collections.abc
import dataclasses

PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class DataParts:
    """Examples of each part, and the classes' names.

    Attributes:
        train, validation, test: sequences of examples. Data without a part of their own to
            test on are tested on what they are validated on.
        class_names: list of strings.
    """

    train: collections.abc.Sequence
    validation: collections.abc.Sequence
    test: collections.abc.Sequence
    class_names: list

    def sizes(self):
        """Returns {part: examples in it}."""
        return {part: len(getattr(self, part)) for part in PARTS}
