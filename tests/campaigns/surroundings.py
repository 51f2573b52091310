"""The campaign of surroundings: the commands where a system lacks what they usually find.

Run with `KERAS_BACKEND=torch python -m tests.campaigns.surroundings`, on Linux. Each case is
`keras-spm` in a process, a folder and, where something is mounted, a mount namespace of its
own. The cases are a read-only home; no home at all (neither `$HOME` nor an entry for the user
in `/etc/passwd`); a read-only `/dev/shm`; a umask of 077; a disk that is full, or becomes full,
for the output of each command; and two trainings in one folder.

A command must end with the status of the case, print one line about an error that names the
cause and the path, and no stack trace. It must write what the case lists and nothing else, with
the permissions of the umask; an output that could not be written whole must not be there. The
result is written to `surroundings.md`; the exit status is 1 if a case is not right, unless
`KNOWN` explains it.
"""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import keras
from PIL import Image

from keras_spm.data import load_dataset
from tests.campaigns import report, tiny

RESULT = pathlib.Path(__file__).with_suffix(".md")
_ROOT = pathlib.Path(__file__).parents[2]
_LIMIT = 180  # Seconds of a command.
_PHOTOS, _DIGITS = 8, 3  # Photos of each digit.
_COMMAND = (sys.executable, "-c", "import sys; from keras_spm.cli import main; sys.exit(main())")
_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")

_SETTINGS = (
    *("data_folder=../inputs/photos", "preset=pvt_v2_mini", "load_weights=false"),
    *("image_size=32", "crop_pct=1", "epochs=2", "warmup_epochs=0", "batch_size=5"),
)
TRAIN = (
    *("train", "classification_folder", "--output", "out/run"),
    *(part for setting in _SETTINGS for part in ("--set", setting)),
)
PREDICT = (
    "predict",
    "../inputs/classifier.keras",
    "../inputs/photos/0",
    "--output",
    "out/pictures",
)
SEGMENT = ("predict", "../inputs/segmenter.keras", "../inputs/photos/0", "--output", "out/pictures")
EXPORT = ("export", "../inputs/classifier.keras", "out/weights.safetensors")
EVALUATE = (
    *("evaluate", "../inputs/classifier.keras", "--recipe", "classification_digits"),
    *("--output", "out/metrics.json"),
)

READ_ONLY_HOME = "mount -t tmpfs -o ro,size=4k none home"
NO_USER = "mount --bind /dev/null /etc/passwd"
NO_SHARED_MEMORY = "mount -t tmpfs -o ro,size=4k none /dev/shm"
_FULL = "No space left on device"

# (backend, case) → why it is not right.
KNOWN = {}


def full(room):
    """Returns commands that mount a disk at `out` with so many kB of room."""
    size = 128
    fill = f"head -c {size - room}k /dev/zero > out/filler"
    return f"mount -t tmpfs -o size={size}k none out && {fill} && mkdir -p out/pictures"


@dataclasses.dataclass(frozen=True)
class Case:
    """A command and what it must do.

    Attributes:
        arguments: of `keras-spm`.
        mounts: commands of the shell before it, in a mount namespace.
        without: names of environment variables that are removed.
        umask: int.
        status: exit status.
        message: regular expression that the error must match.
        written: file of `out` that must be there, if any.
        only: backend, if it does not depend on it.
    """

    arguments: tuple
    mounts: str = ""
    without: tuple = ()
    umask: int = 0o022
    status: int = 0
    message: str = ""
    written: str = ""
    only: str | None = None


def _full_case(arguments, path, room=0, **more):
    return Case(arguments, full(room), status=2, message=f"{_FULL}.*{path}|{path}.*{_FULL}", **more)


_RESULT, _PICTURE = "run/result.json", "pictures/inputs/photos/0/7.png.png"
CASES = {
    "nothing: train": Case(TRAIN, written=_RESULT),
    "read-only home: train": Case(TRAIN, READ_ONLY_HOME, written=_RESULT),
    "no home: train": Case(TRAIN, NO_USER, ("HOME",), written=_RESULT),
    "no home, no KERAS_BACKEND: predict": Case(
        PREDICT, NO_USER, ("HOME", "KERAS_BACKEND"), written=_PICTURE, only="tensorflow"
    ),
    "no /dev/shm: train": Case(TRAIN, NO_SHARED_MEMORY, written=_RESULT),
    "umask 077: train": Case(TRAIN, umask=0o077, written=_RESULT),
    "umask 077: predict": Case(PREDICT, umask=0o077, written=_PICTURE),
    "umask 077: segment": Case(SEGMENT, umask=0o077, written=_PICTURE),
    "umask 077: export": Case(EXPORT, umask=0o077, written="weights.safetensors"),
    "disk full: train": _full_case(TRAIN, "out/run"),
    "disk full: predict": _full_case(PREDICT, "out/pictures"),
    "disk full: segment": _full_case(SEGMENT, "out/pictures"),
    "disk full: export": _full_case(EXPORT, "out/weights.safetensors"),
    "disk full: evaluate": _full_case(EVALUATE, "out/metrics.json"),
    "disk becomes full: predict": _full_case(PREDICT, "out/pictures", room=32),
}


