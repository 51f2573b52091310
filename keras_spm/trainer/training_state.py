"""All that decides how a training goes on, as arrays."""

import keras
import numpy as np

from keras_spm.backend import random_state
from keras_spm.backend import set_random_state

_METRICS, _RANDOM = "metrics", "random"


def variables(model):
    """Returns {name: variable} of a compiled model.

    They are those of the layers, with the state of their seed generators; of the optimizer,
    with averages and accumulated gradients; and of the metrics. Names count them: the paths
    of Keras need not be unique, and depend on what was built before.
    """
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    groups = {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        _METRICS: model.metrics_variables,
    }
    return {
        f"{group}.{number}": variable
        for group, members in groups.items()
        for number, variable in enumerate(members)
    }


def captured(model, metrics=False):
    """Returns {name: numpy array}: a copy of variables, and of other random state.

    Args:
        model: compiled.
        metrics: bool, whether those of metrics are among them: `fit` resets them when an
            epoch starts.
    """
    arrays = {
        name: _copied(variable)
        for name, variable in variables(model).items()
        if metrics or not name.startswith(_METRICS)
    }
    return arrays | {f"{_RANDOM}.{name}": state for name, state in random_state().items()}


def restore(model, arrays):
    """Gives a model what `captured` returned.

    Raises:
        ValueError: where the arrays are those of another model.
    """
    random = {name: array for name, array in arrays.items() if name.startswith(_RANDOM)}
    wanted = {name: array for name, array in arrays.items() if name not in random}
    with_metrics = any(name.startswith(_METRICS) for name in wanted)
    there = {
        name: variable
        for name, variable in variables(model).items()
        if with_metrics or not name.startswith(_METRICS)
    }
    if {name: tuple(each.shape) for name, each in there.items()} != {
        name: array.shape for name, array in wanted.items()
    }:
        raise ValueError("The checkpoint must be one of this model: other variables are in it.")
    for name, array in wanted.items():
        there[name].assign(array)
    set_random_state({name.removeprefix(f"{_RANDOM}."): each for name, each in random.items()})


def build_metrics(model, batch):
    """Makes the metrics that Keras would make with the first batch, and leaves them at zero.

    Args:
        model: compiled.
        batch: (images, targets) or (images, targets, weights), as `fit` takes them.
    """
    images, targets, weights = keras.utils.unpack_x_y_sample_weight(batch)
    shapes = model.compute_output_shape(images.shape)
    outputs = keras.tree.map_shape_structure(lambda shape: keras.ops.zeros(shape), shapes)
    model.compute_metrics(images, targets, outputs, weights)
    model.reset_metrics()


def not_finite(arrays):
    """Returns the names of those that hold a value which is not finite."""
    return [
        name
        for name, array in arrays.items()
        if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]


def _copied(variable):
    array = np.array(keras.ops.convert_to_numpy(variable))
    # Exact, and restored exactly; files of arrays have no bfloat16 for NumPy.
    return array.astype("float32") if array.dtype.name == "bfloat16" else array
