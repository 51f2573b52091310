"""The base class of all tasks: raw images in, a backbone inside, compiled by default."""

import functools
import os
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_spm.backbones import PyramidBackbone
from keras_spm.backbones.adaptation import AdaptableModel
from keras_spm.backend import SafeTrainer
from keras_spm.data.first_batch import FirstBatch
from keras_spm.data.folders import image_paths
from keras_spm.export import ExportMixin
from keras_spm.layers.adaptation import quantizable_sublayers
from keras_spm.layers.batch_normalization import refuse_training
from keras_spm.optimizers import AdamW, build_optimizer
from keras_spm.registry import TASKS, PresetMixin
from keras_spm.tasks.checks import check_batch
from keras_spm.tasks.command_mixin import CommandMixin
from keras_spm.tasks.graph import data_format_of, to_data_format
from keras_spm.types import Shape, Tensor

# Constructor arguments of some tasks that the metadata of an exported file has.
_EXPORTED_ARGUMENTS = (
    *("class_names", "class_colors", "multi_label", "preprocessing", "batching"),
    "bounding_box_format",
)


class ImageTask(AdaptableModel, PresetMixin, CommandMixin, ExportMixin, SafeTrainer, keras.Model):
    """A functional model from raw images to the outputs of a task, around a backbone.

    A subclass builds the graph, passes it to this constructor, overrides `compile` with
    defaults and calls it, and implements `predict_images`, `predict_record`, `draw` and
    `evaluate_on`, which commands and recipes use. It is registered under its class name.

    The dtype policy is that of the backbone. Images are never cast to half precision.

    Args:
        inputs, outputs: symbolic images and outputs of the graph.
        backbone: the backbone in the graph.
        config: dict of the task's other constructor arguments. Each becomes an attribute
            and is part of `get_config`. `class_names`, if given, is checked here.
        name, trainable: as in `keras.Model`.

    Raises:
        ValueError: if `class_names` are not `num_classes` distinct names.
    """

    # What the hub calls the task.
    pipeline_tag: ClassVar[str] = "image-feature-extraction"
    # Name of the constructor argument that is a head, if there is one.
    head_argument: ClassVar[str | None] = None
    # Of an exported model, where outputs have no names.
    output_name: ClassVar[str] = "outputs"
    class_names: list[str] | None = None
    # Of the optimizer "auto".
    _weight_decay: ClassVar[float] = 1e-4

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        TASKS.register(cls.__name__, cls)
        keras.saving.register_keras_serializable("keras_spm")(cls)

    def __init__(
        self,
        inputs: keras.KerasTensor,
        outputs: Any,
        backbone: keras.Model,
        config: dict[str, Any],
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        # No other arguments: Keras's functional models ignore unknown ones silently.
        if "class_names" in config:
            config = {**config, "class_names": _checked_names(config)}
        super().__init__(inputs=inputs, outputs=outputs, name=name, trainable=trainable)
        self.dtype_policy = backbone.dtype_policy
        self.autocast = False
        self.backbone = backbone
        self._task_arguments = tuple(config)
        for argument, value in config.items():
            setattr(self, argument, value)

    def class_predictors(self) -> list[keras.layers.Layer]:
        """Returns the layers whose weights depend on `num_classes`."""
        return []

    def image_size(self, images: Any) -> tuple:
        """Returns the (height, width) of a batch; symbolic or tensors in a compiled graph."""
        channels_first = data_format_of(self.backbone) == "channels_first"
        return tuple(ops.shape(images)[2:4] if channels_first else ops.shape(images)[1:3])

    # === Training ===

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **kwargs: Any) -> None:
        """Configures training, as `keras.Model.compile`; subclasses add defaults."""
        if isinstance(optimizer, str) and optimizer == "auto":
            optimizer = AdamW(learning_rate=1e-4, weight_decay=self._weight_decay)
        if isinstance(optimizer, (str, dict)):
            optimizer = keras.optimizers.get(optimizer)
        # In a closure: Keras would track metrics in an attribute a second time.
        self._compile_again = functools.partial(
            self.compile, optimizer=optimizer, loss=loss, **kwargs
        )
        super().compile(optimizer=optimizer, loss=loss, **kwargs)

    def freeze(self, up_to_stage: int | None = None, batch_normalization: bool = False) -> None:
        """Freezes the backbone's stem and first stages; 0 freezes nothing.

        A compiled model is compiled again with the same arguments and a new optimizer state,
        so that this can be called between two calls of `fit`. The stages of a backbone of
        another package are unknown: it can be frozen as a whole or not at all.

        Args:
            up_to_stage, batch_normalization: as in `PyramidBackbone.freeze`.

        Raises:
            ValueError: if there are fewer stages, or they are unknown.
        """
        if isinstance(self.backbone, PyramidBackbone):
            self.backbone.freeze(up_to_stage, batch_normalization)
        elif up_to_stage in (0, 4, None) and not batch_normalization:
            self.backbone.trainable = up_to_stage == 0
        else:
            raise ValueError(
                f"The stages of a {type(self.backbone).__name__} are unknown: it can be frozen as "
                "a whole, `up_to_stage=None`, or not at all, 0. Received: "
                f"up_to_stage={up_to_stage}, batch_normalization={batch_normalization}"
            )
        self._recompile()

    def _recompile(self) -> None:
        """Compiles the model again, if it is compiled, after other variables became trainable."""
        if self.compiled:
            optimizer = self._compile_again.keywords["optimizer"]
            if optimizer is not None:
                # Its slots are those of the variables that were trainable before.
                optimizer = type(optimizer).from_config(optimizer.get_config())
            self._compile_again(optimizer=optimizer)

    def _update_after_adaptation(self) -> None:
        super()._update_after_adaptation()
        self._recompile()

    def _refreeze(self) -> None:
        self.backbone._refreeze()

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()
        # As the user chose it: Keras would save what "auto" means on this backend.
        config["jit_compile"] = self._compile_again.keywords.get("jit_compile", "auto")
        if self.optimizer is not None:
            # A model that was never trained has no optimizer state to load. Keras ignores
            # further entries of a serialized object.
            optimizer = self._compile_again.keywords["optimizer"]
            config["optimizer"] = {
                **keras.saving.serialize_keras_object(optimizer),
                "is_built": self.optimizer.built,
            }
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        optimizer = config["optimizer"]
        self.compile(**keras.saving.deserialize_keras_object(config))
        if optimizer is not None and optimizer["is_built"]:
            self.optimizer.build(self.trainable_variables)

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, validation_data: Any = None, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains the model, as `keras.Model.fit`.

        The first batches of `x` and of `validation_data` are checked: pixels outside of
        [0, 255] give a warning, and targets that the loss cannot use an error.
        """
        with FirstBatch(self._check_batch) as first:
            if isinstance(validation_data, (tuple, list)):
                validation_x, *rest = validation_data
                validation_data = (first.of(validation_x, *rest[:1]), *rest)
            elif validation_data is not None:
                validation_data = first.of(validation_data)
            if validation_data is not None:
                kwargs["validation_data"] = validation_data
            return super().fit(first.of(x, y), y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Measures loss and metrics, as `keras.Model.evaluate`; data are checked as by `fit`."""
        with FirstBatch(self._check_batch) as first:
            return super().evaluate(first.of(x, y), y, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns the outputs, as `keras.Model.predict`; pixels are checked as by `fit`."""
        with FirstBatch(lambda images, _: check_batch(images, self.backbone)) as first:
            return super().predict(first.of(x), *args, **kwargs)

    def _check_batch(self, images, targets):
        check_batch(images, self.backbone)
        if targets is not None:
            self.check_targets(images, targets)

    def check_targets(self, images: np.ndarray, targets: Any) -> None:
        """Raises a `ValueError` for targets of a batch that the loss cannot use.

        Args:
            images: batch of images, or the first of them.
            targets: all targets, in the structure that `fit` takes, of arrays.
        """

    def make_train_function(self, force: bool = False) -> Any:
        # Not in the first step: on JAX, an error there loses the values of the variables, and
        # TensorFlow traces a step that creates variables twice.
        for layer in self._flatten_layers():
            if hasattr(layer, "fold"):
                refuse_training(layer, training=True)
        if self.optimizer is not None:
            build_optimizer(self.optimizer, self.trainable_variables)
        return super().make_train_function(force)

    def macs(self, input_shape: Shape) -> int:
        """Returns the multiply-accumulate operations of one image; see `PyramidBackbone.macs`."""
        raise TypeError(f"{type(self).__name__} does not count its operations.")

    # === Export ===

    def decode_outputs(self, outputs: Any, images: Tensor) -> Any:
        """Returns what `predict` returns for raw outputs of the graph; by default the same."""
        return outputs

    def serving_function(self, raw_outputs: bool = False) -> Callable[[Tensor], dict]:
        def serve(images):
            outputs = self(images, training=False)
            outputs = outputs if raw_outputs else self.decode_outputs(outputs, images)
            return outputs if isinstance(outputs, dict) else {self.output_name: outputs}

        return serve

    def calibration_batches(self, images: Any, raw: bool = False) -> list[np.ndarray]:
        if isinstance(images, (str, os.PathLike)):
            images = image_paths([images])
        return super().calibration_batches(images, raw)

    def _calibration_batch(self, image, raw):
        if not raw:
            return self.model_input(image)[0]
        return to_data_format(self.read_image(image)[None], self.backbone)

    def export_metadata(self) -> dict[str, Any]:
        metadata = {**super().export_metadata(), "backbone": type(self.backbone).__name__}
        for name in _EXPORTED_ARGUMENTS:
            metadata[name] = _serialized(getattr(self, name, None))
        return metadata

    # === Serialization ===

    def get_config(self) -> dict[str, Any]:
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            **{name: _serialized(getattr(self, name)) for name in self._task_arguments},
            "name": self.name,
            "trainable": self.trainable,
            **self._adaptation_config(without=self._adapted_by_backbone()),
        }

    def _adapted_by_backbone(self):
        """Returns the dense layers whose changes are part of the backbone's configuration."""
        if isinstance(self.backbone, PyramidBackbone):
            return list(quantizable_sublayers(self.backbone).values())
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ImageTask":
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        if not backbone.trainable:
            # Keras sets a functional model's `trainable` before the model has its layers.
            for layer in backbone.layers:
                layer.trainable = False
        config = {**config, "backbone": backbone}
        head = cls.head_argument
        if head is not None:
            config[head] = keras.saving.deserialize_keras_object(config[head])
        return super().from_config(config)


def _checked_names(config):
    class_names, num_classes = config["class_names"], config["num_classes"]
    if class_names is None:
        return None
    names = [class_names] if isinstance(class_names, str) else class_names
    class_names = [str(name) for name in names]
    if len(class_names) != num_classes or len(set(class_names)) != num_classes:
        raise ValueError(
            f"`class_names` must be {num_classes} distinct names, one per class. "
            f"Received {len(class_names)}: {class_names}"
        )
    return class_names


def _serialized(value):
    if isinstance(value, keras.layers.Layer):
        # Without its build configuration: the task builds it.
        config = keras.saving.serialize_keras_object(value)
        return {key: value for key, value in config.items() if key != "build_config"}
    return value.get_config() if hasattr(value, "get_config") else value
