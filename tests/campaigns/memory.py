"""The memory campaign: what a process keeps after many rounds of the same work.

Run with `KERAS_BACKEND=torch python -m tests.campaigns.memory`, for some cases only with their
names as arguments. Each case is a process of its own:

- classifier, segmenter, detector: a round is `fit`, `evaluate` and `predict` of one batch;
- trainer: a round is an epoch of two steps, with validation and a checkpoint;
- generator: `predict` of 20,000 images from a generator; a round is 1,000 of them;
- models: a round makes a classifier, trains and applies it once, and deletes it;
- detect sizes, segment sizes: a round is an image of another size, which batching brings to one
  of a few sizes.

After half of the rounds and after all of them, it reads resident memory, file descriptors,
threads and the number of compilations: programs that XLA compiled (JAX), graphs that were
traced (TensorFlow), graphs of `torch.compile` (PyTorch). After every tenth of the rounds,
Python and the C library give free memory back, or fragments of it would be counted. A case
is right if in the second half nothing was compiled (but for new models), no descriptor and no
thread was added, and memory grew by at most the limit of the case. In the first hundred rounds
memory grows in any case: allocators and TensorFlow's input pipelines fill up.

The result is written to `memory.md`; the exit status is 1 if a case is not right, unless
`KNOWN` explains it.
"""

import ctypes
import dataclasses
import gc
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable

import keras
import numpy as np

from keras_spm import trainer
from tests.campaigns import report, tiny
from tests.campaigns.processes import PROCESSES

RESULT = pathlib.Path(__file__).with_suffix(".md")
IMAGES = 8  # Of a round.
GENERATED = 1000  # Images of a round of the generator.
SIDES = (32, 160)  # Smallest and largest side of images of all sizes.

# Programs of JAX run only a few times.
_COMPILE_FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

# (backend, case) → why it is not right.
# A network of 60 of Keras's own layers grows by 110 MB a round on the same images.
_KEPT = "TensorFlow keeps the graph of every training step; Keras's own layers grow as much"
KNOWN = {("tensorflow", "models"): _KEPT}


@dataclasses.dataclass(frozen=True)
class Case:
    """Work that is repeated.

    Attributes:
        rounds: number of rounds.
        work: function (rounds, sample), which calls `sample` after each round.
        limit: MB that the second half of the rounds may add to the resident memory.
        compiles: whether each round compiles, because it has a new model.
    """

    rounds: int
    work: Callable
    limit: float = 2.0
    compiles: bool = False


def _rounds(task):
    def work(rounds, sample):
        model = tiny.make(task)
        images, targets = tiny.data(task, IMAGES)
        for _ in range(rounds):
            model.fit(images, targets, verbose=0)
            model.evaluate(images, targets, verbose=0)
            model.predict(images, verbose=0)
            sample()

    return work


def _trainer(rounds, sample):
    recipe = trainer.load_recipe(
        "classification_digits", ["preset=pvt_v2_spm_mini", f"epochs={rounds}", "batch_size=8"]
    )
    setup = recipe.setup()
    validation = tuple(array[:IMAGES] for array in setup.validation)
    setup = dataclasses.replace(setup, steps_per_epoch=2, validation=validation)
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: sample())
    with tempfile.TemporaryDirectory() as folder:
        run_folder = trainer.RunFolder(pathlib.Path(folder, "run"))
        trainer.train(setup, recipe, run_folder, 0, [callback])


