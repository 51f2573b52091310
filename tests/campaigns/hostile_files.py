"""The hostile files campaign: a file that must not be trusted is refused, or loaded right.

Run with `KERAS_BACKEND=torch python -m tests.campaigns.hostile_files`. Every case is loaded
by the public API in a process of its own, with little memory and `LIMIT` seconds. What may
come of it is one of our documented errors, which names the file and leaves the model as it
was, or a model of just the values that the format's own library reads from that file; and
nothing is written. The result is written to `hostile_files.md` beside this file; the exit
status is 1 if a case fails.
"""

import collections
import os
import pathlib
import platform
import shutil
import sys
import tempfile
import warnings
from importlib import metadata
from typing import NamedTuple

from tests.campaigns.hostile import CASES, victim
from tests.campaigns.hostile.case import Case, Valid
from tests.campaigns.processes import PROCESSES

RESULT = pathlib.Path(__file__).with_suffix(".md")
LIMIT = 5  # Seconds that a load may take, once all is imported.
_PATIENCE = 60  # Seconds for all else that the process does.
_LIBRARIES = ("keras", "torch", "numpy", "safetensors", "h5py")


class Result(NamedTuple):
    """What came of a case: the outcome as `victim.load` says it, and the load's seconds."""

    case: Case
    outcome: str
    seconds: float

    @property
    def failed(self):
        return self.outcome.startswith(victim.FAILED)

    @property
    def end(self):
        """The outcome without what in particular failed."""
        return victim.FAILED if self.failed else self.outcome


class Sandbox:
    """A folder in which cases are written and loaded one after the other."""

    def __init__(self, folder):
        self._folder = folder
        self._valid = Valid(folder / "valid")

    def run(self, case):
        """Writes a case, has it loaded, and returns the `Result`."""
        around = pathlib.Path(tempfile.mkdtemp(dir=self._folder))
        folder = around / "case"
        folder.mkdir()
        try:
            with warnings.catch_warnings(action="ignore"):  # PyTorch's, of formats of its own.
                case.write(folder, self._valid)
            before = self._listing()
            outcome, seconds = _outcome_of_process(case, folder)
            if changed := before ^ self._listing():
                names = sorted({path for path, *_ in changed})
                outcome = f"{victim.FAILED}: written to {', '.join(names)}"
            return Result(case, outcome, seconds)
        finally:
            shutil.rmtree(around)

    def _listing(self):
        """(path, mode, size, time of change) of everything in the sandbox."""
        listing = set()
        for parent, folders, files in os.walk(self._folder):
            for name in (".", *folders, *files):
                status = os.lstat(os.path.join(parent, name))
                path = os.path.relpath(os.path.join(parent, name), self._folder)
                listing.add((path, status.st_mode, status.st_size, status.st_mtime_ns))
        return listing


def _outcome_of_process(case, folder):
    """(outcome, seconds) of a process that loads the case, ended when its time is up."""
    here, there = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=victim.load, args=(there, case.key, folder))
    process.start()
    there.close()
    seconds = 0.0
    try:
        _receive(here, _PATIENCE)  # That it is ready.
        seconds = _receive(here, LIMIT)
        return _receive(here, _PATIENCE), seconds
    except TimeoutError as error:
        process.kill()
        return f"{victim.FAILED}: {error}", seconds
    except EOFError:
        process.join()
        return f"{victim.FAILED}: the process ended with {process.exitcode}", seconds
    finally:
        process.join()


def _receive(connection, seconds):
    if not connection.poll(seconds):
        raise TimeoutError(f"nothing was heard for {seconds} seconds")
    return connection.recv()


def run(cases):
    """Yields the `Result` of each case."""
    with tempfile.TemporaryDirectory() as folder:
        sandbox = Sandbox(pathlib.Path(folder).resolve())
        for case in cases:
            yield sandbox.run(case)


def _table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _cell(text):
    """Text of a table's cell, in which a case's odd characters do no harm."""
    return text.replace("|", "\\|").replace("\n", " ")


def _report(results):
    """The result as Markdown."""
    ends = collections.Counter(result.end for result in results)
    by_kind = collections.Counter((result.case.kind, result.end) for result in results)
    kinds = dict.fromkeys(result.case.kind for result in results)
    counts = [[kind, *(by_kind[kind, end] or "" for end in ends)] for kind in kinds]
    slowest = max(results, key=lambda result: result.seconds)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    rows = [
        (_cell(case.kind), _cell(case.name), _cell(outcome), f"{seconds:.2f}")
        for case, outcome, seconds in results
    ]
    return "\n\n".join(
        (
            "# Hostile files",
            f"Written by `KERAS_BACKEND=torch python -m {__spec__.name}`, on Python "
            f"{platform.python_version()}, {versions}, {platform.system()}.",
            f"{len(results)} files, each loaded in a process of its own with {LIMIT} seconds and "
            f"{victim.MEMORY >> 30} GiB of memory. {sum(result.failed for result in results)} "
            "failed. A file is refused with an error that names it, and the model stays as it "
            "was; or it is loaded, and every value is what the format's own library reads.",
            f"The slowest took {slowest.seconds:.2f} s: {_cell(slowest.case.key)}.",
            _table(["kind", *ends], [*counts, ["all", *ends.values()]]),
            _table(["kind", "file", "outcome", "seconds"], rows),
        )
    )


def main():
    """Runs all cases, writes the report, and returns the exit status."""
    results = []
    for result in run(CASES.values()):
        results.append(result)
        print(f"{len(results)}/{len(CASES)} {result.case.key}: {result.outcome}", flush=True)
    failed = [result for result in results if result.failed]
    RESULT.write_text(_report(results) + "\n")
    print(f"{len(failed)} of {len(results)} failed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
