"""The run folder of a training."""

import itertools
import json
import os
import pathlib
import warnings
from typing import Any

from keras_spm.backend import processes, replicas
from keras_spm.environment import BACKENDS, chosen_backend
from keras_spm.files import TEMPORARY_PREFIX, atomic_write, flush, read_json_object
from keras_spm.trainer.checkpoints import remove_checkpoints
from keras_spm.types import PathLike

_LOCK = ".lock"


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

    @classmethod
    def unused(cls, path: PathLike, recipe: Any) -> "RunFolder":
        """Returns the folder of a path, or of the path with a number, that can have this recipe.

        It does not exist, or has a run of the same recipe and backend.
        """
        path = pathlib.Path(path)
        for number in itertools.count(1):
            folder = cls(path if number == 1 else path.with_name(f"{path.name}-{number}"))
            try:
                folder.check_recipe(recipe)
            except FileExistsError:
                continue
            return folder

    @property
    def result(self) -> dict[str, Any] | None:
        """The result of the finished run, or None."""
        try:
            return read_json_object(self.path / "result.json")
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
        for path in self.working_path.glob(f"{TEMPORARY_PREFIX}*"):  # Of a killed process.
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
        with atomic_write(self.working_path / name, durable=True) as path:
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
        remove_checkpoints(self.path / "checkpoints")


def _read_settings(folder):
    """Returns the recipe and backend of a run, or {} if they are not written yet."""
    try:
        environment = read_json_object(folder / "environment.json")
        recipe = read_json_object(folder / "recipe.json")
    except FileNotFoundError:
        return {}
    return {**recipe, "backend": next(filter(environment.get, BACKENDS), None)}


def find_run(path: PathLike, recipe: Any, is_default: bool) -> tuple[RunFolder, dict | None]:
    """Returns (folder, result) of a recipe's run; the result of an unfinished run is None.

    With several processes, the first one chooses the folder.

    Args:
        path: of the folder.
        recipe: recipe.
        is_default: whether a number may be appended to the path.

    Raises:
        FileExistsError: if the folder has a run of another recipe.
    """
    chosen, result = None, None
    with processes.failing_together(FileExistsError):
        if replicas.is_writer():
            folder = RunFolder.unused(path, recipe) if is_default else RunFolder(path)
            folder.check_recipe(recipe)
            chosen, result = folder.path, folder.result
            if result is not None:
                folder.remove_checkpoints()  # If the process was killed before it removed them.
    chosen, result = processes.of_first_process((chosen, result))
    return RunFolder(chosen), result
