"""The configured backend and installed versions. Imports the standard library only.

If its backend is not installed, Keras fails with a long stack trace. `keras_spm` therefore checks
the backend before it imports Keras.
"""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

BACKENDS = ("tensorflow", "jax", "torch")


def check_backend() -> None:
    """Checks that the configured backend of Keras is supported and installed.

    Raises:
        ImportError: with the backend, where it is configured, and the alternatives.
    """
    if "keras" in sys.modules:
        return
    backend, origin = chosen_backend()
    if backend not in BACKENDS:
        raise ImportError(
            f"keras_spm runs on {', '.join(BACKENDS)}. Received: {backend!r}, from {origin}."
        )
    if importlib.util.find_spec(backend) is None:
        installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
        switch = (
            f"set the environment variable KERAS_BACKEND={installed[0]}, which is installed"
            if installed
            else "install another backend, for example `pip install jax`, and set KERAS_BACKEND=jax"
        )
        raise ImportError(
            f"The configured backend of Keras, {backend!r} (from {origin}), is not installed. "
            f"Either run `pip install {backend}`, or {switch}."
        )


def chosen_backend() -> tuple[str, str]:
    """Returns (backend, where it is configured), in the same order as Keras."""
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"], "the environment variable KERAS_BACKEND"
    folder = os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras"
    path = pathlib.Path(folder, "keras.json")
    try:
        return json.loads(path.read_text())["backend"], str(path)
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow", "Keras's default"


def versions() -> dict[str, str]:
    """Returns {package: version} of the packages that affect numerical results."""
    packages = ("keras-spm", "keras", "numpy", chosen_backend()[0])
    return {package: importlib.metadata.version(package) for package in packages}


def git_revision() -> str | None:
    """Returns the commit of this package's code, with `+changes` if files were modified.

    `None` if the code is not tracked by a git repository, as when it is installed.
    """
    path = pathlib.Path(__file__)

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", path.parent, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # A virtual environment may be in the repository of another project.
        git("ls-files", "--error-unmatch", path.name)
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None
