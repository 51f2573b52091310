"""The process of one contender, `python zoo/worker.py '{"library": …}'`.

It says in one line of JSON that it is built, `{}`, or why it cannot be, `{"unavailable":
…}`, and then answers every line that it reads with one:

    forward         → seconds of one forward pass of a batch
    train           → seconds of one training step: forward, backward, AdamW
    memory          → bytes: highest resident size since building less that after building
    macs   → those of one example's forward pass

A step is over when its numbers are there. Weights are random, and nothing is dropped out.
"""

import importlib
import json
import os
import pathlib
import sys
import time

from contenders import Contender
from contenders import UnavailableError

# library → (module, what makes its steps).
LIBRARIES = {
    "keras_spm": ("keras_contenders", "make_keras_spm"),
    "keras_hub": ("keras_contenders", "make_keras_hub"),
    "zeromodels": ("keras_contenders", "make_zeromodels"),
    "matrix product": ("keras_contenders", "MatrixProduct"),
    "textbook": ("torch_contenders", "make_textbook"),
    "transformers": ("torch_contenders", "make_transformers"),
    "timm": ("torch_contenders", "make_timm"),
}


def build(contender):
    """Returns the contender's steps, an object with a method for each request but memory.

    Raises:
        ImportError, UnavailableError: where it is not to be had.
    """
    if contender.dtype == "bfloat16" and contender.library != "matrix product":
        import keras

        keras.config.set_dtype_policy("mixed_bfloat16")
    module, make = LIBRARIES[contender.library]
    return getattr(importlib.import_module(module), make)(contender)


def _memory():
    """Returns (resident bytes, highest since the last reset) of this process, on Linux."""
    rows = dict(
        line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines()
    )
    return tuple(int(rows[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))


def serve(contender, requests, answer):
    """Answers requests until there are none."""
    try:
        steps = build(contender)
    except (ImportError, UnavailableError) as error:
        answer({"unavailable": str(error)})
        return
    if sys.platform == "linux":
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets the highest size.
        resident, _ = _memory()
    answer({})
    for request in map(str.strip, requests):
        if request == "memory":
            answer(_memory()[1] - resident)
        elif request == "macs":
            answer(steps.macs())
        else:
            started = time.perf_counter()
            getattr(steps, request)()
            answer(time.perf_counter() - started)


def main():
    # What libraries print must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(
        Contender(**json.loads(sys.argv[1])),
        sys.stdin,
        lambda value: print(json.dumps(value), file=answers, flush=True),
    )


if __name__ == "__main__":
    main()
