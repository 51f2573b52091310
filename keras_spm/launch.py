"""Commands on several devices, see `--devices`."""

import argparse
import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from keras_spm.backend import engines, replicas
from keras_spm.distribution import data_parallel

_ALL = "all"


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Adds the options of commands that run on several devices."""
    text = "number of devices, or `all`; by default one. PyTorch gets a process for each"
    parser.add_argument("--devices", type=_devices, metavar="N|all", help=text)


def _devices(text):
    if text != _ALL and not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(
            f"must be a number of at least 1, or all. Received: {text}"
        )
    return text if text == _ALL else int(text)


def run_on_devices(
    run: Callable[[argparse.Namespace], int | None],
    options: argparse.Namespace,
    arguments: Sequence[str] | None,
) -> int | None:
    """Runs a command on the devices of its options, or of the processes that it belongs to.

    Args:
        run: function of the command.
        options: parsed options.
        arguments: of the command line; by default those of the process.

    Returns:
        The exit status.
    """
    devices = getattr(options, "devices", None)
    if devices is None and not engines.is_one_of_several():
        return run(options)
    devices = None if devices == _ALL else devices
    if engines.needs_processes(devices):
        if getattr(options, "dry_run", False):
            with replicas.activated(engines.planned(devices)):
                return run(options)
        command = sys.argv[1:] if arguments is None else arguments
        return engines.launch(["-m", "keras_spm", *command], devices)
    with data_parallel(devices), contextlib.ExitStack() as stack:
        if not replicas.is_writer():  # Only the first process prints.
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        return run(options)


@contextlib.contextmanager
def writer_output(path: Any) -> Iterator[Any]:
    """Yields the path, or a temporary folder for all processes but the first."""
    if replicas.is_writer():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)
