"""A client of the hub in its own process: loads a classifier and reports the outcome."""

import hashlib
import os
import pathlib
import resource
import sys
import time
import traceback
from typing import NamedTuple

import huggingface_hub.file_download  # noqa: F401  Before the client gives up its privileges.
import safetensors.numpy  # noqa: F401
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars, logging

import keras_spm
from keras_spm.weights import WeightsError
from tests.helpers import to_numpy

# Instead of huggingface_hub's defaults: retries take less time, and small files are resumed
# like large ones.
READ_TIMEOUT = 1  # Seconds.
LONGEST_WAIT = 0.02  # Seconds between two attempts.
CHUNK_SIZE = 1024  # Bytes.
_NOBODY = 65534
# {audit event of Python: index of the argument with the path that is written}
_WRITES = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1}


class Outcome(NamedTuple):
    """How a client ended.

    Attributes:
        end: `"loaded"`, or the name of the error's class.
        detail: digest of what was loaded, or the error's message.
        strays: paths outside the caches that were written.
    """

    end: str
    detail: str
    strays: tuple = ()


def digest(model):
    """Returns a hash of a classifier's weights, class names and normalization."""
    described = (model.class_names, model.mean, model.std)
    total = hashlib.sha256(repr(described).encode())
    for variable in model.weights:
        total.update(variable.path.encode())
        total.update(to_numpy(variable).tobytes())
    return total.hexdigest()


def load(connection, address, settings, largest_file=None, unprivileged=False):
    """Loads a classifier and sends the `Outcome`.

    Args:
        connection: pipe that gets the outcome.
        address: `"hf://owner/name"`.
        settings: {name in `huggingface_hub.constants`: value}.
        largest_file: size limit of files in bytes, which simulates a full disk.
        unprivileged: whether to give up root's privileges; root may write anywhere.
    """
    strays = _watch((settings["HF_HUB_CACHE"], settings["HF_ASSETS_CACHE"]))
    _set_up(settings)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if unprivileged and os.geteuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    try:
        end, detail = "loaded", digest(keras_spm.ImageClassifier.from_preset(address))
    except (WeightsError, FileNotFoundError) as error:
        end, detail = type(error).__name__, str(error)
    except Exception as error:
        traceback.print_exc()
        end, detail = f"undocumented {type(error).__name__}", str(error)
    connection.send(Outcome(end, detail, tuple(strays)))


def _set_up(settings):
    for name, value in settings.items():
        setattr(constants, name, value)
    constants.HF_HUB_DOWNLOAD_TIMEOUT = READ_TIMEOUT
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_SIZE
    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, LONGEST_WAIT))


def _watch(folders):
    """Returns a list to which every path outside the folders is added when it is written."""
    sys.dont_write_bytecode = True
    strays = []

    def audit(event, arguments):
        path = _written(event, arguments)
        if path is None or isinstance(path, int) or path == os.devnull:
            return
        path = pathlib.Path(os.path.abspath(os.fsdecode(path)))
        if not any(path.is_relative_to(folder) for folder in folders):
            strays.append(str(path))

    sys.addaudithook(audit)
    return strays


def _written(event, arguments):
    """Returns the path or descriptor that an audit event writes, or None."""
    if event == "open":
        path, _, flags = arguments
        return path if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else None
    return arguments[_WRITES[event]] if event in _WRITES else None
