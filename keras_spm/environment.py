<<<<<<< HEAD
"""The configured backend and installed versions. Imports the standard library only.

If its backend is not installed, Keras fails with a long stack trace. `keras_spm` therefore checks
the backend before it imports Keras.
=======
"""The configured Keras backend, and the versions that affect a run. Standard library only.

Keras raises an error with a deep stack trace if its backend is not installed, so `keras_spm`
checks the backend before it imports Keras.
>>>>>>> w-docs
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
<<<<<<< HEAD
    """Checks that the configured backend of Keras is supported and installed.

    Raises:
        ImportError: with the backend, where it is configured, and the alternatives.
=======
    """Checks that the configured backend is supported and installed, unless Keras is imported.

    Raises:
        ImportError: names the backend, the setting that selects it, and possible fixes.
>>>>>>> w-docs
    """
    if "keras" in sys.modules:
        return
    backend, source = chosen_backend()
    if backend not in BACKENDS:
        raise ImportError(
<<<<<<< HEAD
            f"keras_spm runs on {', '.join(BACKENDS)}. Received: {backend!r}, from {origin}."
=======
            f"keras_spm supports the Keras backends {', '.join(BACKENDS)}. "
            f"Received: {backend!r}, from {source}"
>>>>>>> w-docs
        )
    if importlib.util.find_spec(backend) is None:
        installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
        switch = (
            f"set the environment variable KERAS_BACKEND={installed[0]}, which is installed"
            if installed
            else "install another backend, for example `pip install jax`, and set KERAS_BACKEND=jax"
        )
        raise ImportError(
<<<<<<< HEAD
            f"The configured backend of Keras, {backend!r} (from {origin}), is not installed. "
            f"Either run `pip install {backend}`, or {switch}."
=======
            f"The Keras backend {backend!r}, from {source}, is not installed. "
            f"Run `pip install {backend}`, or {switch}."
>>>>>>> w-docs
        )


def chosen_backend() -> tuple[str, str]:
<<<<<<< HEAD
    """Returns (backend, where it is configured), in the same order as Keras."""
=======
    """Returns (backend, the setting that selects it), in the order in which Keras looks it up."""
>>>>>>> w-docs
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
<<<<<<< HEAD
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
=======
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
>>>>>>> w-docs
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None
