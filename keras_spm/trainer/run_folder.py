"""The folder that a training leaves behind."""

import json
import os
import pathlib
import shutil


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

    @property
    def result(self):
        """The finished run's result, or None."""
        try:
            return json.loads((self.path / "result.json").read_text())
        except FileNotFoundError:
            return None

    def check_recipe(self, recipe):
        """Refuses to take another recipe's finished run for this one's.

        Raises:
            FileExistsError: says the first keys that differ.
        """
        there = json.loads((self.path / "recipe.json").read_text())
        wanted = recipe.as_dict()
        changed = [
            f"{key}: {there.get(key)!r} there, {wanted.get(key)!r} now"
            for key in sorted(there.keys() | wanted.keys())
            if there.get(key) != wanted.get(key)
        ]
        if changed:
            raise FileExistsError(
                f"{self.path} is a finished run of another recipe ({'; '.join(changed)}). "
                "Choose another folder with --output."
            )

    def start(self):
        """Makes an empty working folder; what an unfinished run left is removed.

        Raises:
            FileExistsError: where something else stands at the run's path.
        """
        if self.path.exists() and self.result is None:
            raise FileExistsError(
                f"{self.path} exists and is no run of this trainer. Choose another folder "
                "with --output."
            )
        shutil.rmtree(self.working_path, ignore_errors=True)
        self.working_path.mkdir(parents=True)

    def write(self, name, value):
        """Writes a JSON file into the working folder."""
        (self.working_path / name).write_text(json.dumps(value, indent=2) + "\n")

    def finish(self, result):
        """Writes the result and gives the folder its final name."""
        self.write("result.json", result)
        os.rename(self.working_path, self.path)
