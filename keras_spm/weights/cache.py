"""Weights of the hub in our own form, kept so that they are converted but once.

A folder stands for one commit of a repository; in it lies one file, named by the sha256
of its bytes. A file that is not what its name says is removed and made again.
"""

import contextlib
import pathlib
import warnings

from keras_spm.weights.formats import read_arrays
from keras_spm.weights.formats import sha256_of
from keras_spm.weights.formats import write_safetensors

_UNFINISHED = ".unfinished.safetensors"


def folder_of(snapshot, version):
    """Path of the folder for a `Snapshot`, as a version of this library converts it.

    It lies in huggingface_hub's cache for what libraries make of downloads (HF_HOME,
    HF_ASSETS_CACHE).
    """
    from huggingface_hub import constants

    name = snapshot.repository.replace("/", "--")
    return pathlib.Path(constants.HF_ASSETS_CACHE, "keras_spm", version, name, snapshot.commit)


def read_or_convert(folder, convert):
    """Reads the converted weights in a folder; converts and keeps them where there are none.

    Of several processes one converts, the others wait for it. Where nothing can be
    written, a warning says so, and the weights come all the same.

    Args:
        folder: path, from `folder_of`.
        convert: function of nothing → {name: numpy array}.

    Returns:
        (arrays, path of the file or None)
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
            f"Converted weights cannot be kept in {folder} ({error}); they are converted "
            "again each time.",
            stacklevel=2,
        )
    return arrays or convert(), None


def _find(folder):
    for path in sorted(folder.glob("[0-9a-f]*.safetensors")):
        if sha256_of(path) == path.stem:
            return path
        with contextlib.suppress(OSError):  # In a cache that cannot be written it stays.
            path.unlink()
    return None


def _write(folder, arrays):
    for left_by_a_kill in folder.glob(f".*{_UNFINISHED}*"):
        left_by_a_kill.unlink()
    unfinished = folder / _UNFINISHED
    write_safetensors(unfinished, arrays)
    return unfinished.replace(folder / f"{sha256_of(unfinished)}.safetensors")
