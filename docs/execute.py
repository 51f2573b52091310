"""Executes guides and writes their notebooks: `python docs/execute.py [NAME …]`.

The notebooks, with their outputs, are committed: pages are made from them. The kernel has the
backend of the environment, by default PyTorch. With `--text`, after a change of text alone, the
outputs are kept.
"""

import argparse
import base64
import datetime
import importlib.metadata
import io
import os
import pathlib
import platform
import re
import resource
import sys
import tempfile

import nbformat
from generators import guides
from nbclient import NotebookClient
from PIL import Image

_TIMEOUT = 3600  # Seconds for a cell.
_WIDTH = 1000  # Pixels of a picture.
# Lines of TensorFlow and tqdm about the machine, when they are imported.
_LOG = re.compile(
    r"^(?:WARNING: All log messages before|[IWE]\d{4} |.*TqdmWarning|  from .*tqdm).*\n?",
    re.MULTILINE,
)


def execute(path: pathlib.Path, folder: pathlib.Path) -> nbformat.NotebookNode:
    """Runs a guide in a new kernel and an empty folder, and returns it with its outputs."""
    notebook = guides.read_guide(path)
    skipped = [each for each in enumerate(notebook.cells) if guides.is_install(each[1])]
    for _, cell in skipped:
        notebook.cells.remove(cell)
    start = _children_seconds()
    folder.mkdir(parents=True)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=_TIMEOUT, resources=place, record_timing=False).execute()
    for number, cell in skipped:
        notebook.cells.insert(number, cell)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _tidy(cell.outputs)
    notebook.metadata[guides.RUN] = _run(_children_seconds() - start)
    return notebook


def with_new_text(path: pathlib.Path) -> nbformat.NotebookNode:
    """Returns a guide with the outputs of its notebook, whose code must be the same.

    Raises:
        ValueError: if the code is not the same.
    """
    old, new = nbformat.read(path.with_suffix(".ipynb"), 4), guides.read_guide(path)
    codes = [
        [cell for cell in each.cells if cell.cell_type == "code" and not guides.is_install(cell)]
        for each in (old, new)
    ]
    if [cell.source for cell in codes[0]] != [cell.source for cell in codes[1]]:
        raise ValueError(f"{path} must have the code of its notebook: execute it without --text.")
    for before, after in zip(*codes, strict=True):
        after.outputs = _tidy(before.outputs)
        after.execution_count = before.execution_count
    new.metadata = old.metadata
    return new


def _children_seconds():
    """Returns the CPU time of processes that have ended, such as a kernel."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _tidy(outputs):
    """Returns outputs without lines of logs, and with smaller pictures."""
    kept = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            output.text = _LOG.sub("", output.text)
            if not output.text.strip():
                continue
        elif "image/png" in output.get("data", {}):
            output.data["image/png"] = _small(output.data["image/png"])
        kept.append(output)
    return kept


def _small(content):
    """Returns a picture of at most `_WIDTH` pixels, with a palette of 256 colors, in base64."""
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    if picture.mode == "P":
        return content  # It is small already.
    picture = picture.convert("RGB")
    picture.thumbnail((_WIDTH, picture.height), Image.Resampling.LANCZOS)
    picture.quantize(256).save(file := io.BytesIO(), "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _run(seconds):
    backend = os.environ["KERAS_BACKEND"]
    names = ("keras-spm", "keras", backend)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return {
        "backend": backend,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()} with {os.cpu_count()} CPU cores, shared with other work",
        "cpu_seconds": round(seconds),
        "versions": f"{versions}, Python {platform.python_version()}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Executes guides and writes their notebooks.")
    parser.add_argument("names", nargs="*", help="of guides; all by default")
    parser.add_argument("--check", action="store_true", help="execute only, and write nothing")
    parser.add_argument("--text", action="store_true", help="write new text, and execute nothing")
    text = "keep the files that guides write in FOLDER/NAME"
    parser.add_argument("--folder", type=pathlib.Path, help=text)
    options = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for path in guides.guide_paths():
        if options.names and path.stem not in options.names:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(options.folder or temporary, path.stem)
            notebook = with_new_text(path) if options.text else execute(path, folder)
        print(path.stem, notebook.metadata[guides.RUN], flush=True)
        if not options.check:
            nbformat.write(notebook, path.with_suffix(".ipynb"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