class Site:
    """A folder with inputs, and the cases that run next to them."""

    def __init__(self, folder):
        self.folder = folder
        inputs = folder / "inputs"
        images, labels = load_dataset("digits").train
        for digit in range(_DIGITS):
            (inputs / f"photos/{digit}").mkdir(parents=True)
            for number, image in enumerate(images[labels == digit][:_PHOTOS]):
                Image.fromarray(image).save(inputs / f"photos/{digit}/{number}.png")
        tiny.make("classifier").save(inputs / "classifier.keras")
        tiny.make("segmenter").save(inputs / "segmenter.keras")

    def start(self, case, name):
        """Starts a case in a new folder, or one that exists. Returns (process, folder)."""
        folder = self.folder / name
        for each in ("home", "out"):
            (folder / each).mkdir(parents=True, exist_ok=True)
        command = (*_COMMAND, *case.arguments)
        if case.mounts:
            # What is mounted is gone with the process.
            script = f'set -e; {case.mounts}; set +e; "$@"; status=$?; cp -a out kept; exit $status'
            command = (*_NAMESPACE, script, "sh", *command)
        environment = {
            name: value
            for name, value in {
                **os.environ,
                "PYTHONPATH": str(_ROOT),
                "HOME": str(folder / "home"),
                "OMP_NUM_THREADS": "1",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            }.items()
            if name not in case.without
        }
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            umask=case.umask,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return process, folder

    def run(self, name, case):
        """Runs a case. Returns (last line of an error, complaints)."""
        process, folder = self.start(case, re.sub(r"\W+", "-", name))
        _, errors = process.communicate(timeout=_LIMIT)
        error = _last_line(errors) if process.returncode else ""
        return error, list(_complaints(case, process.returncode, errors, folder))


def _last_line(text):
    return text.strip().rpartition("\n")[2]


def _complaints(case, status, errors, folder):
    """Yields what is not right about a command that has ended."""
    if status != case.status:
        yield f"status {status}"
    if "Traceback" in errors:
        yield "a stack trace"
    if not re.search(case.message, errors):
        yield "the error does not name cause and path"
    entries = {path.name for path in folder.iterdir()} - {"home", "out", "kept"}
    if entries:
        yield f"wrote {', '.join(sorted(entries))}"
    out = folder / ("kept" if case.mounts else "out")
    if case.written and not (out / case.written).exists():
        yield f"did not write {case.written}"
    for path in out.rglob("*"):
        name = str(path.relative_to(out))
        if path.is_dir() or name in ("filler", "run-UNFINISHED/.lock"):
            continue
        if not _is_whole(path):
            yield f"left {name} half-written"
        if path.stat().st_mode & 0o777 != 0o666 & ~case.umask:
            yield f"{name} has mode {path.stat().st_mode & 0o777:o}"


def _is_whole(path):
    try:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        return path.stat().st_size > 0
    except (OSError, ValueError):
        return False


def two_trainings(site):
    """Starts a training in the folder of one that is stopped meanwhile. Returns as `Site.run`."""
    case = Case(TRAIN, written=_RESULT)
    first, folder = site.start(case, "two")
    started = time.monotonic()
    while not list(folder.glob("out/run-UNFINISHED/checkpoints/step-*")):
        if first.poll() is not None or time.monotonic() - started > _LIMIT:
            return "", ["the first training has no checkpoint"]
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGSTOP)
    second, _ = site.start(case, "two")
    _, errors = second.communicate(timeout=_LIMIT)
    os.killpg(first.pid, signal.SIGCONT)
    _, own_errors = first.communicate(timeout=_LIMIT)
    complaints = list(_complaints(case, first.returncode, own_errors, folder))
    if second.returncode != 2 or "in use by another process" not in errors:
        complaints.append(f"the second training ended with {second.returncode}")
    alone = site.folder / "nothing-train/out/run/metrics.csv"
    if alone.exists() and alone.read_text() != (folder / "out/run/metrics.csv").read_text():
        complaints.append("the first training has other metrics than one that is alone")
    return _last_line(errors), complaints


def main():
    """Runs all cases, or those whose names begin with an argument, and returns the status."""
    rows, backend = [], keras.config.backend()
    about = f"Trainings of 2 epochs of {_DIGITS} × {_PHOTOS} images of 32×32, seed 0."
    chosen = {name: case for name, case in CASES.items() if case.only in (None, backend)}
    with tempfile.TemporaryDirectory() as folder:
        site = Site(pathlib.Path(folder).resolve())
        for name in (*chosen, "two trainings"):
            if sys.argv[1:] and not name.startswith(tuple(sys.argv[1:])):
                continue
            started = time.monotonic()
            special = name not in chosen
            error, complaints = two_trainings(site) if special else site.run(name, chosen[name])
            reason = KNOWN.get((backend, name))
            if complaints and reason:
                complaints.append(f"known: {reason}")
            rows.append(
                {
                    "case": name,
                    "error": error.replace(folder, "…"),
                    "seconds": f"{time.monotonic() - started:.0f}",
                    "verdict": "; ".join(complaints) or "right",
                }
            )
            print(rows[-1], flush=True)
            report.write(RESULT, rows, about)
    return int(any(row["verdict"] != "right" and "known: " not in row["verdict"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
