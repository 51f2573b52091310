"""Ends a training in all processes when one of them ends or does not answer."""

import json
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from keras_spm.backend import processes, replicas
from keras_spm.files import atomic_write
from keras_spm.terminal import printable
from keras_spm.trainer.checkpoints import TrainingError

# Seconds without a sign of life after which a process is taken for lost.
LONGEST_SILENCE = 15.0
_INTERVAL = 1.0  # Seconds between signs of life.
_PATIENCE = 5.0  # Seconds that the thread may need to notice a silence, on a slow disk.
_STATUS = 1  # Of a process that is ended.


class Watchdog:
    """Signs of life of all processes, as files in a folder that all of them see.

    A thread writes the step of its process every second, also while the process waits for the
    others. If another process ends with an error, or gives no sign of life for 15 seconds, this
    one prints the process and its last step, and ends. After an error that may come from another
    process, the last steps of all are printed at once, because JAX may end this process before
    it knows which one is lost. Without other processes nothing happens.

    Args:
        folder: path.
        current_step: function that returns the number of finished steps.
        describe_checkpoint: function that returns a sentence, which is added to the error.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        current_step: Callable[[], int],
        describe_checkpoint: Callable[[], str],
    ):
        active = replicas.current()
        self._process = 0 if active is None else active.process
        self._processes = 1 if active is None else active.processes
        self._folder = folder
        self._current_step, self._describe_checkpoint = current_step, describe_checkpoint
        self._stopped = threading.Event()
        self._found = threading.Event()
        self._message = None
        self._is_lost = False  # The process that the message is about.
        self._is_handled = False

    def __enter__(self) -> "Watchdog":
        if self._processes > 1:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Files of an earlier run have another number.
            self._run = processes.of_first_process(time.time_ns())
            self._write()
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, self._terminate)
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._processes == 1:
            return
        self._is_handled = True  # From now on, the thread does not end the process.
        if processes.may_be_of_another(error) and not isinstance(error, TrainingError):
            self._print(self._describe(error))
            self._found.wait(LONGEST_SILENCE + _PATIENCE)  # Which process is lost?
        self._stopped.set()
        self._thread.join()
        if error is not None and self._message is not None:
            if self._is_lost:
                self._exit(self._message)  # At its normal end, JAX would wait for the process.
            raise TrainingError(self._message) from error
        self._write(ended=True, error=None if error is None else str(error) or repr(error))

    def _path(self, process):
        return self._folder / f"process-{process}.json"

    def _write(self, **state):
        state = {"run": self._run, "step": self._current_step(), **state}
        state |= {"time": time.time(), "pid": os.getpid()}
        with atomic_write(self._path(self._process)) as temporary:
            temporary.write_text(json.dumps(state))

    def _watch(self):
        started = time.monotonic()
        # {process: (its last state, when that was new)}
        known = {p: (None, started) for p in range(self._processes) if p != self._process}
        while not self._stopped.wait(_INTERVAL):
            self._write()
            now = time.monotonic()
            for process, (state, since) in known.items():
                found = self._read(process)
                if found != state:
                    known[process] = (found, now)
                silence = now - since if found == state else 0
                message = _complaint(process, found, silence)
                if message is not None:
                    self._is_lost = silence > LONGEST_SILENCE
                    self._end(message)
                    return

    def _read(self, process):
        try:
            state = json.loads(self._path(process).read_text())
        except (OSError, ValueError):
            return None
        return state if state["run"] == self._run else None

    def _end(self, message):
        checkpoint = self._describe_checkpoint()
        self._message = f"After step {self._current_step()}, {message} {checkpoint}"
        self._found.set()
        if self._is_handled or self._stopped.wait(2 * _INTERVAL):
            return  # The process ends by itself.
        self._exit(self._message)

    def _describe(self, error):
        """Returns the first line after an error that may come from another process."""
        others = (process for process in range(self._processes) if process != self._process)
        steps = ", ".join(
            f"process {process} at step {(self._read(process) or {}).get('step', 0)}"
            for process in others
        )
        return (
            f"Process {self._process} failed after step {self._current_step()}, perhaps because "
            f"another process ended. Last seen: {steps}. {self._describe_checkpoint()} "
            f"The error: {error or repr(error)}"
        )

    def _terminate(self, number, frame):
        self._exit(
            f"Process {self._process} was terminated after step {self._current_step()}, perhaps "
            f"because another process ended. {self._describe_checkpoint()}"
        )

    def _print(self, message):
        print(f"error: {printable(message)}", file=sys.stderr, flush=True)

    def _exit(self, message):
        self._print(message)
        os._exit(_STATUS)


def _complaint(process, state, silence):
    if state is not None and state.get("error"):
        return f"process {process} ended at its step {state['step']}: {state['error']}"
    if silence <= LONGEST_SILENCE or (state is not None and state.get("ended")):
        return None
    if state is None:
        return f"process {process} did not start within {LONGEST_SILENCE:.0f} seconds."
    return (
        f"process {process} gave no sign of life for {LONGEST_SILENCE:.0f} seconds. Its last step "
        f"was {state['step']}."
    )