def _generator(rounds, sample):
    model = tiny.make("classifier")

    def batches():
        for _ in range(rounds):
            for _ in range(GENERATED // 50):
                yield (np.zeros((50, 32, 32, 3), "uint8"),)
            sample()

    outputs = model.predict(batches(), verbose=0)
    assert outputs.shape == (rounds * GENERATED, tiny.CLASSES)


def _models(rounds, sample):
    images, labels = tiny.data("classifier", IMAGES)
    for _ in range(rounds):
        model = tiny.make("classifier")
        model.fit(images, labels, verbose=0)
        model.predict(images, verbose=0)
        del model
        sample()


def _detect(rounds, sample):
    # A large divisor leaves few sizes to compile for.
    model = tiny.make("detector", batching={"size_divisor": 64})
    for image in _images(rounds):
        model.detect([image])
        sample()


def _segment(rounds, sample):
    model = tiny.make("segmenter", batching={"min_size": 64, "max_size": 96})
    for image in _images(rounds):
        model.segment([image])
        sample()


def _images(count):
    sizes = np.random.default_rng(0).integers(*SIDES, (count, 2), endpoint=True)
    return (tiny.image(*size) for size in sizes)


CASES = {
    # TensorFlow's memory goes up and down by 4 MB.
    "classifier": Case(500, _rounds("classifier"), limit=5.0),
    "segmenter": Case(40, _rounds("segmenter")),
    "detector": Case(40, _rounds("detector")),
    "trainer": Case(40, _trainer),
    "generator": Case(20, _generator),
    "models": Case(20, _models, limit=5.0, compiles=True),
    "detect sizes": Case(200, _detect),
    "segment sizes": Case(200, _segment),
}


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a process holds: resident memory (kB), descriptors, threads, compilations."""

    memory: float
    descriptors: int
    threads: int
    compilations: int


def _counter():
    """Starts to count compilations. Returns a function that returns their number."""
    backend = keras.config.backend()
    counted = []
    if backend == "jax":
        import jax

        def count(event, _, **__):
            if event == "/jax/core/compile/backend_compile_duration":
                counted.append(event)

        jax.monitoring.register_event_duration_secs_listener(count)
    elif backend == "tensorflow":
        from tensorflow.python.framework import func_graph

        initialize = func_graph.FuncGraph.__init__

        def count(graph, name, *arguments, **keywords):
            # Graphs of tf.data, made anew for each data set, are not compiled.
            if not name.startswith("Dataset"):
                counted.append(name)
            initialize(graph, name, *arguments, **keywords)

        func_graph.FuncGraph.__init__ = count
    else:
        from torch._dynamo.utils import counters

        return lambda: counters["stats"]["unique_graphs"]
    return lambda: len(counted)


def _read(compilations):
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        pages * os.sysconf("SC_PAGE_SIZE") / 1024,
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
        compilations(),
    )


def measure(connection, name):
    """Runs a case in this process, and sends its samples of the middle and the end."""
    case, compilations = CASES[name], _counter()
    samples, finished = [], 0

    def sample():
        nonlocal finished
        finished += 1
        if finished % (case.rounds // 10) == 0:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
        if finished in (case.rounds // 2, case.rounds):
            samples.append(_read(compilations))

    case.work(case.rounds, sample)
    connection.send(samples)


def run(name):
    """Runs a case in a process of its own. Returns its row of the table."""
    case, began = CASES[name], time.monotonic()
    here, there = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=measure, args=(there, name))
    process.start()
    there.close()
    try:
        middle, end = here.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{name}: the process ended with {process.exitcode}") from None
    process.join()
    growth = (end.memory - middle.memory) / (case.rounds - case.rounds // 2)
    return {
        "case": name,
        "rounds": case.rounds,
        "memory, MB": _pair(middle.memory / 1024, end.memory / 1024, ".0f"),
        "kB a round": f"{growth:.1f}",
        "descriptors": _pair(middle.descriptors, end.descriptors),
        "threads": _pair(middle.threads, end.threads),
        "compilations": _pair(middle.compilations, end.compilations),
        "seconds": f"{time.monotonic() - began:.0f}",
        "verdict": _verdict(name, case, middle, end),
    }


def _pair(middle, end, form=""):
    return f"{middle:{form}} → {end:{form}}"


def _verdict(name, case, middle, end):
    complaints = []
    if end.memory - middle.memory > 1024 * case.limit:
        complaints.append(f"more than {case.limit:.0f} MB in the second half")
    if end.descriptors > middle.descriptors or end.threads > middle.threads:
        complaints.append("descriptors or threads were added")
    if end.compilations > middle.compilations and not case.compiles:
        complaints.append("compiled again")
    reason = KNOWN.get((keras.config.backend(), name))
    if complaints and reason:
        complaints.append(f"known: {reason}")
    return "; ".join(complaints) or "right"


def main():
    """Runs all cases, or those in the arguments, and returns the exit status."""
    rows = []
    about = (
        f"Batches of {IMAGES} images of 32×32 (classifier) or {tiny.SIDE}×{tiny.SIDE}; sizes from "
        f"{SIDES[0]} to {SIDES[1]}; seed 0. Values are those after half of the rounds → after all."
    )
    os.environ |= {"OMP_NUM_THREADS": "1", "XLA_FLAGS": _COMPILE_FAST}
    for name in sys.argv[1:] or CASES:
        rows.append(run(name))
        print(rows[-1], flush=True)
        report.write(RESULT, rows, about)
    return int(any(row["verdict"] != "right" and "known: " not in row["verdict"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
