"""The configured Keras backend, and the versions that affect a run. Standard library only.

Keras raises an error with a deep stack trace if its backend is not installed, so `keras_spm`
checks the backend before it imports Keras.
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
    """Checks that the configured backend is supported and installed, unless Keras is imported.

    Raises:
        ImportError: names the backend, the setting that selects it, and possible fixes.
    """
    if "keras" in sys.modules:
        return
    backend, source = chosen_backend()
    if backend not in BACKENDS:
        raise ImportError(
            f"keras_spm supports the Keras backends {', '.join(BACKENDS)}. "
            f"Received: {backend!r}, from {source}"
        )
    if importlib.util.find_spec(backend) is None:
        installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
        switch = (
            f"set the environment variable KERAS_BACKEND={installed[0]}, which is installed"
            if installed
            else "install another backend, for example `pip install jax`, and set KERAS_BACKEND=jax"
        )
        raise ImportError(
            f"The Keras backend {backend!r}, from {source}, is not installed. "
            f"Run `pip install {backend}`, or {switch}."
        )


def chosen_backend() -> tuple[str, str]:
    """Returns (backend, the setting that selects it), in the order in which Keras looks it up."""
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
    """Returns the git commit of this package's code, with `+changes` if it was modified.

    `None` if the code is not in a git repository, for example if it is installed.
    """
    file = pathlib.Path(__file__)

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", file.parent, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # Fails if a virtual environment is inside a repository that does not track it.
        git("ls-files", "--error-unmatch", file.name)
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None
