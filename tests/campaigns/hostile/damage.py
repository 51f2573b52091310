"""Valid files that were cut off, or in which a single bit is another."""

import functools
import random
import struct
import zipfile

from tests.campaigns.hostile.case import WEIGHTS, Case

# File of `Valid` → what it is saved as here: in that suffix's own format.
_FORMATS = {WEIGHTS: "weights.safetensors", "weights.pth": "weights.pth", "legacy.pth": "old.bin"}
# How much of each is kept, as parts of the whole, beside a number of bytes.
_KEPT = (1, 7, 8, 9, 64, 500, 0.05, 0.1, 0.25, 0.4, 0.5, 0.75, 0.9, 0.99, 0.999, -100, -22, -1)
_KEPT_OF_LEGACY = (1, 9, 64, 500, 0.1, 0.5, 0.9, -1)


def _cut(source, target, kept, folder, valid):
    contents = valid.read(source)
    length = int(len(contents) * kept) if 0 < abs(kept) < 1 else kept
    (folder / target).write_bytes(contents[:length])


def _truncations():
    for source, target in _FORMATS.items():
        for kept in _KEPT_OF_LEGACY if source == "legacy.pth" else _KEPT:
            write = functools.partial(_cut, source, target, kept)
            yield Case("truncation", f"{target} to {kept}", write, target)


def _flip(source, target, region, seed, folder, valid):
    contents = bytearray(valid.read(source))
    start, end = region(valid.folder / source)
    position = random.Random(seed).randrange(8 * start, 8 * end)
    contents[position // 8] ^= 1 << position % 8
    (folder / target).write_bytes(contents)


def _header(path):
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    return 0, 8 + length


def _data(path):
    return _header(path)[1], path.stat().st_size


def _pickle(path):
    """Where the file inside that describes the tensors lies."""
    with zipfile.ZipFile(path) as archive:
        described, *_ = (info for info in archive.infolist() if info.filename.endswith("data.pkl"))
    return described.header_offset, described.header_offset + described.file_size


def _values(path):
    return _pickle(path)[1], _directory(path)[0]


def _directory(path):
    with zipfile.ZipFile(path) as archive:
        return archive.start_dir, path.stat().st_size


# name → (file, where in it, how many)
_REGIONS = {
    "header of weights.safetensors": (WEIGHTS, _header, 18),
    "data of weights.safetensors": (WEIGHTS, _data, 10),
    "pickle of weights.pth": ("weights.pth", _pickle, 16),
    "values of weights.pth": ("weights.pth", _values, 8),
    "directory of weights.pth": ("weights.pth", _directory, 8),
}


def _flips():
    for name, (source, region, count) in _REGIONS.items():
        for seed in range(count):
            write = functools.partial(_flip, source, source, region, seed)
            yield Case("bit flip", f"{name}, no. {seed + 1}", write, source)


CASES = (*_truncations(), *_flips())
