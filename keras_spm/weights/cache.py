"""Cache of converted weights: one folder per commit of the hub, with one file.

The file is named by its sha256; if they differ, it is removed and written again.
"""

import contextlib
import pathlib
import warnings
from collections.abc import Callable

import numpy as np

from keras_spm.weights.formats import read_arrays, sha256_of, write_safetensors
from keras_spm.weights.hub import Snapshot

_TEMPORARY = ".temporary.safetensors"


def cache_folder(snapshot: Snapshot, version: str) -> pathlib.Path:
    """Returns the path of a snapshot's cache folder for a version of this package.

    It is part of huggingface_hub's cache for derived files (HF_HOME, HF_ASSETS_CACHE).
    """
    from huggingface_hub import constants

    name = snapshot.repository.replace("/", "--")
    return pathlib.Path(constants.HF_ASSETS_CACHE, "keras_spm", version, name, snapshot.commit)


def read_or_convert(
    folder: pathlib.Path, convert: Callable[[], dict[str, np.ndarray]]
) -> tuple[dict[str, np.ndarray], pathlib.Path | None]:
    """Reads the converted weights in a cache folder, or converts and saves them.

    If several processes need them, one converts and the others wait for it. If the folder
    is not writable, the weights are converted each time, with a warning.
    Returns (arrays, path of the file or None).
    """
    from huggingface_hub.utils import WeakFileLock

    arrays = None
    try:
        if path := _find(folder):
            return read_arrays(path)[0], path
        folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder / ".lock"):
            if path := _find(folder):
                return read_arrays(path)[0], path
            arrays = convert()
            return arrays, _write(folder, arrays)
    except OSError as error:
        warnings.warn(
            f"Converted weights cannot be saved in {folder} ({error}); they are converted "
            "again each time.",
            stacklevel=2,
        )
    return arrays or convert(), None


def _find(folder):
    for path in sorted(folder.glob("[0-9a-f]*.safetensors")):
        if sha256_of(path) == path.stem:
            return path
        with contextlib.suppress(OSError):  # The cache may be read-only.
            path.unlink()
    return None


def _write(folder, arrays):
    for leftover in folder.glob(f".*{_TEMPORARY}*"):  # Of a killed process.
        leftover.unlink()
    temporary = folder / _TEMPORARY
    write_safetensors(temporary, arrays)
    return temporary.replace(folder / f"{sha256_of(temporary)}.safetensors")
