"""Executes guides and writes their notebooks: `python docs/execute.py [NAME …]`.

The notebooks, with their outputs, are committed: pages are made from them. The kernel has the
backend of the environment, by default PyTorch.
"""

import argparse
import datetime
import importlib.metadata
import os
import pathlib
import platform
import sys
import tempfile
import time

import nbformat
from generators import guides
from nbclient import NotebookClient

_TIMEOUT = 3600  # Seconds for a cell.


def execute(path: pathlib.Path) -> nbformat.NotebookNode:
    """Runs a guide in a new kernel and an empty folder, and returns it with its outputs."""
    notebook = guides.read_guide(path)
    skipped = [each for each in enumerate(notebook.cells) if guides.is_install(each[1])]
    for _, cell in skipped:
        notebook.cells.remove(cell)
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(
            notebook, timeout=_TIMEOUT, resources=resources, record_timing=False
        )
        client.create_kernel_manager()
        client.km.transport = "ipc"  # No open port.
        client.execute()
    for number, cell in skipped:
        notebook.cells.insert(number, cell)
    notebook.metadata[guides.RUN] = _run(time.time() - start)
    return notebook


def _run(seconds):
    backend = os.environ["KERAS_BACKEND"]
    names = ("keras-spm", "keras", backend)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return {
        "backend": backend,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()} with {os.cpu_count()} CPU cores, shared with other work",
        "seconds": round(seconds),
        "versions": f"{versions}, Python {platform.python_version()}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Executes guides and writes their notebooks.")
    parser.add_argument("names", nargs="*", help="of guides; all by default")
    text = "execute only, and write nothing"
    parser.add_argument("--check", action="store_true", help=text)
    options = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for path in guides.guide_paths():
        if not options.names or path.stem in options.names:
            print(f"{path.stem} …", flush=True)
            notebook = execute(path)
            print(f"{path.stem}: {notebook.metadata[guides.RUN]['seconds']} s", flush=True)
            if not options.check:
                nbformat.write(notebook, path.with_suffix(".ipynb"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
