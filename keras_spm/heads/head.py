"""The base class of heads on a backbone's feature pyramid."""

from typing import Any, ClassVar

import keras

from keras_spm.arguments import check_integer
from keras_spm.layers.adaptation import AdaptedSublayers
from keras_spm.registry import HEADS


class Head(AdaptedSublayers, keras.layers.Layer):
    """A layer from a backbone's pyramid to the outputs of a task.

    A subclass is registered under its class name, for Keras's serialization and presets. It
    names the pyramid levels that it reads in `levels`.

    Args:
        num_classes: int; `None` to let the task set it.
        **kwargs: of `keras.layers.Layer`.
    """

    levels: ClassVar[tuple[str, ...]] = ("P2", "P3", "P4", "P5")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        HEADS.register(cls.__name__, cls)
        keras.saving.register_keras_serializable("keras_spm")(cls)

    def __init__(self, num_classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        if num_classes is not None:
            self.num_classes = check_integer("num_classes", num_classes)

    def class_predictors(self) -> list[keras.layers.Layer]:
        """Returns the layers whose weights depend on `num_classes`."""
        return []

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes}
