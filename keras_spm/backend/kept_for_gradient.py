"""What a training step keeps of its forward pass until the gradient has been computed."""

import math

import keras


def bytes_kept_for_gradient(model, images, targets):
    """Returns the bytes of all intermediate results that the gradient of the loss needs.

    JAX and TensorFlow only trace the step; what XLA computes again rather than keep is not
    taken off. PyTorch runs the forward pass. Weights count where they are needed, so what
    an image takes is the difference between two sizes of batch.

    Args:
        model: a compiled `keras.Model`.
        images: array, a batch.
        targets: array, or structure of arrays.
    """
    return _BYTES[keras.config.backend()](model, images, targets)


def _loss(model, images, targets):
    outputs = model(images, training=True)
    return model.compute_loss(images, targets, outputs, training=True)


def _tensorflow(model, images, targets):
    import tensorflow as tf

    forward = []

    def step(images, targets):
        with tf.GradientTape() as tape:
            loss = _loss(model, images, targets)
        forward.extend(tf.compat.v1.get_default_graph().get_operations())
        return tape.gradient(loss, [each.value for each in model.trainable_variables])

    specs = keras.tree.map_structure(
        lambda array: tf.TensorSpec(array.shape, array.dtype), (images, targets)
    )
    graph = tf.function(step).get_concrete_function(*specs).graph
    known = set(forward)
    kept = {
        tensor.ref(): tensor
        for operation in graph.get_operations()
        if operation not in known
        for tensor in operation.inputs
        if tensor.op in known
    }
    return sum(_size(each.shape, each.dtype.size) for each in kept.values())


def _jax(model, images, targets):
    import jax

    variables = [*model.non_trainable_variables, *model.metrics_variables]

    def loss(trainable, others):
        mapping = [*zip(model.trainable_variables, trainable, strict=True)]
        mapping += zip(variables, others, strict=True)
        with keras.StatelessScope(state_mapping=mapping):
            return _loss(model, images, targets)

    def kept(trainable, others):
        return jax.vjp(lambda values: loss(values, others), trainable)[1]

    trainable = [each.value for each in model.trainable_variables]
    arrays = jax.eval_shape(kept, trainable, [each.value for each in variables])
    return sum(_size(each.shape, each.dtype.itemsize) for each in jax.tree.leaves(arrays))


def _torch(model, images, targets):
    import torch

    sizes = {}

    def note(tensor):
        # Views of one tensor keep it once.
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    images, targets = keras.tree.map_structure(keras.ops.convert_to_tensor, (images, targets))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = _loss(model, images, targets)
    del loss
    return sum(sizes.values())


def _size(shape, item):
    return math.prod(shape) * item


_BYTES = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}
