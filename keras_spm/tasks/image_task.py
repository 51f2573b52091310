"""What every task shares: raw images in, a backbone inside, compiled by default."""

import warnings

import keras

from keras_spm.backbones import PyramidBackbone
from keras_spm.layers.batch_normalization import refuse_training
from keras_spm.registry import PRESET_FUNCTIONS
from keras_spm.registry import TASKS
from keras_spm.tasks.pixel_range import looks_scaled


class ImageTask(keras.Model):
    """A functional model from raw images to a result, around a backbone.

    Subclasses set `backbone` and define `compile` with default arguments.
    """

    pipeline_tag = "image-feature-extraction"
    head_argument = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        TASKS.register(cls.__name__, cls)

    def class_predictors(self):
        return [self.get_layer("head")]

    def __init__(self, inputs, outputs, name=None, trainable=True):
        # Named here: Keras's functional models take any argument in silence.
        super().__init__(inputs=inputs, outputs=outputs, name=name, trainable=trainable)

    @classmethod
    def from_preset(cls, name, load_weights=True, **arguments):
        """Builds the task and loads its weights; `load_report` on it says what was done.

        Called on `ImageTask` itself it builds the task that the preset was saved as.

        Args:
            name: long name of a backbone preset, see `keras_spm.list_presets()`, or a
                folder or address as `PyramidBackbone.from_preset` takes them.
            load_weights: bool; `False` for random weights.
            **arguments: of the task's constructor, without the backbone. What a folder
                says of the task need not be given; for another `num_classes` the layer
                that tells the classes apart is fresh.

        Raises:
            ValueError: for an unknown name (says the nearest), and for a preset without
                published weights.
            keras_spm.weights.WeightsError: where files cannot be had whole or do not fit.
        """
        return PRESET_FUNCTIONS["load"](cls, name, load_weights, arguments)

    def save_to_preset(self, folder):
        """Writes configuration, class names and weights to a new folder, for `from_preset`.

        Args:
            folder: path; what is there already must be an empty folder.

        Raises:
            FileExistsError: otherwise. Nothing half-written stays behind.
        """
        PRESET_FUNCTIONS["save"](self, folder)

    def freeze(self, up_to_stage=4, batch_normalization=False):
        """Freezes the backbone's stem and stages 1 to `up_to_stage`; 0 freezes nothing.

        Frozen batch normalizations stay in evaluation. The model is compiled anew as it
        was, with a fresh optimizer state, so this works between two calls of `fit`. Of a
        backbone of another package the stages are not known: it is frozen whole or not.

        Args:
            up_to_stage: int from 0 to 4.
            batch_normalization: bool, whether the backbone's batch normalizations are
                frozen in all stages, for small batches.

        Raises:
            ValueError: for another `up_to_stage`; with a backbone of another package, for
                what is neither all of it nor nothing.
        """
        # Refused here, where something compiled cannot be rebuilt, nothing is frozen yet.
        arguments = keras.saving.deserialize_keras_object(self.get_compile_config())
        if isinstance(self.backbone, PyramidBackbone):
            self.backbone.freeze(up_to_stage, batch_normalization)
        else:
            _freeze_whole(self.backbone, up_to_stage, batch_normalization)
        self._compile_again(arguments)

    def get_compile_config(self):
        # Saved with the model: a model that never trained has no optimizer state to load.
        return {**super().get_compile_config(), "optimizer_built": self.optimizer.built}

    def compile_from_config(self, config):
        self._compile_again(keras.saving.deserialize_keras_object(config))

    def _compile_again(self, arguments):
        optimizer_built = arguments.pop("optimizer_built")
        self.compile(**arguments)
        if optimizer_built:
            self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, *args, **kwargs):
        self._check_pixels(x)
        return super().fit(x, *args, **kwargs)

    def make_train_function(self, force=False):
        # Not first within the step: JAX's has taken the variables' values away by then.
        for layer in self._flatten_layers():
            if hasattr(layer, "fold"):
                refuse_training(layer, training=True)
        # Nor this: TensorFlow traces a step twice that makes variables.
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def evaluate(self, x=None, *args, **kwargs):
        self._check_pixels(x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        self._check_pixels(x)
        return super().predict(x, *args, **kwargs)

    @classmethod
    def from_config(cls, config):
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        if not backbone.trainable:
            # Keras tells a functional model so before it has its layers.
            for layer in backbone.layers:
                layer.trainable = False
        return cls(**{**config, "backbone": backbone})

    def _check_pixels(self, x):
        """Warns once where images look scaled to [0, 1]: they would come out all black."""
        if getattr(self, "_pixels_checked", False):
            return
        self._pixels_checked = True
        if looks_scaled(x):
            warnings.warn(
                "The first images have no pixel above 1: they look scaled to [0, 1] already. "
                f"{type(self).__name__} takes raw pixels in [0, 255] and normalizes them itself.",
                stacklevel=3,
            )


def _freeze_whole(backbone, up_to_stage, batch_normalization):
    if up_to_stage not in (0, 4) or batch_normalization:
        raise ValueError(
            f"The stages of a {type(backbone).__name__} are not known, so it can be frozen whole, "
            "`up_to_stage=4`, or not at all, 0. Received: "
            f"up_to_stage={up_to_stage}, batch_normalization={batch_normalization}"
        )
    backbone.trainable = up_to_stage == 0


def checked_names(class_names, num_classes):
    """Returns class names as a list of strings, or None.

    Raises:
        ValueError: where they are not distinct, or not as many as classes.
    """
    if class_names is None:
        return None
    class_names = [str(name) for name in class_names]
    if len(class_names) != num_classes or len(set(class_names)) != num_classes:
        raise ValueError(
            f"`class_names` must be {num_classes} distinct names, one per class. "
            f"Received {len(class_names)}: {class_names}"
        )
    return class_names
