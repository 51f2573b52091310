"""Benchmark cases in processes of their own."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from case import Case, cores
from deployed import FOLDER

_SCRIPT = pathlib.Path(__file__).parent / "worker.py"


class WorkerError(Exception):
    """A model could not be built or run; the message has the reason."""


class Worker:
    """The process of a case, see `worker.py`.

    Args:
        case: the case.
        folder: folder of exported files, and for the cache of PyTorch's compiler.
    """

    def __init__(self, case: Case, folder: str | os.PathLike) -> None:
        environment = {
            "KERAS_BACKEND": case.backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TORCHINDUCTOR_CACHE_DIR": str(folder),
            FOLDER: str(folder),
            # Processes share an accelerator.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        self.case = case
        self.messages = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, _SCRIPT, json.dumps(dataclasses.asdict(case))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.messages,
            text=True,
            env={**os.environ, **environment},
        )

    def wait_until_built(self) -> None:
        """Waits for the model.

        Raises:
            WorkerError: if the model is unavailable.
        """
        if reason := self._answer().get("unavailable"):
            raise WorkerError(f"{self.case}: {reason}")

    def ask(self, request: str) -> Any:
        """Sends a request and returns the answer."""
        with contextlib.suppress(BrokenPipeError):  # `_answer` reports why the process ended.
            print(request, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.messages.seek(0)
        last = self.messages.read().strip().splitlines() or ["the process ended without a message"]
        raise WorkerError(f"{self.case}: {last[-1]}")

    def close(self) -> None:
        """Ends the process."""
        try:
            self.process.communicate(timeout=10)  # It ends with its standard input.
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        self.messages.close()


@contextlib.contextmanager
def started(cases: Sequence[Case], folder: str | os.PathLike) -> Iterator[list[Worker]]:
    """Starts workers; reports and skips models of other libraries that are unavailable.

    Raises:
        WorkerError: if a model of this library cannot be built.
    """
    workers = [Worker(case, folder) for case in cases]
    try:
        yield successful(workers, Worker.wait_until_built)
    finally:
        for worker in workers:
            worker.close()


def successful(workers: Sequence[Worker], prepare: Callable[[Worker], object]) -> list[Worker]:
    """Prepares workers, one per core at a time; returns those that do not fail."""
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        futures = [pool.submit(prepare, worker) for worker in workers]
    successful = []
    for worker, future in zip(workers, futures, strict=True):
        try:
            future.result()
            successful.append(worker)
        except WorkerError as error:
            if worker.case.library == "keras_spm":
                raise
            print(f"skipped: {error}", file=sys.stderr)
    return successful
