"""Reading image files: formats, orientation, more than 8 bits, and hostile files."""

import pathlib
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

import keras_spm
from keras_spm.data import ImageFolder
from keras_spm.data.images import has_image_extension, image_size, read_image

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype="uint8")
DEEP = np.random.default_rng(1).integers(0, 2**16, (24, 32))
LEVELS = (DEEP // 257).astype("uint8")
FORMATS = {"u": 1, "i": 2, "f": 3, "c": 6}  # TIFF's names of the kinds of numbers.


def _write_tiff(path, array):
    """Writes an uncompressed grayscale TIFF in the byte order of the array."""
    order = ">" if array.dtype.str[0] == ">" else "<"
    (height, width), content = array.shape, array.tobytes()
    start = 8 + 2 + 12 * 10 + 4
    tags = {256: width, 257: height, 258: 8 * array.itemsize, 259: 1, 262: 1}
    tags.update({273: start, 277: 1, 278: height, 279: len(content)})
    tags[339] = FORMATS[array.dtype.kind]
    entries = [struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items()]
    head = (b"MM" if order == ">" else b"II") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    path.write_bytes(head + b"".join(entries) + bytes(4) + content)
    return path


def _write_deep_png(path, array):
    """Writes (height, width, 3) uint16 as a PNG of 16 bits per channel."""

    def chunk(name, content):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    height, width, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos/heron").mkdir(parents=True)
    Image.fromarray(PIXELS).save(tmp_path / "photos/heron/valid.png")
    return tmp_path / "photos"


def _check_invalid(photos, path, reason):
    """The file is found by verification, and refused by name when it is read."""
    dropped = ImageFolder(photos, invalid="drop").invalid_annotations
    assert dropped == {reason: [f"heron/{path.name}"]}
    with pytest.raises(ValueError, match=f"{path.name} cannot be read as an image: ."):
        read_image(path)


# === Orientation ===

# {Exif orientation: function that turns the pixels upright}
UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.webp", {"lossless": True}),
        ("a.tif", {}),
        ("b.tif", {"compression": "tiff_lzw"}),
    ],
)
def test_orientation(tmp_path, name, options, orientation):
    """Pillow turns TIFF when it reads it, and other formats not."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(tmp_path / name, exif=exif, **options)
    expected = UPRIGHT[orientation](PIXELS)
    np.testing.assert_array_equal(read_image(tmp_path / name), expected)
    assert image_size(tmp_path / name) == expected.shape[:2]


# === More than 8 bits ===


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4", ">i4"])
def test_integers_of_16_bits(photos, dtype):
    path = _write_tiff(photos / "heron/deep.tif", DEEP.astype(dtype))
    assert len(ImageFolder(photos)) == 2
    np.testing.assert_array_equal(read_image(path), np.repeat(LEVELS[..., None], 3, -1))


@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
def test_floats_are_rounded(photos, dtype):
    path = _write_tiff(photos / "heron/deep.tif", (LEVELS - 0.25).clip(0).astype(dtype))
    assert len(ImageFolder(photos)) == 2
    np.testing.assert_array_equal(read_image(path), np.repeat(LEVELS[..., None], 3, -1))


@pytest.mark.parametrize(
    ("change", "dtype", "reason"),
    [
        (lambda pixels: pixels * np.where(pixels == pixels.max(), np.nan, 1), "<f4", "negative"),
        (lambda pixels: pixels * np.where(pixels == pixels.max(), np.inf, 1), "<f4", "negative"),
        (lambda pixels: pixels - 1, "<f4", "negative"),
        (lambda pixels: pixels + 2, ">f4", "above 255.0"),
        (lambda pixels: pixels - 1, "<i2", "negative"),
        (lambda pixels: 300 * pixels, "<i4", "above 65535"),
    ],
)
def test_numbers_that_are_no_levels(photos, change, dtype, reason):
    path = _write_tiff(photos / "heron/deep.tif", change(LEVELS.astype("float64")).astype(dtype))
    reasons = {"negative": "pixels that are negative or not finite"}
    _check_invalid(photos, path, reasons.get(reason, f"pixels {reason}"))


def test_complex_numbers(photos):
    path = _write_tiff(photos / "heron/deep.tif", LEVELS.astype("<c8"))
    _check_invalid(photos, path, "not an image")


def _write_fits(path, array):
    cards = {"SIMPLE": "T", "BITPIX": -32, "NAXIS": 2, "NAXIS1": 32, "NAXIS2": 24}
    lines = [f"{name:8}= {value!s:>20}".ljust(80) for name, value in cards.items()]
    header = "".join([*lines, "END".ljust(80)]).ljust(2880)
    path.write_bytes(header.encode() + array.astype(">f4").tobytes())
    return path


DARK = {
    "floats from 0 to 1": lambda folder: _write_tiff(
        folder / "a.tif", (DEEP / 65535).astype("<f4")
    ),
    "12 bits of 16": lambda folder: _write_tiff(folder / "a.tif", (DEEP // 16).astype(">u2")),
    "colors with 12 bits of 16": lambda folder: _write_deep_png(
        folder / "a.png", PIXELS.astype("uint16") * 16
    ),
    "astronomy": lambda folder: _write_fits(folder / "a.fits", DEEP / 65535),
}


@pytest.mark.parametrize("kind", DARK)
def test_a_warning_of_almost_black_images(photos, kind):
    path = DARK[kind](photos / "heron")
    for read in (lambda: ImageFolder(photos), lambda: read_image(path)):
        with pytest.warns(UserWarning, match="almost black, below 16 of 255"):
            read()


def test_one_warning_for_all_almost_black_images(photos):
    for index in range(5):
        _write_tiff(photos / f"heron/{index}.tif", (DEEP // (16 + index)).astype("<u2"))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        ImageFolder(photos)
    assert len(found) == 1


def test_no_warning_of_other_images(photos):
    """Warnings are errors in tests."""
    _write_deep_png(photos / "heron/deep.png", PIXELS.astype("uint16") * 257)
    Image.new("RGB", (32, 32)).save(photos / "heron/black.png")
    assert len(ImageFolder(photos)) == 3
    np.testing.assert_array_equal(read_image(photos / "heron/deep.png"), PIXELS)


# === Hostile files ===

POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n"
)


def test_postscript_starts_no_program(photos, tmp_path, monkeypatch):
    script = tmp_path / "bin/gs"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    (photos / "heron/letter.jpg").write_bytes(POSTSCRIPT)
    _check_invalid(photos, photos / "heron/letter.jpg", "not an image")
    assert not (tmp_path / "started").exists()


def test_one_function_opens_images():
    package = pathlib.Path(keras_spm.__file__).parent
    found = [path for path in package.rglob("*.py") if "Image.open(" in path.read_text()]
    assert [path.name for path in found] == ["images.py"]
    assert found[0].read_text().count("Image.open(") == 1


def test_extensions():
    for name in ("a.JPG", "a.jpeg", "a.png", "a.webp", "a.tif", "a.mpo", "a.avif"):
        assert has_image_extension(name), name
    for name in ("a.eps", "a.ps", "a.pdf", "a.h5", "a.wmf", "a.mpg", "a.txt", "a"):
        assert not has_image_extension(name), name


def test_formats_that_pillow_does_not_implement(photos):
    """Pillow raises NotImplementedError."""
    header = struct.pack("<7I", 124, 0x1007, 32, 32, 0, 0, 0) + bytes(44)
    header += struct.pack("<2I4s5I", 32, 4, b"ABCD", 0, 0, 0, 0, 0) + bytes(20)
    (photos / "heron/texture.dds").write_bytes(b"DDS " + header + bytes(4096))
    _check_invalid(photos, photos / "heron/texture.dds", "truncated or corrupt image")


@pytest.mark.filterwarnings("ignore:Image size")  # Pillow warns, too.
def test_more_pixels_than_pillow_warns_of(photos, monkeypatch):
    path = photos / "heron/large.png"
    Image.new("RGB", (64, 24)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 24 - 1)
    _check_invalid(photos, path, "image has too many pixels")
    with pytest.raises(ValueError, match="1536 pixels, and `PIL.Image.MAX_IMAGE_PIXELS` is 1535"):
        read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_image(path).size == (64, 24)
