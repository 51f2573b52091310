"""The kill campaign: a training killed at any moment ends as one that was never killed.

Run with `python -m tests.campaigns.kills`, or for one backend with `--backend torch`. The
training is `tests/trainer/small_training.py`: dropout, batch normalization, averages of the
weights, accumulation, augmentation, and checkpoints every three steps of eight. It is killed
by SIGKILL, about every second time while a checkpoint is written, and started again by the
same call, until its run has had its share of kills; then it is let finish. What it leaves
must be, bit for bit, what an unkilled run leaves: weights and slots of the best model, all
metrics, the result. The table is written to `kills.md` beside this file; the exit status is
1 if a run ends otherwise.
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from importlib import metadata

from tests.trainer import small_training

RESULT = pathlib.Path(__file__).with_suffix(".md")
BACKENDS = ("jax", "tensorflow", "torch")
KILLS = 30
_KILLS_PER_RUN = 5
_LIMIT = 300  # Seconds that a process may take.
_RECIPE = small_training.Recipe(epochs=6)
_PROCESSES = multiprocessing.get_context("forkserver")
# What every process would import is imported once; Keras itself looks for TensorFlow.
_PROCESSES.set_forkserver_preload([small_training.__name__, "grain", "tensorflow"])


@dataclasses.dataclass
class Run:
    """A training that is started, killed, and started again.

    Attributes:
        output: path of its run folder.
        kills, inside: how often it was killed, and how often of these while a checkpoint
            was written.
        starts: how many processes trained.
    """

    output: pathlib.Path
    kills: int = 0
    inside: int = 0
    starts: int = 0

    def saving(self):
        """Returns whether the last process writes a checkpoint, or was killed while it did."""
        folder = self.output.with_name(f"{self.output.name}-UNFINISHED") / "checkpoints/unfinished"
        with contextlib.suppress(FileNotFoundError):  # It may get its name meanwhile.
            # What a process before left half written is older.
            return any(each.stat().st_mtime_ns > self._started for each in folder.iterdir())
        return False

    def start(self):
        """Returns a process that trains."""
        self.starts += 1
        self._started = time.time_ns()
        arguments = (self.output, _RECIPE)
        process = _PROCESSES.Process(target=small_training.train_small, args=arguments)
        process.start()
        return process

    def finish(self):
        """Trains until the end; returns the seconds that it took.

        Raises:
            RuntimeError: where the process fails.
        """
        began = time.monotonic()
        process = self.start()
        process.join(_LIMIT)
        process.kill()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"{self.output}: exit status {process.exitcode}")
        return time.monotonic() - began

    def kill(self, saves, seconds):
        """Trains, and kills so long after the start, or after a save began: the `saves`-th.

        A process that ended before counts for nothing.
        """
        process = self.start()
        for further in reversed(range(saves)):
            _wait(process, self.saving)
            if further:
                _wait(process, lambda: not self.saving())
        process.join(seconds)
        self._kill(process)

    def _kill(self, process):
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            self.kills += 1
            self.inside += self.saving()
        elif process.exitcode:
            raise RuntimeError(f"{self.output}: exit status {process.exitcode}")


def _wait(process, condition):
    while process.is_alive() and not condition():
        time.sleep(0.0002)


def campaign(folder, kills, per_run=_KILLS_PER_RUN, seed=0):
    """Kills trainings on the backend of this process, and compares how they end.

    Args:
        folder: path, empty.
        kills: int, how many there must be, a third of them while a checkpoint is written.
        per_run: int, how many a run is given at most.
        seed: int, of the moments.

    Returns:
        ([`Run`], whether each ends as an unkilled one).
    """
    moments = random.Random(seed)
    whole = Run(folder / "whole")
    seconds = whole.finish()
    expected = small_training.read_run(whole.output)
    runs, equal = [], []
    while sum(run.kills for run in runs) < kills or 3 * sum(run.inside for run in runs) < kills:
        run = Run(folder / f"run{len(runs)}")
        while run.kills < per_run and not run.output.exists():
            if moments.random() < 0.5:
                run.kill(moments.randint(1, 4), moments.uniform(0, 0.005))
            else:
                run.kill(0, moments.uniform(0, seconds))
        if not run.output.exists():
            run.finish()
        runs.append(run)
        equal.append(small_training.read_run(run.output) == expected)
    return runs, equal


def print_row(kills):
    """Runs the campaign on this process's backend; prints its row of the table as JSON."""
    import keras

    began, backend = time.monotonic(), keras.config.backend()
    with tempfile.TemporaryDirectory() as folder:
        runs, equal = campaign(pathlib.Path(folder), kills)
    row = {
        "backend": f"{backend} {metadata.version(backend)}",
        "kills": sum(run.kills for run in runs),
        "inside a save": sum(run.inside for run in runs),
        "runs": len(runs),
        "processes": sum(run.starts for run in runs),
        "equal": f"{sum(equal)} of {len(equal)}",
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    print(json.dumps(row))


def _report(rows):
    """The results, as Markdown."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("keras-spm", "keras"))
    return "\n".join(
        (
            "# Kill campaign",
            "",
            "Written by `python -m tests.campaigns.kills`, which says what is trained and "
            "compared. A run is one training, however often it was killed; it is equal where "
            "weights, optimizer, metrics and result are those of an unkilled run, bit for bit.",
            "",
            f"Python {platform.python_version()} on {platform.system()}, "
            f"{platform.machine()}, one CPU core, float32; {packages}.",
            "",
            f"| {' | '.join(rows[0])} |",
            f"| --- |{' ---: |' * (len(rows[0]) - 1)}",
            *(f"| {' | '.join(map(str, row.values()))} |" for row in rows),
            "",
        )
    )


def main():
    """Runs each backend in a process of its own; returns the exit status."""
    parser = argparse.ArgumentParser(description="Kills trainings and compares how they end.")
    parser.add_argument("--backend", choices=BACKENDS, help="one of them; by default all")
    parser.add_argument("--kills", type=int, default=KILLS, help="on each backend")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # And all processes from here on.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    for backend in [options.backend] if options.backend else BACKENDS:
        code = f"from tests.campaigns import kills; kills.print_row({options.kills})"
        with tempfile.TemporaryDirectory() as cache:
            environment = {
                **os.environ,
                "KERAS_BACKEND": backend,
                "OMP_NUM_THREADS": "1",
                "JAX_COMPILATION_CACHE_DIR": cache,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
            process = subprocess.run(
                [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True
            )
        rows.append(json.loads(process.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    RESULT.write_text(_report(rows))
    return int(any(row["equal"].split(" of ")[0] != str(row["runs"]) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
