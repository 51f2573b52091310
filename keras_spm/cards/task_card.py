"""Cards of trained dense models: what they are built from, and where their weights are."""

import dataclasses
import pathlib
from typing import Any

from keras_spm.cards import WeightFile, read_class_colors, read_class_names
from keras_spm.weights.files import read_json

_FOLDER = pathlib.Path(__file__).parent / "tasks"


@dataclasses.dataclass(frozen=True)
class TaskCard(WeightFile):
    """Architecture, classes and published figures of a trained dense model.

    There is one JSON file per model in the folder `tasks`, named by its preset. Unknown values
    are null.

    Attributes:
        page, file: address of the page that links to the weight file, and its name if that is
            known, for weights that are not on the hub.
        task: class name of the task.
        backbone: long name of the backbone's preset.
        backbone_arguments: constructor arguments of the backbone that differ from its preset.
        head: class name of the head.
        head_arguments: constructor arguments of the head that differ from its defaults.
        classes: name of a list of classes, see `read_class_names` and `read_class_colors`.
        batching: arguments of `keras_spm.data.ImageBatching` of the evaluation.
        published: {metric: value in percent}.
        published_by: source of those figures.
    """

    page: str | None = None
    file: str | None = None
    task: str = ""
    backbone: str = ""
    backbone_arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    head: str = ""
    head_arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    classes: str = ""
    batching: dict[str, Any] | None = None
    published: dict[str, float] | None = None
    published_by: str | None = None

    @property
    def head_config(self) -> dict[str, Any]:
        """The head, as in configurations of presets."""
        return {
            "class": self.head,
            "config": {"num_classes": len(self.class_names), **self.head_arguments},
        }

    @property
    def class_names(self) -> list[str]:
        return read_class_names(self.classes)

    @property
    def class_arguments(self) -> dict[str, Any]:
        """Arguments of the task: names of the classes and, where they are known, colors."""
        names, colors = self.class_names, read_class_colors(self.classes)
        arguments = {"num_classes": len(names), "class_names": names}
        return arguments if colors is None else {**arguments, "class_colors": colors}


def task_presets() -> list[str]:
    """Returns the names of all trained dense models."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def read_task_card(preset: str) -> TaskCard:
    """Returns the card of one of `task_presets()`."""
    return TaskCard(**read_json(_FOLDER / f"{preset}.json", "card"))
