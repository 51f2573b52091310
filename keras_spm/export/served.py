"""The model that is exported: raw images in, named outputs out."""

from typing import Any

import keras

from keras_spm.export.preprocessing import resize_and_crop
from keras_spm.types import Tensor

INPUT = "images"
_HALF = ("float16", "bfloat16")


class ServedModel(keras.Model):
    """What an exported file computes, in inference.

    Args:
        model: a task or backbone, or another `keras.Model` with one input.
        raw_outputs: bool, whether a task returns the outputs of its graph instead of its result.
        include_preprocessing: bool, whether images are first resized and cropped, as the task's
            `preprocessing` does.

    Input: images, float or uint8 pixels. Output: {name: tensor}, sorted by name.

    Raises:
        ValueError: if a model without `preprocessing` shall include it.
    """

    def __init__(
        self, model: keras.Model, raw_outputs: bool = False, include_preprocessing: bool = False
    ) -> None:
        super().__init__(name=model.name)
        self.autocast = False
        preprocessing = getattr(model, "preprocessing", None)
        if include_preprocessing and preprocessing is None:
            raise ValueError(
                "`include_preprocessing` needs a classifier with `preprocessing`. "
                f"Received: {type(model).__name__} without one"
            )
        self.includes_preprocessing = include_preprocessing
        self.preprocessing = preprocessing
        self.model = in_float32(model)
        # In a closure: Keras would track what is in an attribute.
        function = self.model.serving_function(raw_outputs)
        self._serve = lambda images: function(images)
        self.built = True

    def preprocess(self, images: Tensor) -> Tensor:
        """Resizes and crops images of any size."""
        arguments = self.preprocessing.get_config()
        arguments["data_format"] = self.model.backbone.data_format
        del arguments["channels"]
        return resize_and_crop(images, **arguments)

    def call(self, images: Tensor, training: bool = False) -> dict[str, Tensor]:
        return self.serve(self.preprocess(images) if self.includes_preprocessing else images)

    def serve(self, images: Tensor) -> dict[str, Tensor]:
        """Returns the outputs of images as the model takes them."""
        outputs = dict(sorted(flat_outputs(self._serve(images)).items()))
        self.names = tuple(outputs)  # Known from the first call on.
        return outputs


def flat_outputs(outputs: Any, prefix: str = "") -> dict[str, Tensor]:
    """Returns {name: tensor} of a tensor or nested dicts, such as {"logits_P3": …}."""
    if not isinstance(outputs, dict):
        return {prefix or "outputs": outputs}
    flat = {}
    for name, values in outputs.items():
        flat |= flat_outputs(values, f"{prefix}_{name}" if prefix else name)
    return flat


def in_float32(model: keras.Model) -> keras.Model:
    """Returns a model that computes in float32: the model itself, or a copy with its weights.

    Runtimes do not have all operations in half precision.
    """
    if not any(layer.compute_dtype in _HALF for layer in model._flatten_layers()):
        return model
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    # The configuration comes from an object in memory, not from a file, so its code is trusted.
    copy = keras.saving.deserialize_keras_object(_with_float32(config), safe_mode=False)
    copy.set_weights(model.get_weights())
    return copy


def _with_float32(config: Any) -> Any:
    """Returns a configuration with every dtype policy in half precision replaced."""
    if isinstance(config, dict):
        return {
            key: _float32_policy(value) if key == "dtype" else _with_float32(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return [_with_float32(value) for value in config]
    return config


def _float32_policy(policy: Any) -> Any:
    name = policy["config"].get("name") if isinstance(policy, dict) else policy
    is_half = isinstance(name, str) and name.removeprefix("mixed_") in _HALF
    return "float32" if is_half else _with_float32(policy)
