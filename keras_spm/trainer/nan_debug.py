"""Why a training is not finite any more."""

import math

import keras
import numpy as np

from keras_spm.trainer.training_state import captured
from keras_spm.trainer.training_state import not_finite
from keras_spm.trainer.training_state import restore
from keras_spm.trainer.training_state import variables


def cause_of(model, batches, checkpoint, last):
    """Finds where values stop being finite, by repeating the steps since a checkpoint.

    Args:
        model: the one that was trained; it is of no use afterwards.
        batches: sequence of all batches.
        checkpoint: a `Checkpoint` from before.
        last: int, the step after which something was seen not to be finite.

    Returns:
        (step, str that says what is not finite there), or None where it does not come up
        again.
    """
    if problem := _of_batch(batches[last]):
        return last, problem
    restore(model, _without_metrics(checkpoint.arrays))
    for step in range(checkpoint.step, last + 1):
        before, batch = captured(model), batches[step]
        if problem := _of_batch(batch):
            return step, problem
        model.reset_metrics()
        logs = model.train_on_batch(*batch, return_dict=True)
        if not math.isfinite(logs["loss"]):
            return step, _of_loss(model, before, batch, logs)
        if after := not_finite(captured(model)):
            return step, _of_update(model, before, batch, variables(model)[after[0]].path)
    return None


def _of_batch(batch):
    """What is not finite in the images, targets or weights of a batch, or None."""
    names = ("images", "targets", "sample weights")
    for kind, part in zip(names, batch, strict=False):
        for path, array in keras.tree.flatten_with_path(part):
            array = np.asarray(array)
            if array.dtype.kind != "f" or np.isfinite(array).all():
                continue
            (where,) = np.nonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
            name = " ".join([kind, *map(repr, path)])
            places = ", ".join(str(place + 1) for place in where[:5])
            more = ", …" if len(where) > 5 else ""
            return f"the {name} of its batch are not finite (number {places}{more} of {len(array)})"
    return None


def _of_loss(model, before, batch, logs):
    restore(model, before)
    outputs = keras.tree.flatten(model(batch[0], training=True))
    outputs = [keras.ops.convert_to_numpy(each) for each in outputs]
    if not all(np.isfinite(each).all() for each in outputs if each.dtype.kind == "f"):
        return "the model's outputs are not finite, though its weights and the batch are"
    terms = ", ".join(name for name, value in logs.items() if not math.isfinite(value))
    return f"{terms} is not finite, though the model's outputs and the batch are"


def _of_update(model, before, batch, path):
    """A step of plain gradient descent tells whose gradient it is."""
    restore(model, before)
    rate = float(np.max(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
    model.optimizer = keras.optimizers.SGD(1.0)
    model.make_train_function(force=True)
    model.train_on_batch(*batch)
    gradients = {
        variable.path: keras.ops.convert_to_numpy(variable)
        for variable in model.trainable_variables
    }
    if wrong := not_finite(gradients):
        others = f" and {len(wrong) - 1} others" if len(wrong) > 1 else ""
        return f"the gradient of {wrong[0]}{others} is not finite, though the loss is"
    return f"the update at learning rate {rate:.3g} leaves {path} not finite"


def _without_metrics(arrays):
    return {name: array for name, array in arrays.items() if not name.startswith("metrics")}
