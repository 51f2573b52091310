"""The campaign of interruptions: SIGTERM and SIGINT at random moments leave nothing half-written.

Run with `KERAS_BACKEND=torch python -m tests.campaigns.interruptions`. SIGTERM and SIGINT
alternate, at 30 moments of each of:

- training: `keras-spm train` with the training of the kill campaign, about half of the time
  while a checkpoint is written. SIGINT ends it with status 130 and one line on stderr. It is
  restarted by the same command, and must end like an uninterrupted training, bit for bit.
- saving: `save_to_preset` into one folder after the other, and exported weights into one file
  again and again. Every folder and the file must be whole. Hidden temporary files may be left
  by SIGTERM, which ends a process at once.
- download: of a preset from a slow hub. The cache must hold no wrong file, and after a few
  interruptions a client must load the published values from it.

SIGTERM must end a process by that signal, and SIGINT by a `KeyboardInterrupt`. The result is
written to `interruptions.md`; the exit status is 1 if anything is not right.
"""

import collections
import contextlib
import filecmp
import itertools
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

from keras_spm import cli, trainer
from keras_spm.presets.saving import own_arrays
from keras_spm.weights.formats import write_safetensors
from tests.campaigns import downloads, kills, published, report, tiny
from tests.campaigns.processes import PROCESSES
from tests.trainer import small_training

RESULT = pathlib.Path(__file__).with_suffix(".md")
INTERRUPTIONS = 30
_PER_DOWNLOAD = 5
_INTERRUPTED = 130  # Exit status after a `KeyboardInterrupt`.
_MESSAGE = "interrupted; run the same command again to resume the training"
_PATIENCE = 60  # Seconds for a process to start.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_by_turns = itertools.cycle(_SIGNALS)


def _expected_status(number):
    return _INTERRUPTED if number == signal.SIGINT else -number


def _send(process, number):
    """Sends a signal, unless the process has ended."""
    if process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


# === Training ===


class Training(kills.Run):
    """A training by the command line that gets SIGTERM and SIGINT by turns.

    Attributes:
        counts: counter of interruptions by signal.
        complaints: list of what is not right.
    """

    def __init__(self, output):
        super().__init__(output)
        self.counts, self.complaints = collections.Counter(), []
        self._errors = output.with_name(f"{output.name}.stderr")

    def make_process(self):
        self._ready = PROCESSES.Event()
        arguments = (self._ready, self._errors, self.output, kills.RECIPE)
        return PROCESSES.Process(target=_train, args=arguments)

    def start(self):
        process = super().start()
        self._ready.wait(_PATIENCE)
        return process

    def end(self, process):
        number = next(_by_turns)
        before = self.kills
        _send(process, number)
        process.join()
        errors = self._errors.read_text()
        try:
            self.count(process, _expected_status(number))
        except RuntimeError as error:
            raise RuntimeError(f"{error} after signal {number}: {errors}") from error
        if self.kills == before:  # It had finished.
            return
        self.counts[number] += 1
        if number == signal.SIGINT and (_MESSAGE not in errors or "Traceback" in errors):
            self.complaints.append(f"SIGINT ended with {errors.splitlines()[-1:]}")


def _train(ready, errors, output, recipe):
    """Trains by the command, whose recipe is that of the kill campaign."""

    def run(recipe, folder, verbose):
        small_training.train_small(folder.path, recipe)
        return folder.result

    trainer.load_recipe = lambda *_: recipe
    trainer.run = run
    with (
        errors.open("w") as stderr,
        open(os.devnull, "w") as stdout,
        contextlib.redirect_stderr(stderr),
        contextlib.redirect_stdout(stdout),
    ):
        ready.set()
        status = cli.main(["train", "small", "--output", str(output)])
    sys.exit(status)


def training(folder):
    """Returns the row of interrupted trainings."""
    runs, equal = kills.campaign(folder, INTERRUPTIONS, make_run=Training)
    complaints = [each for run in runs for each in run.complaints]
    if not all(equal):
        complaints.append(f"{len(equal) - sum(equal)} runs end differently")
    counts = sum((run.counts for run in runs), collections.Counter())
    inside = sum(run.inside for run in runs)
    return _row("training", counts, f"{len(runs)} runs, {inside} inside a save", complaints)


# === Saving ===


