"""Numbers of a classifier's outputs against the labels."""

import keras
import numpy as np

_TOP = 5


def single_label_metrics(model, labels, outputs):
    """Returns {"accuracy", "top_5_accuracy", "loss"}: floats; the second of more than 5 classes.

    Args:
        model: the `ImageClassifier`.
        labels: (count,) ints.
        outputs: (count, num_classes), what the model gives.
    """
    top = np.argsort(-outputs, axis=-1, kind="stable")[:, :_TOP]
    right = top == labels[:, None]
    loss = keras.losses.sparse_categorical_crossentropy(
        labels, outputs, from_logits=_gives_logits(model)
    )
    metrics = {"accuracy": float(right[:, 0].mean())}
    if model.num_classes > _TOP:
        metrics["top_5_accuracy"] = float(right.any(axis=-1).mean())
    return {**metrics, "loss": float(np.mean(keras.ops.convert_to_numpy(loss)))}


def multi_label_metrics(model, labels, outputs):
    """Returns {"loss", "accuracy", "average_precision"}: floats.

    Args:
        model: the `ImageClassifier`.
        labels: (count, num_classes) of 0 and 1.
        outputs: (count, num_classes), what the model gives.
    """
    metrics = [keras.metrics.BinaryCrossentropy("loss", from_logits=_gives_logits(model))]
    # Fresh ones of the kinds that the model is compiled with by default.
    metrics += model.multi_label_metrics()
    for metric in metrics:
        metric.update_state(labels, outputs)
    return {metric.name: float(metric.result()) for metric in metrics}


def _gives_logits(model):
    return model.activation is keras.activations.linear
