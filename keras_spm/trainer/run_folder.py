"""The folder that a training leaves behind."""

import json
import os
import pathlib
import shutil

from keras_spm.environment import BACKENDS
from keras_spm.environment import chosen_backend
from keras_spm.trainer.files import flush
from keras_spm.trainer.files import remove_unfinished
from keras_spm.trainer.files import written_beside


class RunFolder:
    """A folder whose `result.json` appears last: a run without it is not finished.

    A run that is still going, or died, has `UNFINISHED` in its folder's name; the name
    changes in one step when everything is there.

    Args:
        path: the finished run's folder.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.working_path = self.path.with_name(f"{self.path.name}-UNFINISHED")
        self._lock = None

    @property
    def result(self):
        """The finished run's result, or None."""
        try:
            return json.loads((self.path / "result.json").read_text())
        except FileNotFoundError:
            return None

    def check_recipe(self, recipe):
        """Refuses to take another recipe's or backend's run, finished or not, for this one's.

        Raises:
            FileExistsError: says what differs.
        """
        folder = self.path if self.path.exists() else self.working_path
        there, wanted = _decided_by(folder), {**recipe.as_dict(), "backend": chosen_backend()[0]}
        changed = [
            f"{key}: {there.get(key)!r} there, {wanted.get(key)!r} now"
            for key in sorted(there.keys() | wanted.keys())
            if there and there.get(key) != wanted.get(key)
        ]
        if changed:
            raise FileExistsError(
                f"{folder} is a run of another recipe ({'; '.join(changed)}). "
                "Choose another folder with --output."
            )

    def start(self, recipe):
        """Makes the working folder, or takes up the one of an unfinished run.

        Until `finish`, `release` or the end of the process, nobody else can do that.

        Raises:
            FileExistsError: where something else stands at the run's path, another process
                has the folder, or it is of another recipe.
        """
        if self.path.exists():
            state = "no run of this trainer" if self.result is None else "a finished run"
            raise FileExistsError(
                f"{self.path} exists and is {state}. Choose another folder with --output."
            )
        self.check_recipe(recipe)
        self.working_path.mkdir(parents=True, exist_ok=True)
        self._take()
        remove_unfinished(self.working_path)
        self.write("recipe.json", recipe.as_dict())

    def _take(self):
        try:
            import fcntl
        except ImportError:  # Windows: two processes on one folder are not told apart.
            return
        self._lock = os.open(self.working_path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise FileExistsError(
                f"{self.working_path} is in use: another process trains in it."
            ) from None

    def release(self):
        """Lets others take the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, name, value):
        """Writes a JSON file into the working folder."""
        with written_beside(self.working_path / name) as path:
            path.write_text(json.dumps(value, indent=2) + "\n")

    def finish(self, result):
        """Writes the result, gives the folder its final name and removes checkpoints."""
        self.write("result.json", result)
        os.rename(self.working_path, self.path)
        flush(self.path.parent)
        self.remove_checkpoints()
        self.release()

    def remove_checkpoints(self):
        """Removes them from a finished run, which needs them no more."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)


def _decided_by(folder):
    """A run's recipe and backend, as far as it came to write them down."""
    try:
        environment = json.loads((folder / "environment.json").read_text())
        recipe = json.loads((folder / "recipe.json").read_text())
    except FileNotFoundError:
        return {}
    return {**recipe, "backend": next(filter(environment.get, BACKENDS), None)}