def saving(folder, interruptions=INTERRUPTIONS):
    """Returns the row of interrupted saving."""
    reference = folder / "reference"
    model = tiny.make("classifier")
    model.save_to_preset(reference / "preset")
    write_safetensors(reference / "weights.safetensors", own_arrays(model))
    generator, counts, complaints, saved, left = random.Random(0), collections.Counter(), [], 0, 0
    for index in range(interruptions):
        number, target = _SIGNALS[index % 2], folder / str(index)
        ready = PROCESSES.Event()
        process = PROCESSES.Process(target=_save_again_and_again, args=(ready, target))
        process.start()
        ready.wait(_PATIENCE)
        time.sleep(generator.uniform(0, 0.3))
        _send(process, number)
        process.join()
        counts[number] += 1
        if process.exitcode != _expected_status(number):
            complaints.append(f"{number.name} ended with {process.exitcode}")
        hidden = list(target.glob(".*"))
        if hidden and number == signal.SIGINT:
            complaints.append(f"SIGINT left {hidden[0].name}")
        left += len(hidden)
        for path in target.glob("[!.]*"):
            saved += 1
            if not _equal(path, reference / path.name.partition("-")[0]):
                complaints.append(f"{number.name} left {path.name} half-written")
    about = f"{saved} folders and files, all whole; {left} hidden temporaries left by SIGTERM"
    return _row("saving", counts, about, complaints)


def _save_again_and_again(ready, folder):
    model = tiny.make("classifier")
    folder.mkdir()
    ready.set()
    try:
        for number in itertools.count():
            model.save_to_preset(folder / f"preset-{number}")
            write_safetensors(folder / "weights.safetensors", own_arrays(model))
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _equal(path, expected):
    if path.is_file():
        return filecmp.cmp(path, expected, shallow=False)
    names = sorted(each.name for each in expected.iterdir())
    if sorted(each.name for each in path.iterdir()) != names:
        return False
    return filecmp.cmpfiles(path, expected, names, shallow=False)[0] == names


# === Download ===


def download(folder):
    """Returns the row of interrupted downloads."""
    name = published.REPOSITORIES[published.WEIGHTS]
    generator, counts, complaints = random.Random(0), collections.Counter(), []
    caches = 0
    with downloads.Hub().running() as hub:
        hub.repositories = published.publish(folder / "published")
        expected = published.digest(hub.repositories[name])
        while counts.total() < INTERRUPTIONS:
            caches += 1
            site = downloads.Site(hub, folder / f"cache{caches}", name)
            hub.faults = {published.WEIGHTS: "slow drip"}
            for _ in range(_PER_DOWNLOAD):
                number = _SIGNALS[counts.total() % 2]
                running = site.start()
                running.process.join(generator.uniform(0, 1.2))
                _send(running.process, number)
                end = running.outcome().end
                complaints += site.wrong_files()
                if end == "loaded":  # Before the signal.
                    break
                counts[number] += 1
                # `multiprocessing` ends with status 1 after a `KeyboardInterrupt`.
                if end != ("exit status 1" if number == signal.SIGINT else "SIGTERM"):
                    complaints.append(f"{number.name} ended with {end}")
            hub.faults = {}
            outcome = site.start().outcome()
            complaints += site.wrong_files(at_the_end=True)
            if (outcome.end, outcome.detail) != ("loaded", expected):
                complaints.append(f"afterwards: {outcome.end}: {outcome.detail}")
    return _row("download", counts, f"{caches} caches, all complete afterwards", complaints)


def _row(name, counts, about, complaints):
    return {
        "interrupted": name,
        **{number.name: counts[number] for number in _SIGNALS},
        "result": about,
        "verdict": "; ".join(dict.fromkeys(complaints)) or "right",
    }


CASES = {"training": training, "saving": saving, "download": download}


def main():
    """Runs all cases, or those in the arguments, and returns the exit status."""
    rows = []
    # Before the first process starts. Idle threads sleep, and JAX compiles each program once.
    os.environ |= {"OMP_NUM_THREADS": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    cache = tempfile.TemporaryDirectory()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
    for name in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            row = CASES[name](pathlib.Path(folder))
        rows.append({**row, "seconds": f"{time.monotonic() - started:.0f}"})
        print(rows[-1], flush=True)
        about = "The seed of all random moments is 0."
        report.write(RESULT, rows, about)
    return int(any(row["verdict"] != "right" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
