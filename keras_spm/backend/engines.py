"""The engines of the frameworks that train on several devices."""

import atexit
import contextlib
import datetime
import os
import pathlib
import signal
import sys
import uuid
from collections.abc import Sequence

import keras

from keras_spm.backend.replicas import Replicas, activated

# Variables of `keras.distribution.initialize`, and of a TPU pod.
_KERAS_PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"
_POD_HOSTS = "TPU_WORKER_HOSTNAMES"
_AUTO = "auto"  # Instead of the number of processes of a pod.
_JAX_SILENCE = 60  # Seconds after which JAX ends the processes of one that does not answer.


def is_started_by_torchrun() -> bool:
    """Whether this is one of several processes that `torchrun` started."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ


def is_one_of_several() -> bool:
    """Whether the environment says that this is one of several processes that train together."""
    if keras.config.backend() == "jax":
        return _has_several_jax_processes()
    return is_started_by_torchrun()


def needs_processes(devices: int | None) -> bool:
    """Whether processes must be started, of which each trains on one device: on PyTorch.

    Args:
        devices: number, or None for all.
    """
    if keras.config.backend() != "torch" or is_started_by_torchrun():
        return False
    return devices is None or devices > 1


def planned(devices: int | None) -> Replicas:
    """Returns the replicas of processes that are not started."""
    available = num_devices()
    return Replicas(check_devices(devices, available), available)


def launch(command: Sequence[str], devices: int | None) -> int:
    """Runs a Python command in a PyTorch process for each device.

    Args:
        command: arguments of the Python interpreter.
        devices: number, or None for all GPUs.

    Returns:
        0, or 1 if a process failed, which is printed.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    count = check_devices(devices, num_devices())
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    # Of a clone that is not installed.
    package = str(pathlib.Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            ended = signal.Signals(-failure.exitcode).name
            print(f"error: process {rank} was ended by {ended}; all others too", file=sys.stderr)
        return 1
    return 0


def num_devices() -> int:
    """Returns the number of local devices: accelerators if there are any, or CPUs."""
    if keras.config.backend() == "torch":
        import torch

        return torch.cuda.device_count() or os.cpu_count() or 1
    if keras.config.backend() == "jax":
        import jax

        return jax.local_device_count()
    return len(_tensorflow_devices())


def check_devices(devices: int | None, available: int) -> int:
    """Returns the number of devices to use, by default all.

    Raises:
        ValueError: if there are fewer.
    """
    if devices is None:
        return available
    if devices > available:
        raise ValueError(
            f"`devices` must be at most the number of available devices, {available}. "
            f"Received: devices={devices}"
        )
    return devices


def engine(
    devices: int | None, synchronized_batch_normalization: bool, timeout: float
) -> contextlib.AbstractContextManager[Replicas]:
    """Returns a context manager of the engine of the backend; see `keras_spm.data_parallel`."""
    engines = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}
    start = engines[keras.config.backend()]
    return start(devices, synchronized_batch_normalization, timeout)


# === JAX ===


@contextlib.contextmanager
def _jax(devices, synchronized, timeout):
    import jax

    _start_jax_processes()
    processes, available = jax.process_count(), jax.device_count()
    count = check_devices(devices, available)
    if processes > 1 and count < available:
        raise ValueError(
            f"`devices` must be the {available} devices of all {processes} processes, or None. "
            f"Received: devices={devices}"
        )
    names = keras.distribution.list_devices()[:count]
    distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    before = keras.distribution.distribution()
    mesh = distribution.device_mesh.backend_mesh
    keras.distribution.set_distribution(distribution)
    replicas = Replicas(count, available, jax.process_index(), processes, synchronized, mesh)
    try:
        with activated(replicas):
            yield replicas
    finally:
        keras.distribution.set_distribution(before)


def _has_several_jax_processes():
    several = os.environ.get(_KERAS_PROCESSES, "1") != "1"
    return several or "," in os.environ.get(_POD_HOSTS, "")


def _start_jax_processes():
    import jax

    if jax.distributed.is_initialized() or not _has_several_jax_processes():
        return
    arguments = {}  # JAX knows those of a pod.
    if os.environ.get(_KERAS_PROCESSES, _AUTO) != _AUTO:
        addresses = os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES", "")
        arguments = {
            "coordinator_address": addresses.partition(",")[0],
            "num_processes": int(os.environ[_KERAS_PROCESSES]),
            "process_id": int(os.environ["KERAS_DISTRIBUTION_PROCESS_ID"]),
        }
    # As `keras.distribution.initialize`, which has no timeout.
    jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=_JAX_SILENCE)


# === TensorFlow ===


def _tensorflow_devices():
    import tensorflow as tf

    names = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in names]


@contextlib.contextmanager
def _tensorflow(devices, synchronized, timeout):
    import tensorflow as tf

    if "TF_CONFIG" in os.environ or is_started_by_torchrun():
        raise ValueError(
            "Keras does not train in several processes on TensorFlow: unset TF_CONFIG and start "
            "one process, or set KERAS_BACKEND=jax."
        )
    names = _tensorflow_devices()
    count = check_devices(devices, len(names))
    # On CPUs, TensorFlow's default may pair sums of different tensors.
    reduction = None if "GPU" in names[0] else tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(names[:count], reduction)
    replicas = Replicas(count, len(names), 0, 1, synchronized, strategy)
    with strategy.scope(), activated(replicas):
        yield replicas


# === PyTorch ===


@contextlib.contextmanager
def _torch(devices, synchronized, timeout):
    import torch

    gpus = torch.cuda.device_count()
    if not torch.distributed.is_initialized() and is_started_by_torchrun():
        if gpus:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group(
            "nccl" if gpus else "gloo", timeout=datetime.timedelta(seconds=timeout)
        )
        # Not earlier: a group that is made anew may find the addresses of the old one.
        atexit.register(_end_torch_processes)
    is_group = torch.distributed.is_initialized()
    processes = torch.distributed.get_world_size() if is_group else 1
    process = torch.distributed.get_rank() if is_group else 0
    if processes == 1 and (gpus if devices is None else devices) > 1:
        available = gpus or os.cpu_count()
        check_devices(devices, available)
        raise ValueError(
            "PyTorch trains on several devices with a process for each: start the script with "
            f"`torchrun --nproc-per-node {devices or gpus}`, or use `keras-spm train --devices "
            f"{devices or gpus}`. Received: devices={devices}"
        )
    if devices is not None and devices != processes:
        raise ValueError(
            f"`devices` must be the number of processes, {processes}, or None. "
            f"Received: devices={devices}"
        )
    replicas = Replicas(processes, max(processes, gpus), process, processes, synchronized)
    with activated(replicas):
        yield replicas


def _end_torch_processes():
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
