"""The campaign of data-parallel training: three steps give the results of one device.

Run with `KERAS_BACKEND=torch python -m tests.campaigns.data_parallel`. `tests/distributed.py` has
the tasks and their data: small images, with few objects or labeled pixels on some devices and a
batch without any. Each task takes three steps of gradient descent on one device and on several,
with simulated devices of the CPU or in several processes, and some also two further batches, of
three images and of one, so that devices have none. Then some evaluate and predict. A training is
right if all devices have the same variables to the bit, and the differences to one device are at
most 1e-6 (weights, variables of the optimizer, losses and metrics) or 1e-5 (statistics of batch
normalization, and outputs after training, of which boxes are in pixels). Differences are relative
for values above 1. In negative controls the statistics, counts or gradients of other devices are
left out: they are right if they differ by more than ten times that. The result is written to
`data_parallel.md`; the exit status is 1 if a comparison is not right.
"""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

import keras

from tests.campaigns import report

RESULT = pathlib.Path(__file__).with_suffix(".md")
BACKEND = keras.config.backend()
LIMITS = {"weights": 1e-6, "statistics": 1e-5, "logs": 1e-6}
_LIMIT_OF_OUTPUTS = 1e-5
_OPTIMIZERS = "clipping,accumulation,averages,decay"
# As `tests.distributed` takes them: task with options, devices, and numbers of images to evaluate
# or what is left out. Those of every test run:
SHORT = {
    "torch": (
        *("classifier,rest,clipping,accumulation,averages:2:1,9", "segmenter,rest:2:1,7"),
        *("detector,rest:2:1,7,9", "instances:2", "layers,scaling:2"),
    ),
    "jax": ("detector:4:1,7,9", "layers,rest,clipping,accumulation,averages:4"),
    # A detector: tests/tasks/test_object_detector.py.
    "tensorflow": ("layers,rest,clipping,averages:2", "layers,scaling:2"),
}[BACKEND]
SHORT_CONTROLS = {
    "torch": ("classifier:2:statistics", "detector:2:counts"),
    "jax": (),
    "tensorflow": (),
}[BACKEND]
_LONG = {
    "torch": (
        *("segmenter:2:counts", "detector:2:gradients", "classifier:2:1,7,9"),
        *("classifier:2", "instances,rest:2:1,7"),
    ),
    "jax": (
        *("classifier:2", "segmenter:2", "detector:2", "instances:2"),
        *("segmenter,rest:4", "classifier,rest:4:1,7,9", "instances:4"),
        *("classifier:4:statistics", f"classifier,{_OPTIMIZERS}:4", "layers,scaling:4"),
    ),
    "tensorflow": (
        *("classifier,rest:2:1,7,9", "classifier:2:statistics", "instances:2:1,7"),
        *("segmenter:4:1,7,9", "detector,rest:4:1,7,9", "detector:2:counts", "detector:2"),
        "segmenter:2",
        *("segmenter,rest,clipping,averages,decay:2", "layers,rest:4"),
    ),
}[BACKEND]
# In two processes, which PyTorch always has.
_OF_JAX_PROCESSES = (
    *("layers,rest:2", "classifier,rest:2", "segmenter,rest:2:1,7", "detector,rest:2:1,7"),
    "instances:2",
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A comparison, and the number of processes that share its devices."""

    name: str
    processes: int = 1

    def __str__(self):
        return self.name + (f" in {self.processes} processes" if self.processes > 1 else "")


CASES = [
    *(Case(each, 2 if BACKEND == "torch" else 1) for each in (*SHORT, *SHORT_CONTROLS, *_LONG)),
    *(Case(each, 2) for each in (_OF_JAX_PROCESSES if BACKEND == "jax" else ())),
]


def run(names):
    """Returns {name: differences} of comparisons, made in one process or two of PyTorch."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    launcher = ()
    if BACKEND == "jax":
        count = " --xla_force_host_platform_device_count=4"
        environment["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + count
    if BACKEND == "torch":
        launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    command = [sys.executable, "-m", *launcher, "tests.distributed", *names]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    return _read(names, process.stdout, process.stderr)


def _run_jax_processes(names, processes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    running = []
    for rank in map(str, range(processes)):
        environment = {
            **{**os.environ, "OMP_NUM_THREADS": "1", "RANK": rank},
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
            "KERAS_DISTRIBUTION_NUM_PROCESSES": str(processes),
            "KERAS_DISTRIBUTION_PROCESS_ID": rank,
        }
        command = [sys.executable, "-m", "tests.distributed", *names]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, env=environment, **pipes))
    outputs = [process.communicate() for process in running]
    return _read(names, *outputs[0])


def _read(names, output, errors):
    found = {}
    for line in output.splitlines():
        if line.startswith("{"):
            found.update(json.loads(line))
    assert found.keys() == set(names), errors[-3000:]
    return found


def is_equal(differences):
    """Returns whether several devices gave the results of one."""
    return differences["ranks equal"] and differences["devices"] > 1 and not differs(differences, 1)


def differs(differences, times=10):
    """Returns whether a difference to one device is above a multiple of its limit."""
    kinds = differences.keys() - {"ranks equal", "devices"}
    return any(differences[kind] > times * LIMITS.get(kind, _LIMIT_OF_OUTPUTS) for kind in kinds)


def row(case: Case) -> dict:
    """Runs a case. Returns its row."""
    task, devices, *extra = case.name.split(":")
    task, *options = task.split(",")
    if BACKEND == "jax" and case.processes > 1:
        found = _run_jax_processes([case.name], case.processes)[case.name]
    else:
        found = run([case.name])[case.name]
    is_control = bool(extra) and extra[0].isalpha()
    is_right = differs(found) if is_control else is_equal(found)
    outputs = [found[kind] for kind in found if kind.startswith(("evaluate", "predict"))]
    return {
        "task": task,
        "options": ", ".join(options) or "–",
        "devices": devices,
        "processes": case.processes,
        "left out": extra[0] if is_control else "–",
        "images predicted": "–" if is_control or not extra else extra[0].replace(",", ", "),
        **{kind: f"{found[kind]:.1e}" for kind in LIMITS},
        "outputs": f"{max(outputs):.1e}" if outputs else "–",
        "verdict": "right" if is_right else "wrong",
    }


def main() -> int:
    """Runs the cases of this backend whose names have all arguments. Returns the exit status."""
    rows = []
    about = (
        "Batches of 4 images of 32×32, learning rate 0.05, float32, seed 0; the classifier is a "
        "PVT v2 of two stages with Stepwise Patch Merging, the others have convolutional "
        "backbones, UPerNet with its auxiliary head, RetinaNet and Mask R-CNN; `layers` is a "
        "convolution, a batch normalization and a dense layer."
    )
    for case in CASES:
        if all(part in str(case) for part in sys.argv[1:]):
            rows.append(row(case))
            print(rows[-1], flush=True)
            report.write(RESULT, rows, about, keys=6)
    return int(any(each["verdict"] != "right" for each in rows))


if __name__ == "__main__":
    sys.exit(main())
