"""Reads files of `torch.save`, without running anything in them."""

import contextlib
import io
import tarfile
import zipfile

from keras_spm.weights.errors import FormatError
from keras_spm.weights.files import check_description
from keras_spm.weights.files import read_start
from keras_spm.weights.messages import shortened

_ZIP_START = b"PK\3\4"


def read_torch(path):
    """Reads a dict that `torch.save` wrote.

    Raises:
        FormatError: for any other file, and where PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise FormatError(
            f"{path}: reading {path.suffix} files needs PyTorch (`pip install torch`); "
            ".safetensors files need nothing more."
        ) from error
    try:
        with _container(path) as container:
            contents = torch.load(container, map_location="cpu", weights_only=True)
    except FormatError:
        raise
    except Exception as error:  # torch raises many kinds for a file that it does not trust.
        raise FormatError(
            f"{path} is not a PyTorch file of plain tensors: {shortened(error)}"
        ) from error
    if not isinstance(contents, dict):
        raise FormatError(f"{path} holds a {type(contents).__name__}, not named tensors.")
    return plain(contents)


def _container(path):
    """What PyTorch may be given to read from: a context of the path, or of a reader.

    Raises:
        FormatError: for what it would unpack to more than the file holds, or to the disk.
    """
    if read_start(path, len(_ZIP_START)) != _ZIP_START:
        _check_is_no_tar(path)
        return _DescriptionReader(path)
    # Its list of entries, which stands at the end, is a description too.
    with _DescriptionReader(path) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    size = path.stat().st_size
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise FormatError(f"{path} is compressed, which `torch.save` never does.")
    if sum(entry.file_size for entry in entries) > size:
        raise FormatError(f"{path} would unpack to more than its {size} bytes.")
    for entry in entries:
        if entry.filename.endswith(".pkl"):
            check_description(path, entry.file_size, "pickle")
    return contextlib.nullcontext(path)


def _check_is_no_tar(path):
    try:
        tarfile.open(path, "r:").close()
    except tarfile.TarError:
        return
    raise FormatError(f"{path} is a tar archive, not a file of `torch.save`.")


class _DescriptionReader(io.BufferedReader):
    """A file of which no more is read than may describe tensors.

    Of files from before its zip files, PyTorch reads pickles by these methods, opcode by
    opcode, and the values without them.
    """

    def __init__(self, path):
        super().__init__(path.open("rb", buffering=0))
        self._path = path
        self._length = 0

    def read(self, size=-1):
        return self._counted(super().read(size))

    def readline(self, size=-1):
        return self._counted(super().readline(size))

    def _counted(self, content):
        self._length += len(content)
        check_description(self._path, self._length, "description")
        return content


def plain(mapping):
    """A dict of the same items.

    A pickle may give a dict attributes that stand before its methods, so that those of the
    class are called.
    """
    return dict(dict.items(mapping) if isinstance(mapping, dict) else mapping)


def check_views(values, source):
    """Refuses tensors that make much of little memory.

    A file may claim any number of values by a view that repeats one; some sharing is usual.

    Args:
        values: of which those that are PyTorch's are looked at.
        source: what to call them in messages.

    Raises:
        FormatError: where they claim more than twice what they hold.
    """
    tensors = [value for value in values if hasattr(type(value), "untyped_storage")]
    storages = [tensor.untyped_storage() for tensor in tensors]
    held = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    claimed = sum(tensor.nbytes for tensor in tensors)
    if claimed > 2 * held:
        raise FormatError(f"{source} claims {claimed} bytes of values, but holds {held}.")
