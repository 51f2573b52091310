"""Where JAX's arrays are: the state of a step on all devices, a batch divided among them."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_spm.backend.replicas import current

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
        is_part: whether the batch has the rows of this process alone. Otherwise every process
            has the whole batch, of which its devices get their rows.

    Raises:
        ValueError: if the devices of a process do not divide its rows.
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
            _check_part(array, active.count // active.processes)
            return global_array(array, divided)
        sharding = everywhere if array.shape[0] % active.count else divided
        return global_array(array, sharding, array.shape)

    return jax.tree.map(place_state, state), jax.tree.map(place_rows, batch)


def own_rows(size: int) -> Sequence[int]:
    """Returns the rows of a whole batch that the devices of this process compute, on JAX.

    They are all rows if there is one process, or if the devices do not divide the batch.
    """
    if not _is_jax() or current().processes == 1 or size % current().count:
        return range(size)
    parts = _sharding(_BATCH).addressable_devices_indices_map((size,)).values()
    return sorted({row for (rows,) in parts for row in range(size)[rows]})


def _check_part(array, devices):
    rows = array.shape[0]
    if rows % devices:
        raise ValueError(
            f"Batches of a `DataLoader` must be multiples of the {devices} devices of a process. "
            f"Received: a batch of {rows} examples. Set `drop_last=True`, or choose another "
            "`batch_size`."
        )


def spread(batch: Any) -> Any:
    """Returns the batch of a step, which JAX computes in parts, also if they are not equal."""
    if not _is_jax():
        return batch
    import jax

    sharding = _sharding(_BATCH)
    return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array, sharding), batch)
