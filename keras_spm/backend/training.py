"""Training: memory for the gradient, random state outside of Keras, and parameters."""

import math
from typing import Any

import keras
import numpy as np


def bytes_kept_for_gradient(model: keras.Model, images: np.ndarray, targets: Any) -> int:
    """Returns the bytes of all intermediate results that the gradient of the loss needs.

    JAX and TensorFlow only trace the step; results that XLA recomputes count as kept.
    PyTorch runs the forward pass. Weights that the gradient needs are included, so the
    memory of one image is the difference between two batch sizes.
    """
    formulations = {"jax": _jax_bytes, "tensorflow": _tensorflow_bytes, "torch": _torch_bytes}
    return formulations[keras.config.backend()](model, images, targets)


def random_state() -> dict[str, np.ndarray]:
    """Returns {device: state} of the backend's own random generators.

    The state of Keras's `SeedGenerator`s is in variables. Only PyTorch's fast dropout draws
    from generators of the backend, one per device. Other backends return an empty dict.
    """
    if keras.config.backend() != "torch":
        return {}
    import torch

    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        for number, state in enumerate(torch.cuda.get_rng_state_all()):
            states[f"cuda:{number}"] = state
    return {device: state.numpy().copy() for device, state in states.items()}


def set_random_state(states: dict[str, np.ndarray]) -> None:
    """Restores the result of `random_state`; devices that no longer exist are skipped."""
    if not states:
        return
    import torch

    for device, state in states.items():
        if device == "cpu":
            torch.set_rng_state(torch.from_numpy(state))
        elif int(device.removeprefix("cuda:")) < torch.cuda.device_count():
            torch.cuda.set_rng_state(torch.from_numpy(state), device)


def track_again(layer: keras.layers.Layer) -> None:
    """Updates the parameters that PyTorch knows, after variables were added or removed."""
    if keras.config.backend() == "torch":
        for each in layer._flatten_layers():
            if hasattr(each, "_torch_params"):  # Not in models that are built without memory.
                each._track_variables()


def _loss(model, images, targets):
    outputs = model(images, training=True)
    return model.compute_loss(images, targets, outputs, training=True)


def _tensorflow_bytes(model, images, targets):
    import tensorflow as tf

    forward_operations = []

    def step(images, targets):
        with tf.GradientTape() as tape:
            loss = _loss(model, images, targets)
        forward_operations.extend(tf.compat.v1.get_default_graph().get_operations())
        return tape.gradient(loss, [each.value for each in model.trainable_variables])

    specs = keras.tree.map_structure(
        lambda array: tf.TensorSpec(array.shape, array.dtype), (images, targets)
    )
    graph = tf.function(step).get_concrete_function(*specs).graph
    forward = set(forward_operations)
    kept = {
        tensor.ref(): tensor
        for operation in graph.get_operations()
        if operation not in forward
        for tensor in operation.inputs
        if tensor.op in forward
    }
    # One result of a fused batch normalization, empty but on GPUs, has no known shape.
    kept = [tensor for tensor in kept.values() if tensor.shape.rank is not None]
    return sum(math.prod(tensor.shape) * tensor.dtype.size for tensor in kept)


def _jax_bytes(model, images, targets):
    import jax

    variables = [*model.non_trainable_variables, *model.metrics_variables]

    def loss(trainable, others):
        mapping = [*zip(model.trainable_variables, trainable, strict=True)]
        mapping += zip(variables, others, strict=True)
        with keras.StatelessScope(state_mapping=mapping):
            return _loss(model, images, targets)

    def residuals(trainable, others):
        return jax.vjp(lambda values: loss(values, others), trainable)[1]

    trainable = [each.value for each in model.trainable_variables]
    arrays = jax.eval_shape(residuals, trainable, [each.value for each in variables])
    return sum(math.prod(array.shape) * array.dtype.itemsize for array in jax.tree.leaves(arrays))


def _torch_bytes(model, images, targets):
    import torch

    sizes = {}

    def record(tensor):
        # Views of one tensor share its storage.
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    images, targets = keras.tree.map_structure(keras.ops.convert_to_tensor, (images, targets))
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        loss = _loss(model, images, targets)
    del loss
    return sum(sizes.values())
