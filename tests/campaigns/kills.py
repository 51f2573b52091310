"""The kill campaign: trainings that are killed at any time must end like an unkilled one.

Run with `python -m tests.campaigns.kills`, or for one backend with `--backend torch`. The
training is `tests/trainer/small_training.py`: dropout, batch normalization, averages of the
weights, accumulation, augmentation, and checkpoints every three steps of eight. It is killed
by SIGKILL, about half of the time while a checkpoint is written, and restarted by the same
call. After several kills it may finish. Its results must equal those of an unkilled run bit for
bit: weights and optimizer of the best model, all metrics, and the result. The table is written
to `kills.md`; the exit status is 1 if a run differs.
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
from collections.abc import Callable
from importlib import metadata

from tests.campaigns.processes import PROCESSES
from tests.trainer import small_training

RESULT = pathlib.Path(__file__).with_suffix(".md")
BACKENDS = ("jax", "tensorflow", "torch")
KILLS = 30
_KILLS_PER_RUN = 5
_TIMEOUT = 300  # Seconds per process.
RECIPE = small_training.Recipe(epochs=6)


@dataclasses.dataclass
class Run:
    """A training that is started, killed, and restarted.

    Attributes:
        output: path of its run folder.
        kills: number of kills.
        inside: number of kills while a checkpoint was written.
        starts: number of processes.
    """

    output: pathlib.Path
    kills: int = 0
    inside: int = 0
    starts: int = 0

    def saving(self) -> bool:
        """Whether the last process writes a checkpoint, or was killed while it did."""
        folder = self.output.with_name(f"{self.output.name}-UNFINISHED") / "checkpoints/unfinished"
        with contextlib.suppress(FileNotFoundError):  # It is renamed when it is complete.
            # Unfinished files of an earlier process are older.
            return any(each.stat().st_mtime_ns > self._started for each in folder.iterdir())
        return False

    def start(self) -> multiprocessing.process.BaseProcess:
        """Starts a process that trains."""
        self.starts += 1
        self._started = time.time_ns()
        process = self.make_process()
        process.start()
        return process

    def make_process(self) -> multiprocessing.process.BaseProcess:
        """Returns a process, not yet started, that trains by `RECIPE`."""
        arguments = (self.output, RECIPE)
        return PROCESSES.Process(target=small_training.train_small, args=arguments)

    def finish(self) -> float:
        """Trains until the end. Returns the duration in seconds.

        Raises:
            RuntimeError: if the process fails.
        """
        began = time.monotonic()
        process = self.start()
        process.join(_TIMEOUT)
        process.kill()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"{self.output}: exit status {process.exitcode}")
        return time.monotonic() - began

    def kill(self, saves: int, seconds: float) -> None:
        """Starts a process and kills it, unless it ends before.

        Args:
            saves: number of checkpoints to wait for; 0 for none.
            seconds: time from then, or from the start of the process, to the kill.
        """
        process = self.start()
        for further in reversed(range(saves)):
            _wait(process, self.saving)
            if further:
                _wait(process, lambda: not self.saving())
        process.join(seconds)
        self.end(process)

    def end(self, process: multiprocessing.process.BaseProcess) -> None:
        """Ends a process now, and counts it if it has not ended by itself.

        Raises:
            RuntimeError: if it ends in another way.
        """
        process.kill()
        process.join()
        self.count(process, -signal.SIGKILL)

    def count(self, process: multiprocessing.process.BaseProcess, status: int) -> None:
        """Counts a process that ended with the status of a kill; another error is raised."""
        if process.exitcode == status:
            self.kills += 1
            self.inside += self.saving()
        elif process.exitcode:
            raise RuntimeError(f"{self.output}: exit status {process.exitcode}")


def _wait(process, condition):
    while process.is_alive() and not condition():
        time.sleep(0.0002)


def campaign(
    folder: pathlib.Path,
    kills: int,
    per_run: int = _KILLS_PER_RUN,
    seed: int = 0,
    make_run: Callable[[pathlib.Path], Run] = Run,
) -> tuple[list[Run], list[bool]]:
    """Kills trainings on the backend of this process, and compares their results.

    Args:
        folder: path, empty.
        kills: smallest number of kills; a third of them are while a checkpoint is written.
        per_run: largest number of kills per run.
        seed: of the times of the kills.
        make_run: function (output) → `Run`.

    Returns:
        (runs, whether the results of each equal those of an unkilled run)
    """
    generator = random.Random(seed)
    unkilled = make_run(folder / "unkilled")
    seconds = unkilled.finish()
    expected = small_training.read_run(unkilled.output)
    runs, equal = [], []
    while sum(run.kills for run in runs) < kills or 3 * sum(run.inside for run in runs) < kills:
        run = make_run(folder / f"run{len(runs)}")
        while run.kills < per_run and not run.output.exists():
            if generator.random() < 0.5:
                run.kill(generator.randint(1, 4), generator.uniform(0, 0.005))
            else:
                run.kill(0, generator.uniform(0, seconds))
        if not run.output.exists():
            run.finish()
        runs.append(run)
        equal.append(small_training.read_run(run.output) == expected)
    return runs, equal


def print_row(kills: int) -> None:
    """Runs the campaign on the backend of this process. Prints its row as JSON."""
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
    """Returns the results as Markdown."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("keras-spm", "keras"))
    return "\n".join(
        (
            "# Kill campaign",
            "",
            "Written by `python -m tests.campaigns.kills`, which describes the training. A run is "
            "one training with all its kills. It is equal if weights, optimizer, metrics and "
            "result are those of an unkilled run, bit for bit.",
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


def main() -> int:
    """Runs each backend in its own process. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Kills trainings and compares their results.")
    parser.add_argument("--backend", choices=BACKENDS, help="by default all")
    parser.add_argument("--kills", type=int, default=KILLS, help="kills per backend")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # Also for the child processes.
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
