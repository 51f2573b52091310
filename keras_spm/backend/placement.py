"""Where JAX's arrays are: the state of a step on all devices, a batch divided among them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_spm.backend.replicas import current, has_parts, sum_over_replicas

_BATCH = "batch"  # Axis of the mesh of `keras.distribution.DataParallel`.


def _is_jax():
    return keras.config.backend() == "jax" and current() is not None


@contextlib.contextmanager
def undistributed() -> Iterator[None]:
    """Context manager in which Keras leaves batches on the host.

    Keras would raise an error for a batch that the devices do not divide, such as the last one.
    """
    before = keras.distribution.distribution() if _is_jax() else None
    if before is None:
        yield
        return
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def replicated() -> Any:
    """Returns the sharding of arrays that every device has, or None for a single device."""
    return _sharding() if _is_jax() else None


def _sharding(*axes):
    import jax

    return jax.sharding.NamedSharding(current().engine, jax.sharding.PartitionSpec(*axes))


def placed(state: Any, batch: Any, is_part: bool) -> tuple[Any, Any]:
    """Returns the state of a JAX step on all devices, and the batch divided among them.

    A batch that the devices do not divide is on all of them; `spread` divides it in the step.

    Args:
        state, batch: arguments of the step.
        is_part: whether the batch has the rows of this process alone.
    """
    if not _is_jax():
        return state, batch
    import jax

    active = current()
    everywhere, divided = _sharding(), _sharding(_BATCH)

    def global_array(array, sharding, shape=None):
        if active.processes == 1:
            return jax.device_put(array, sharding)
        return jax.make_array_from_process_local_data(sharding, array, shape)

    def place_state(array):
        if isinstance(array, jax.Array) and array.sharding.is_equivalent_to(everywhere, array.ndim):
            return array
        return global_array(jax.numpy.asarray(array), everywhere, array.shape)

    def place_rows(array):
        if is_part:
            return global_array(array, divided)
        sharding = everywhere if array.shape[0] % active.count else divided
        return global_array(array, sharding, array.shape)

    return jax.tree.map(place_state, state), jax.tree.map(place_rows, batch)


def spread(batch: Any, is_training: bool = False) -> Any:
    """Returns the batch of a step, which JAX computes in parts, also if they are not equal.

    Raises:
        ValueError, tf.errors.InvalidArgumentError: in training on TensorFlow, if the parts of
            the replicas are not equal.
    """
    if _is_jax():
        import jax

        sharding = _sharding(_BATCH)
        return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array, sharding), batch)
    if is_training and keras.config.backend() == "tensorflow" and has_parts():
        _check_equal_parts(batch)
    return batch


def _check_equal_parts(batch):
    import tensorflow as tf

    rows = tf.cast(tf.shape(tf.nest.flatten(batch)[0])[0], "float32")
    total, count = sum_over_replicas(rows, tf.ones(()))
    tf.debugging.assert_equal(
        total,
        rows * count,
        "Every batch of `fit` must be a multiple of the number of devices. Choose another "
        "`batch_size`, or leave examples out.",
    )
