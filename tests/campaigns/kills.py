"""The kill campaign: a training killed at any moment ends as one that was never killed.

Run with `python -m tests.campaigns.kills`, or for one backend with `--backend torch`. The
training is a small one with all that has a state: drop path, mixup and cutmix, averages,
accumulation over an odd number of steps, a part of the epoch between two checkpoints. It is
killed by SIGKILL, every third time while a checkpoint is written, and started again by the
same command, until its run has had its share of kills; then it is let finish. What it leaves
must be, bit for bit, what an unkilled run leaves: every weight and slot of the best model,
all metrics, the result. The table is written to `kills.md` beside this file; the exit status
is 1 if a run ends otherwise.
"""

import argparse
import dataclasses
import io
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
import zipfile
from importlib import metadata

RESULT = pathlib.Path(__file__).with_suffix(".md")
BACKENDS = ("jax", "tensorflow", "torch")
KILLS = 30
_KILLS_PER_RUN = 5
_LIMIT = 300  # Seconds that a process may take.
_RECIPES = pathlib.Path(__file__).parents[2] / "training" / "recipes"
_SETTINGS = (
    *("preset=pvt_v2_mini", "load_weights=false", "drop_path_rate=0.2", "image_size=32"),
    *("crop_fraction=1", "mixup=0.8", "cutmix=1", "average=0.9", "accumulation=2"),
    *("batch_size=5", "epochs=4", "warmup_epochs=1", "checkpoint_steps=3"),
)


def write_photos(folder):
    """Writes digits as image files, a folder for each class in `train` and `val`."""
    from PIL import Image

    from keras_spm.data import load_dataset

    splits = load_dataset("digits")
    for part, examples, count in ("train", splits.train, 12), ("val", splits.test, 4):
        for digit in range(3):
            path = folder / part / f"digit {digit}"
            path.mkdir(parents=True)
            chosen = examples.images[examples.labels == digit][:count]
            for number, image in enumerate(chosen):
                Image.fromarray(image).save(path / f"{number:02}.png")


@dataclasses.dataclass
class Run:
    """A training that is started, killed, and started again.

    Attributes:
        photos: path of what it trains on.
        output: path of its run folder.
        kills, inside: how often it was killed, and how often of these while a checkpoint
            was written.
        starts: how many processes trained.
    """

    photos: pathlib.Path
    output: pathlib.Path
    kills: int = 0
    inside: int = 0
    starts: int = 0

    @property
    def unfinished_checkpoint(self):
        """Path of a checkpoint that is being written."""
        return self.output.with_name(f"{self.output.name}-UNFINISHED") / "checkpoints/unfinished"

    def start(self):
        """Returns a process that trains."""
        self.starts += 1
        settings = (*_SETTINGS, f"data_folder={self.photos}")
        arguments = ["classification_folder", "--output", str(self.output)]
        arguments += [part for each in settings for part in ("--set", each)]
        process = _PROCESSES.Process(target=_train, args=(arguments,))
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
        unfinished = self.unfinished_checkpoint
        for further in reversed(range(saves)):
            _wait(process, unfinished.exists)
            if further:
                _wait(process, lambda: not unfinished.exists())
        process.join(seconds)
        self._kill(process)

    def _kill(self, process):
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            self.kills += 1
            self.inside += self.unfinished_checkpoint.exists()
        elif process.exitcode:
            raise RuntimeError(f"{self.output}: exit status {process.exitcode}")


def _wait(process, condition):
    while process.is_alive() and not condition():
        time.sleep(0.0002)


def _train(arguments):
    from keras_spm import trainer

    sys.exit(trainer.main(_RECIPES, arguments))


_PROCESSES = multiprocessing.get_context("forkserver")
# What every process would import is imported once; Keras itself looks for TensorFlow.
_PROCESSES.set_forkserver_preload(
    ["keras_spm.trainer", "grain", "matplotlib.pyplot", "sklearn.datasets", "tensorflow"]
)


def leavings(output):
    """Returns {name: contents} of what decides whether two runs are the same."""
    import h5py

    found = {"metrics.csv": (output / "metrics.csv").read_text()}
    result = json.loads((output / "result.json").read_text())
    del result["seconds"]
    found["result.json"] = json.dumps(result)
    with zipfile.ZipFile(output / "best.keras") as archive:
        contents = io.BytesIO(archive.read("model.weights.h5"))

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found[f"best.keras {name}"] = item[()].tobytes()

    with h5py.File(contents) as file:
        file.visititems(visit)
    return found


def differences(whole, output):
    """Returns the names of what differs between an unkilled run and another one."""
    expected, found = leavings(whole), leavings(output)
    return sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )


def campaign(folder, kills, per_run=_KILLS_PER_RUN, seed=0):
    """Kills trainings on the backend of this process, and compares how they end.

    Args:
        folder: path, empty.
        kills: int, how many there must be, a third of them while a checkpoint is written.
        per_run: int, how many a run is given at most.
        seed: int, of the moments.

    Returns:
        ([`Run`], {run folder's name: names of what differs from an unkilled run}).
    """
    moments = random.Random(seed)
    write_photos(folder / "photos")
    whole = Run(folder / "photos", folder / "whole")
    seconds = whole.finish()
    runs, wrong = [], {}
    while sum(run.kills for run in runs) < kills or 3 * sum(run.inside for run in runs) < kills:
        run = Run(folder / "photos", folder / f"run{len(runs)}")
        runs.append(run)
        while run.kills < per_run and not run.output.exists():
            if moments.random() < 0.5:
                run.kill(moments.randint(1, 4), moments.uniform(0, 0.02))
            else:
                run.kill(0, moments.uniform(0, seconds))
        run.finish()
        wrong[run.output.name] = differences(whole.output, run.output)
        print(f"{run.output.name}: {run.kills} kills, {run.inside} in saves", wrong, flush=True)
    return runs, wrong
