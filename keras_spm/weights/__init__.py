"""Weight files: reading, key mapping, and loading all or nothing."""

from keras_spm.weights.errors import DownloadError, FormatError, MismatchError, WeightsError
from keras_spm.weights.formats import read_arrays
from keras_spm.weights.state_dict import LoadReport

__all__ = [
    "DownloadError",
    "FormatError",
    "LoadReport",
    "MismatchError",
    "WeightsError",
    "read_arrays",
]
