"""Training on several devices."""

import contextlib
from collections.abc import Iterator

from keras_spm.arguments import check_bool, check_integer, check_number
from keras_spm.backend import engines, replicas


@contextlib.contextmanager
def data_parallel(
    devices: int | None = None,
    synchronized_batch_normalization: bool = True,
    timeout: float = 600.0,
) -> Iterator[replicas.Replicas]:
    """Context manager in which models are built and trained on several devices.

    Each device has a copy of the model and computes a part of every batch. The results are those
    of one device with the same batches, up to rounding: the batch size of `fit`, `evaluate` and
    `predict` is that of a step on all devices, losses are divided by the counts of the whole
    batch, and metrics are those of all examples. The engines are:

    - JAX: `keras.distribution.DataParallel`. With several processes (the variables
      `KERAS_DISTRIBUTION_…`, see `keras.distribution.initialize`), the devices of all of them.
      On a TPU pod, set `KERAS_DISTRIBUTION_NUM_PROCESSES=auto`.
    - TensorFlow: `tf.distribute.MirroredStrategy`.
    - PyTorch: a process for each device, started by `torchrun`. Every process runs the same
      script with the same data, and takes its part of every batch.

    Build, compile and fit a model inside of the same `with` block.

    Args:
        devices: int, or None for all devices.
        synchronized_batch_normalization: whether the statistics of batch normalization are those
            of the whole batch, as on one device, or of the part of each device. Large batches may
            train better with the latter, as their recipes may have.
        timeout: seconds for which a PyTorch process waits for the others. It must be longer than
            what a single process does meanwhile, such as writing a checkpoint. JAX ends all
            processes if one does not answer for 60 seconds; see also the recipes' own watchdog.

    Yields:
        `Replicas` with the attributes `count`, `process` and `processes`.

    Raises:
        ValueError: if there are fewer devices, and for several processes that the backend does
            not support.

    Example:

    >>> with keras_spm.data_parallel():
    ...     backbone = keras_spm.PVTv2.from_preset("b0", load_weights=False)
    ...     model = keras_spm.ImageClassifier(backbone, num_classes=10)
    ...     model.fit(images, labels, batch_size=256)  # doctest: +SKIP
    """
    if devices is not None:
        check_integer("devices", devices)
    check_bool("synchronized_batch_normalization", synchronized_batch_normalization)
    check_number("timeout", timeout, allow_minimum=False)
    if replicas.current() is not None:
        raise ValueError("`data_parallel` must not be used inside of another `data_parallel`.")
    with engines.engine(devices, synchronized_batch_normalization, timeout) as active:
        yield active
