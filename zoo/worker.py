"""The process of one benchmark case, `python zoo/worker.py '{"library": …}'`.

It prints one line of JSON when the model is built: `{}`, or `{"unavailable": reason}`. Then it
reads requests, one per line, and prints one line of JSON for each:

    forward         → seconds of a forward pass on a batch
    train           → seconds of a training step: forward, backward, AdamW
    memory          → bytes: peak resident size since the model was built, minus the size then
    device memory   → bytes: peak of an accelerator's memory; 0 without one
    macs            → MACs of a forward pass on one example
    profile         → table of the operations of a training step

A step ends when its result is on the host. Weights are random, and dropout rates are 0.
"""

import importlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from case import RUNTIMES, Case, UnavailableError

# {library: (module, function that returns the steps of a case)}
LIBRARIES = {
    "keras_spm": ("keras_models", "make_keras_spm"),
    "keras_hub": ("keras_models", "make_keras_hub"),
    "zeromodels": ("keras_models", "make_zeromodels"),
    "matrix product": ("keras_models", "MatrixProduct"),
    "textbook": ("torch_models", "make_textbook"),
    "transformers": ("torch_models", "make_transformers"),
    "timm": ("torch_models", "make_timm"),
}


def build(case: Case) -> Any:
    """Builds the model of a case.

    Returns:
        An object with the methods `forward`, `train` and `macs`.

    Raises:
        ImportError: if the library is not installed.
        UnavailableError: if the library does not provide the model.
    """
    if case.backend in RUNTIMES:
        import deployed

        return deployed.RuntimeSteps(case, os.environ[deployed.FOLDER])
    if case.dtype == "bfloat16" and case.library != "matrix product":
        import keras

        keras.config.set_dtype_policy("mixed_bfloat16")
    module, make = LIBRARIES[case.library]
    return getattr(importlib.import_module(module), make)(case)


def _memory():
    """Returns (resident bytes, peak since the last reset) of this process, on Linux."""
    rows = dict(
        line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines()
    )
    return tuple(int(rows[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))


def _device_memory(backend):
    if backend == "torch":
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    if backend == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return 0


def serve(case: Case, requests: Iterable[str], answer: Callable[[Any], None]) -> None:
    """Builds the model and answers requests until there are no more."""
    try:
        steps = build(case)
    except (ImportError, UnavailableError) as error:
        answer({"unavailable": str(error)})
        return
    if sys.platform == "linux":
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets the peak.
        resident, _ = _memory()
    answer({})
    for request in map(str.strip, requests):
        if request == "memory":
            answer(_memory()[1] - resident)
        elif request == "macs":
            answer(steps.macs())
        elif request == "device memory":
            answer(_device_memory(case.backend))
        elif request == "profile":
            import profiling

            answer(profiling.profile(steps.train, case.backend))
        else:
            started = time.perf_counter()
            getattr(steps, request)()
            answer(time.perf_counter() - started)


def main() -> None:
    # Libraries may print to standard output; move that to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(
        Case(**json.loads(sys.argv[1])),
        sys.stdin,
        lambda value: print(json.dumps(value), file=answers, flush=True),
    )


if __name__ == "__main__":
    main()
