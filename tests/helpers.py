"""What tests on three backends need: numpy in and out, gradients, known weights."""

import inspect
import json
import pickle
import sys

import keras
import numpy as np

import keras_spm
from keras_spm.backend import chunked


def to_numpy(value):
    return keras.ops.convert_to_numpy(value)


def difference(left, right):
    """The largest absolute difference."""
    return float(np.abs(to_numpy(left).astype("float64") - to_numpy(right)).max())


def random_array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def conv_backbone(channels=8):
    """A functional model with a pyramid, which compiles faster than a transformer."""
    maps, x = {}, (images := keras.Input((None, None, 3)))
    for level, stride in zip(("P2", "P3", "P4", "P5"), (4, 2, 2, 2), strict=True):
        layer = keras.layers.Conv2D(channels, 3, stride, "same", name=level, activation="tanh")
        x = maps[level] = layer(x)
    model = keras.Model(images, maps)
    model.pyramid_outputs = maps
    return model


def tiny_backbone(**arguments):
    """The smallest PVT v2 with four stages."""
    ones = {"depths": (1,) * 4, "num_heads": (1,) * 4, "mlp_ratios": (1,) * 4}
    return keras_spm.PVTv2(embed_dims=(8,) * 4, sr_ratios=(1,) * 4, **ones, **arguments)


def randomize(model, seed=0):
    """Gives every variable a known random value, so that no two could be swapped unseen."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        value = generator.normal(0, 0.2, variable.shape)
        if variable.path.endswith(("gamma", "moving_variance")):
            value = 1 + np.abs(value)
        variable.assign(value.astype("float32"))
    return model


def outputs_of(model, inputs):
    """Returns the outputs in inference mode, as fast as the backend can once.

    JAX compiles every operation by itself, and TensorFlow takes longer to trace a graph.
    """
    if keras.config.backend() == "tensorflow":
        return keras.tree.map_structure(to_numpy, model(inputs))
    return model.predict(inputs, verbose=0)


def compiled(function):
    """Returns a function of arrays as one program on JAX, without effects on variables.

    Otherwise JAX compiles every operation by itself.
    """
    if keras.config.backend() != "jax":
        return function
    import jax

    def stateless(*arrays):
        with keras.StatelessScope():
            return function(*arrays)

    return jax.jit(stateless)


def error_message(function, **arguments):
    """Returns the message of the `ValueError` of a call, which must be one line."""
    try:
        function(**arguments)
    except ValueError as refused:
        message = str(refused)
        assert "\n" not in message, message
        return message
    raise AssertionError(f"{function} accepts {arguments}")


def check_equal(model, other, inputs):
    """Checks that two models have the same variable paths, and the same outputs to the bit."""
    check_all_equal(model, [other], inputs)


def check_all_equal(model, others, inputs):
    """The same for several models."""
    expected = keras.tree.flatten(model(inputs))
    for other in others:
        assert [v.path for v in other.weights] == [v.path for v in model.weights]
        pairs = zip(keras.tree.flatten(other(inputs)), expected, strict=True)
        assert all(difference(*pair) == 0 for pair in pairs)


def check_round_trips(model, inputs, folder):
    """Checks saving, pickling, cloning and serialization of a model."""
    model.save(folder / "model.keras")
    text = json.dumps(keras.saving.serialize_keras_object(model))
    clones = (
        keras.models.clone_model(model),
        keras.saving.deserialize_keras_object(json.loads(text)),
    )
    for clone in clones:
        clone.set_weights(model.get_weights())
    saved = keras.saving.load_model(folder / "model.keras")
    others = (saved, pickle.loads(pickle.dumps(model)), *clones)
    check_all_equal(model, others, inputs)


def gradients(layer, inputs, cotangent, training=True):
    """One step's outputs and gradients of sum(outputs * cotangent).

    Returns:
        (outputs, {variable path: gradient}, gradient of the inputs), all numpy. Running
        statistics are updated in training.
    """
    has_training = "training" in inspect.signature(layer.call).parameters
    options = {"training": training} if has_training else {}
    step = _GRADIENTS[keras.config.backend()]
    outputs, by_variable, by_input = step(layer, inputs, cotangent, options)
    paths = [variable.path for variable in layer.trainable_variables]
    by_path = dict(zip(paths, map(to_numpy, by_variable), strict=True))
    return to_numpy(outputs), by_path, to_numpy(by_input)


def gradients_at_once_and_by_image(layer, inputs, cotangent, training, monkeypatch):
    """Returns `gradients` with all images at once, and image by image."""
    results = []
    for min_bytes in (sys.maxsize, 0):
        monkeypatch.setattr(chunked, "_MIN_BYTES", min_bytes)
        results.append(gradients(layer, inputs, cotangent, training))
    return results


def _tensorflow_gradients(layer, inputs, cotangent, options):
    import tensorflow as tf

    inputs = tf.constant(inputs)
    variables = [variable.value for variable in layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, **options)
        total = tf.reduce_sum(tf.cast(outputs, "float32") * cotangent)
    *by_variable, by_input = tape.gradient(total, [*variables, inputs])
    return outputs, by_variable, by_input


def _jax_gradients(layer, inputs, cotangent, options):
    import jax

    def total(trainable, inputs, state):
        outputs, state = layer.stateless_call(trainable, state, inputs, **options)
        return (outputs.astype("float32") * cotangent).sum(), (outputs, state)

    trainable = [variable.value for variable in layer.trainable_variables]
    state = [variable.value for variable in layer.non_trainable_variables]
    step = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    (by_variable, by_input), (outputs, state) = step(trainable, jax.numpy.array(inputs), state)
    for variable, value in zip(layer.non_trainable_variables, state, strict=True):
        variable.assign(value)
    return outputs, by_variable, by_input


def _torch_gradients(layer, inputs, cotangent, options):
    import torch

    layer.zero_grad()
    inputs = torch.tensor(inputs, requires_grad=True)
    outputs = layer(inputs, **options)
    (outputs.float() * torch.tensor(cotangent)).sum().backward()
    by_variable = [variable.value.grad for variable in layer.trainable_variables]
    return outputs, by_variable, inputs.grad


_GRADIENTS = {"tensorflow": _tensorflow_gradients, "jax": _jax_gradients, "torch": _torch_gradients}
