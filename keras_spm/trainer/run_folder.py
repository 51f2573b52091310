"""The run folder of a training, and files that are written atomically."""

import contextlib
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

from keras_spm.environment import BACKENDS, chosen_backend
from keras_spm.types import PathLike

_TEMPORARY_PREFIX = ".unfinished-"
_LOCK = ".lock"


@contextlib.contextmanager
def atomic_write(path: PathLike) -> Iterator[pathlib.Path]:
    """Context manager for a temporary path that replaces `path` at the end.

    The contents are flushed to the disk first. If an exception is raised, `path` is unchanged.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f"{_TEMPORARY_PREFIX}{path.name}")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: PathLike) -> None:
    """Flushes the contents of a file, or the entries of a folder, to the disk.

    Folders are skipped where the system or the file system does not support it.
    """
    is_folder = os.path.isdir(path)
    with contextlib.suppress(OSError) if is_folder else contextlib.nullcontext():
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def checkpoint_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints `step-N` in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.name[5:].isdecimal())


class RunFolder:
    """A run folder. `result.json` is written last, so a run without it is not finished.

    The name of the folder ends in `-UNFINISHED` until the run is finished. Then the folder is
    renamed.

    Args:
        path: path of the finished run.
    """

    def __init__(self, path: PathLike):
        self.path = pathlib.Path(path)
        self.working_path = self.path.with_name(f"{self.path.name}-UNFINISHED")
        self._lock = None

    @property
    def result(self) -> dict[str, Any] | None:
        """The result of the finished run, or None."""
        try:
            return json.loads((self.path / "result.json").read_text())
        except FileNotFoundError:
            return None

    def check_recipe(self, recipe: Any) -> None:
        """Checks that an existing run, finished or not, has this recipe and backend.

        Raises:
            FileExistsError: lists the differences.
        """
        folder = self.path if self.path.exists() else self.working_path
        found = _read_settings(folder)
        expected = {**recipe.as_dict(), "backend": chosen_backend()[0]}
        differences = [
            f"{key}: {found.get(key)!r} in the folder, {expected.get(key)!r} now"
            for key in sorted(found.keys() | expected.keys())
            if found and found.get(key) != expected.get(key)
        ]
        if differences:
            raise FileExistsError(
                f"{folder} has a run of another recipe ({'; '.join(differences)}). "
                "Choose another folder with --output."
            )

    def start(self, recipe: Any) -> None:
        """Creates the working folder, or reuses the one of an unfinished run, and locks it.

        The lock is held until `finish`, `release` or the end of the process.

        Raises:
            FileExistsError: if the path exists, the folder is used by another process, or it
                has a run of another recipe.
        """
        if self.path.exists():
            state = "not a run folder" if self.result is None else "a finished run"
            raise FileExistsError(
                f"{self.path} exists and is {state}. Choose another folder with --output."
            )
        self.check_recipe(recipe)
        self.working_path.mkdir(parents=True, exist_ok=True)
        self._acquire_lock()
        for path in self.working_path.glob(f"{_TEMPORARY_PREFIX}*"):  # Of a killed process.
            path.unlink()
        self.write("recipe.json", recipe.as_dict())

    def _acquire_lock(self):
        import filelock

        lock = filelock.FileLock(self.working_path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise FileExistsError(f"{self.working_path} is in use by another process.") from None
        except (OSError, NotImplementedError) as error:
            warnings.warn(
                f"{self.working_path} cannot be locked ({error}). Do not train in it with two "
                "processes at the same time.",
                stacklevel=3,
            )
            return
        self._lock = lock

    def release(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def write(self, name: str, value: Any) -> None:
        """Writes a JSON file into the working folder."""
        with atomic_write(self.working_path / name) as path:
            path.write_text(json.dumps(value, indent=2) + "\n")

    def finish(self, result: dict[str, Any]) -> None:
        """Writes the result, renames the folder and removes the checkpoints."""
        self.write("result.json", result)
        os.rename(self.working_path, self.path)
        flush(self.path.parent)
        self.release()
        self.remove_checkpoints()

    def remove_checkpoints(self) -> None:
        """Removes the checkpoints of a finished run. Other files next to them are kept."""
        (self.path / _LOCK).unlink(missing_ok=True)
        folder = self.path / "checkpoints"
        for path in (*checkpoint_folders(folder), folder / "unfinished"):
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _read_settings(folder):
    """Returns the recipe and backend of a run, or {} if they are not written yet."""
    try:
        environment = json.loads((folder / "environment.json").read_text())
        recipe = json.loads((folder / "recipe.json").read_text())
    except FileNotFoundError:
        return {}
    return {**recipe, "backend": next(filter(environment.get, BACKENDS), None)}
