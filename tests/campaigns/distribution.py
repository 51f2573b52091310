"""The distribution campaign: a process of a training is killed or stopped, the others must end.

Run with `python -m tests.campaigns.distribution`, or for one backend with `--backend torch`. Two
processes (one with two devices on TensorFlow) train a classifier of digits. In a step, during a
validation, or while a checkpoint is written, one of them gets SIGKILL or SIGSTOP. The other one
must end with an error that names the process and the step, in less than 30 seconds, and the last
checkpoint must be whole: the same command, now on one device, finishes the training. The table
is written to `distribution.csv`; the exit status is 1 if a case fails.
"""

import argparse
import csv
import dataclasses
import json
import operator
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

RESULT = pathlib.Path(__file__).with_suffix(".csv")
LIMIT = 30.0  # Seconds until the other process has ended.
_START = 900.0  # Seconds until a process is where it is killed, on a machine with other work.
PHASES = ("step", "validation", "checkpoint")
_RECIPE = (
    *("classification_digits", "--set", "preset=pvt_v2_mini", "--set", "epochs=3"),
    *("--set", "warmup_epochs=0", "--set", "drop_path_rate=0.0"),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A backend, the signal, and what the process does when it gets it."""

    backend: str
    signal: str
    phase: str


CASES = [
    *(Case(b, s, p) for b in ("torch", "jax") for s in ("SIGKILL", "SIGSTOP") for p in PHASES),
    *(Case("tensorflow", "SIGKILL", phase) for phase in PHASES),
]


def _environment(case, folder, process, processes, port):
    names = {
        "torch": {
            **{"RANK": process, "LOCAL_RANK": process, "WORLD_SIZE": processes},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        },
        "jax": {
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}",
            "KERAS_DISTRIBUTION_NUM_PROCESSES": processes,
            "KERAS_DISTRIBUTION_PROCESS_ID": process,
        },
    }.get(case.backend, {})
    return {
        **os.environ,
        **{name: str(value) for name, value in names.items() if processes > 1},
        **{"KERAS_BACKEND": case.backend, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        "PHASES": str(folder),
    }


def _start(case, folder, process, processes, port, extra=()):
    command = [sys.executable, "-m", "keras_spm", "train", *_RECIPE]
    command += ["--output", str(folder / "run"), *extra]
    with (folder / f"{process}.log").open("w") as log:
        return subprocess.Popen(
            command,
            env=_environment(case, folder, process, processes, port),
            stdout=log,
            stderr=log,
        )


def _wait(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _step(folder):
    """The last step that process 1, or the only one, has written."""
    try:
        path = folder / "run-UNFINISHED/processes/process-1.json"
        return json.loads(path.read_text())["step"]
    except (OSError, ValueError):
        return 0


def run(case: Case, folder: pathlib.Path) -> dict:
    """Runs a case in an empty folder. Returns its row."""
    count = 1 if case.backend == "tensorflow" else 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    slow = ("--import", "tests.campaigns.slow_training")
    running = [_start(case, folder, i, count, port, slow) for i in range(count)]
    # The first process writes checkpoints; otherwise the last one is killed.
    victim = running[0] if case.phase == "checkpoint" else running[-1]
    reached = {
        "step": lambda: _step(folder) > 0 or (count == 1 and _has_checkpoint(folder)),
        "validation": lambda: (folder / f"validation-{victim.pid}").exists(),
        # Not the first one: there must be one that is whole.
        "checkpoint": lambda: (
            _has_checkpoint(folder)
            and time.time() - _modified(folder / f"checkpoint-{victim.pid}") < 1
        ),
    }[case.phase]
    is_reached = _wait(reached, _START)
    victim.send_signal(getattr(signal, case.signal))
    began = time.monotonic()
    others = [process for process in running if process is not victim]
    ended = all(_wait(lambda each=each: each.poll() is not None, 60) for each in others)
    seconds = time.monotonic() - began
    for process in running:
        process.kill()
        process.wait()
    status = others[0].returncode if others else None
    texts = [(folder / f"{running.index(each)}.log").read_text() for each in others]
    error = next(iter(re.findall(r"error: .*", "\n".join(texts))), "")
    names = not others or re.search(rf"process {running.index(victim)}\b.*\bstep\b", error)
    alone = _start(case, folder, 0, 1, port)
    finished = _wait(lambda: alone.poll() is not None, _START) and alone.returncode == 0
    alone.kill()
    is_right = bool(is_reached and ended and seconds < LIMIT and status != 0 and names and finished)
    return {
        **dataclasses.asdict(case),
        "seconds": round(seconds, 1) if others else "",
        "status": "" if status is None else status,
        "error": re.sub(re.escape(str(folder)), "…", error),
        "resumed": finished,
        "verdict": "right" if is_right else "wrong",
    }


def _has_checkpoint(folder):
    return any((folder / "run-UNFINISHED/checkpoints").glob("step-*"))


def _modified(path):
    return path.stat().st_mtime if path.exists() else 0


def _write(rows):
    """Writes the rows into the result, in the order of the cases; others are kept."""
    key = operator.itemgetter("backend", "signal", "phase")
    found = {}
    if RESULT.exists():
        with RESULT.open(newline="") as file:
            found = {key(row): row for row in csv.DictReader(file)}
    found |= {key(row): row for row in rows}
    order = [dataclasses.astuple(case) for case in CASES]
    with RESULT.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(found[case] for case in order if case in found)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills and stops processes of trainings.")
    parser.add_argument("--backend", help="by default all")
    parser.add_argument("--only", help="signal:phase, such as SIGKILL:step; by default all")
    options = parser.parse_args()
    rows = []
    for case in CASES:
        if options.backend not in (None, case.backend):
            continue
        if options.only not in (None, f"{case.signal}:{case.phase}"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(run(case, pathlib.Path(folder)))
        print(rows[-1], flush=True)
        _write(rows)
    return int(any(row["verdict"] != "right" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
