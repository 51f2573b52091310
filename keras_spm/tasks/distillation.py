"""Training of a classifier with the logits and the maps of a teacher."""

from typing import Any

import keras
from keras import ops

from keras_spm.arguments import argument_error, check_number
from keras_spm.backend import filled_in_step, scale_for_replicas
from keras_spm.losses.unexplained_variance import unexplained_variance
from keras_spm.tasks.replicated_loss import share_of_loss
from keras_spm.types import Tensor


class DistillationMixin:
    """Adds the outputs of a teacher to the loss of a classifier, see `distill`."""

    _distillation = None  # Functions, so that Keras does not track the teacher as a layer.

    def distill(
        self,
        teacher: keras.Model | None,
        weight: float = 0.5,
        temperature: float = 1.0,
        maps_weight: float = 0.0,
    ) -> None:
        """Lets the model learn from a teacher in `fit`, beside the labels.

        In training, the loss is

        `(1 - weight) * loss + weight * T**2 * KL(teacher || model) + maps_weight * maps`,

        where KL compares the class probabilities at the temperature T, and `maps` is the mean
        unexplained variance of the maps of all stages. Both models get the same augmented
        images. Validation and saved files do not have the teacher.

        Args:
            teacher: trained `ImageClassifier` with the same classes, which is frozen; for
                `maps_weight`, with maps of the same shapes. `None` for training without.
            weight: float from 0 to 1.
            temperature: float above 0.
            maps_weight: float of at least 0.

        Raises:
            ValueError: if an argument is not one of these.

        Example:

        >>> teacher = keras_spm.ImageClassifier.from_preset("pvt_v2_b1")  # doctest: +SKIP
        >>> model = keras_spm.ImageClassifier.from_preset("pvt_v2_spm_b1")  # doctest: +SKIP
        >>> model.distill(teacher, temperature=3, maps_weight=0.5)  # doctest: +SKIP

        Reference:
            Hinton et al., "Distilling the knowledge in a neural network" (arXiv 1503.02531).
        """
        self.train_function = None  # It is made again by the next `fit`.
        if teacher is None:
            self._distillation = None
            return
        weight = check_number("weight", weight, 0, 1)
        temperature = check_number("temperature", temperature, allow_minimum=False)
        maps_weight = check_number("maps_weight", maps_weight)
        self._check_teacher(teacher)
        teacher.trainable = False
        levels = list(self.backbone.pyramid_level_inputs) if maps_weight else []
        own, others = (_with_maps(model, levels) for model in (self, teacher))
        if [each.shape[1:] for each in own.outputs] != [each.shape[1:] for each in others.outputs]:
            raise argument_error("teacher", "a model with maps of the same channels", teacher)
        outputs = {}  # Of the current step.

        def call(inputs):
            outputs.update(own(inputs, training=True))
            return outputs["logits"]

        def add_to(loss, inputs):
            targets = others(filled_in_step(inputs), training=False)
            added = weight * _divergence(targets["logits"], outputs["logits"], temperature)
            for level in levels:
                error = unexplained_variance(ops.stop_gradient(targets[level]), outputs[level])
                added += maps_weight / len(levels) * error
            outputs.clear()
            return (1 - weight) * loss + scale_for_replicas(added)

        self._distillation = (call, add_to)

    def _check_teacher(self, teacher):
        if not hasattr(teacher, "_outputs_logits") or teacher.num_classes != self.num_classes:
            allowed = f"an `ImageClassifier` with {self.num_classes} classes"
            raise argument_error("teacher", allowed, teacher)
        for model in (self, teacher):
            if model.multi_label or not model._outputs_logits:
                raise ValueError(
                    "`distill` needs models with logits of exclusive classes. Received: "
                    f"multi_label={model.multi_label}, activation={model.activation}"
                )

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None) -> Tensor:
        if self._distillation is None or not training:
            return super().call(inputs, training=training, mask=mask)
        call, _ = self._distillation
        return call(inputs)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        loss = loss * share_of_loss(self.loss, y)
        if self._distillation is None or not training:
            return loss
        _, add_to = self._distillation
        return add_to(loss, x)


def _with_maps(model, levels):
    """Returns a model of the logits and the maps of a classifier."""
    names = model.backbone.pyramid_level_inputs
    maps = {level: model.get_layer(names[level]).output for level in levels}
    return keras.Model(model.input, {"logits": model.output, **maps})


def _divergence(teacher_logits, logits, temperature):
    """Returns the Kullback-Leibler divergence, times the squared temperature."""
    targets = ops.stop_gradient(ops.log_softmax(teacher_logits / temperature))
    differences = targets - ops.log_softmax(logits / temperature)
    divergence = ops.sum(ops.exp(targets) * differences, axis=-1)
    return temperature**2 * ops.mean(divergence)
