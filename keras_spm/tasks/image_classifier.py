"""Image classification on any backbone."""

import keras
import numpy as np

from keras_spm.data.preprocessing import ImagePreprocessing
from keras_spm.data.preprocessing import read_images
from keras_spm.layers.image_normalization import IMAGENET_MEAN
from keras_spm.layers.image_normalization import IMAGENET_STD
from keras_spm.layers.image_normalization import ImageNormalization
from keras_spm.layers.initializers import dense_initializer
from keras_spm.layers.macs import macs
from keras_spm.optimizers import AdamW
from keras_spm.tasks.image_task import ImageTask
from keras_spm.tasks.image_task import checked_names


@keras.saving.register_keras_serializable("keras_spm")
class ImageClassifier(ImageTask):
    """Raw images in, class logits out.

    Images are (batch, height, width, 3) with pixels in [0, 255], of any dtype; they are
    normalized inside the model, in float32. The result is (batch, num_classes) in
    float32. The model is compiled with defaults that suit fine-tuning on integer labels,
    or, where an image may have several classes, on (batch, num_classes) of 0 and 1; call
    `compile` again for others.

    Args:
        backbone: a backbone of this package.
        num_classes: int.
        class_names: optional `num_classes` distinct strings, kept with the model.
        activation: of the last layer; `None` for logits.
        dropout: float, rate before the last layer.
        mean: three floats, for pixels scaled to [0, 1].
        std: three floats, likewise.
        preprocessing: optional `keras_spm.data.ImagePreprocessing`, or a dict of its
            arguments: what `classify` does with images first. Kept with the model.
        multi_label: bool, whether an image may have several classes, or none. Their
            probabilities are then independent.

    Raises:
        ValueError: where `class_names` are not distinct or not as many as classes.

    Example:

    >>> backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
    >>> model = keras_spm.ImageClassifier(backbone, num_classes=10)
    >>> images = np.random.randint(0, 256, (8, 32, 32, 3), dtype="uint8")
    >>> history = model.fit(images, np.arange(8), verbose=0)
    >>> model.classify(images[0], top=2)  # doctest: +SKIP
    [('3', 0.2), ('7', 0.1)]
    """

    pipeline_tag = "image-classification"

    def __init__(
        self,
        backbone,
        num_classes,
        class_names=None,
        activation=None,
        dropout=0.0,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        preprocessing=None,
        multi_label=False,
        **kwargs,
    ):
        class_names = checked_names(class_names, num_classes)
        if isinstance(preprocessing, dict):
            preprocessing = ImagePreprocessing(**preprocessing)

        # === Layers ===
        normalization = ImageNormalization(
            mean,
            std,
            data_format=backbone.data_format,
            dtype=backbone.dtype_policy,
            name="normalization",
        )
        features = keras.Model(backbone.input, backbone.pooled_output, name="features")
        dropout_layer = keras.layers.Dropout(dropout, dtype=backbone.dtype_policy, name="dropout")
        # float32 under every policy: half a digit of a logit is too coarse for a loss.
        head = keras.layers.Dense(
            num_classes,
            activation=activation,
            kernel_initializer=dense_initializer(),
            dtype="float32",
            name="head",
        )

        # === Functional Model ===
        images = keras.Input(backbone.image_shape, name="images")
        outputs = head(dropout_layer(features(normalization(images))))
        super().__init__(inputs=images, outputs=outputs, **kwargs)

        # === Config ===
        self.backbone = backbone
        self.num_classes = num_classes
        self.class_names = class_names
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.preprocessing = preprocessing
        self.multi_label = multi_label
        self.compile()

    def compile(self, optimizer="auto", loss="auto", metrics="auto", **kwargs):
        """Configures training; `"auto"` stands for what suits fine-tuning.

        Args:
            optimizer: by default AdamW, learning rate 1e-4, weight decay 0.05 on kernels.
            loss: by default cross-entropy of integer labels, or with `multi_label` the
                binary one of each class.
            metrics: by default accuracy, and with `multi_label` the mean over classes of
                the average precision as well.
            **kwargs: as `keras.Model.compile` takes them.
        """
        if optimizer == "auto":
            optimizer = AdamW(learning_rate=1e-4, weight_decay=0.05)
        from_logits = self._gives_logits
        if metrics == "auto":
            if self.multi_label:
                metrics = self.multi_label_metrics()
            elif loss == "auto":
                # Not by name: Keras would make it in the first step, which TensorFlow then traces
                # twice.
                metrics = [keras.metrics.SparseCategoricalAccuracy("accuracy")]
            else:
                metrics = ["accuracy"]
        if loss == "auto":
            loss = (
                keras.losses.BinaryCrossentropy(from_logits)
                if self.multi_label
                else keras.losses.SparseCategoricalCrossentropy(from_logits)
            )
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    @property
    def _gives_logits(self):
        return self.activation is keras.activations.linear

    def multi_label_metrics(self):
        """Returns new metrics of outputs against (batch, num_classes) of 0 and 1.

        They are called `accuracy`, of all classes of all images alike, and
        `average_precision`, the mean over classes, from 200 thresholds.
        """
        return [
            keras.metrics.BinaryAccuracy("accuracy", threshold=0.0 if self._gives_logits else 0.5),
            keras.metrics.AUC(
                curve="PR",
                name="average_precision",
                multi_label=True,
                num_labels=self.num_classes,
                from_logits=self._gives_logits,
            ),
        ]

    def classify(self, images, top=5, batch_size=32):
        """Names the most likely classes.

        Args:
            images: one image or several: paths of image files, `PIL.Image`s, or arrays
                (height, width, 3) or (batch, height, width, 3) with pixels in [0, 255].
                They go through `preprocessing`, where the model has one; where it has
                none, several must be of one size.
            top: int, how many classes.
            batch_size: int.

        Returns:
            For each image a list of (class name, probability), the likeliest first; for
            a single image just that list. Without `class_names` the class's number
            stands for its name.

        Raises:
            FileNotFoundError: for a path without a file.
            ValueError: for what cannot be read as an image.
        """
        images = read_images(images) if self.preprocessing is None else self.preprocessing(images)
        single = images.ndim == 3
        images = images[None] if single else images
        if self.backbone.data_format == "channels_first":
            images = images.transpose(0, 3, 1, 2)
        outputs = self.predict(images, batch_size, verbose=0)
        names = self.class_names or [str(index) for index in range(self.num_classes)]
        results = [
            [(names[index], float(row[index])) for index in np.argsort(-row, kind="stable")[:top]]
            for row in self._probabilities(outputs)
        ]
        return results[0] if single else results

    def _probabilities(self, outputs):
        if not self._gives_logits:
            return outputs
        if self.multi_label:
            return 0.5 * (1 + np.tanh(outputs / 2))  # The sigmoid, without overflow.
        exponentials = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        return exponentials / exponentials.sum(axis=-1, keepdims=True)

    def macs(self, input_shape):
        """Returns the MACs of one image of shape (batch, height, width, 3)."""
        head = self.get_layer("head")
        pooled_shape = self.backbone.pooled_output.shape
        return macs(self.backbone, input_shape) + macs(head, pooled_shape)

    def get_config(self):
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "mean": self.mean,
            "std": self.std,
            "preprocessing": self.preprocessing and self.preprocessing.get_config(),
            "multi_label": self.multi_label,
            "name": self.name,
            "trainable": self.trainable,
        }
