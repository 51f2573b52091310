"""Which backend Keras is set to, and whether it is there. Standard library only.

Keras itself fails with a deep stack trace where its backend is not installed, so
`keras_spm` asks here before it imports Keras.
"""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

BACKENDS = ("tensorflow", "jax", "torch")


def check_backend():
    """Says what to do where Keras's chosen backend is not installed.

    Raises:
        ImportError: names the chosen backend, where the choice comes from and the
            ways on.
    """
    if "keras" in sys.modules:
        return
    backend, origin = chosen_backend()
    if backend not in BACKENDS:
        raise ImportError(
            f"keras_spm runs on {', '.join(BACKENDS)}; {origin} asks for {backend!r}."
        )
    if importlib.util.find_spec(backend) is None:
        installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
        switch = (
            f"set the environment variable KERAS_BACKEND={installed[0]}, which is installed"
            if installed
            else "install another backend, for example `pip install jax`, and set KERAS_BACKEND=jax"
        )
        raise ImportError(
            f"Keras is to run on {backend!r} (as {origin} says), which is not installed. "
            f"Either run `pip install {backend}`, or {switch}."
        )


def chosen_backend():
    """Returns (backend, where the choice comes from), in Keras's own order."""
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"], "the environment variable KERAS_BACKEND"
    folder = os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras"
    path = pathlib.Path(folder, "keras.json")
    try:
        return json.loads(path.read_text())["backend"], str(path)
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow", "Keras's default"


def versions():
    """Returns {package: version} of what decides a run's numbers."""
    packages = ("keras-spm", "keras", "numpy", chosen_backend()[0])
    return {package: importlib.metadata.version(package) for package in packages}


def git_revision():
    """Returns the commit that this package's code is of, with `+changes` where it differs.

    `None` where the code does not lie in a git repository that keeps it, as when installed.
    """
    here = pathlib.Path(__file__)

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", here.parent, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # Another's repository may lie around a virtual environment.
        git("ls-files", "--error-unmatch", here.name)
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None
