"""Folders and tables of labeled images, and invalid files in them."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from keras_spm.data import CsvDataset, ImageFolder
from keras_spm.data.images import read_image

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype="uint8")


def _write(path, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).convert(mode).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path):
    """Two classes with two images each."""
    for name in ("heron/b.png", "heron/a.jpg", "stork/a.png", "stork/c.webp"):
        _write(tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_folders_are_read_in_the_order_of_names(photos):
    for name in (".DS_Store", "heron/Thumbs.db", "stork/.hidden.png"):
        (photos / name).write_bytes(b"system file")
    examples = ImageFolder(photos)
    assert examples.class_names == ["heron", "stork"] and not examples.invalid_annotations
    found = [(each["image"].relative_to(photos).as_posix(), each["label"]) for each in examples]
    assert found == [
        ("heron/a.jpg", 0),
        ("heron/b.png", 0),
        ("stork/a.png", 1),
        ("stork/c.webp", 1),
    ]
    with pytest.raises(IndexError):
        examples[4]
    names = ["stork", "heron", "crane"]
    assert [each["label"] for each in ImageFolder(photos, names)] == [1, 1, 0, 0]


def _truncated(photos, name, share):
    path = photos / "heron" / name
    large = Image.fromarray(PIXELS).resize((320, 240))
    large.save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


INVALID = {
    "empty file": lambda photos: (photos / "heron/x.jpg").touch(),
    "not an image": lambda photos: (photos / "heron/x.jpg").write_text("a letter"),
    "truncated or corrupt image": lambda photos: _truncated(photos, "x.jpg", 0.6),
    "image smaller than 8 pixels": lambda photos: Image.new("RGB", (1, 1)).save(
        photos / "heron/x.jpg"
    ),
    "missing image file": lambda photos: (photos / "heron/x.jpg").symlink_to("nowhere.jpg"),
    "class without images": lambda photos: (photos / "x.jpg").mkdir(),
}


@pytest.mark.parametrize("reason", INVALID)
def test_invalid_files_are_reported_or_dropped(photos, reason):
    INVALID[reason](photos)
    with pytest.raises(ValueError, match=rf"1 × {reason} \(.*x\.jpg.*invalid=\"drop\""):
        ImageFolder(photos)
    examples = ImageFolder(photos, invalid="drop")
    assert (
        list(examples.invalid_annotations) == [reason]
        and len(examples.invalid_annotations[reason]) == 1
    )
    assert len(examples) == 4 and examples.class_names == ["heron", "stork"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "gif", "bmp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_truncated_images_are_found(photos, suffix, share):
    _truncated(photos, f"x.{suffix}", share)
    invalid_annotations = ImageFolder(photos, invalid="drop").invalid_annotations
    assert [name for names in invalid_annotations.values() for name in names] == [
        f"heron/x.{suffix}"
    ]


def test_files_without_permission(photos, monkeypatch):
    """Simulated, because tests may run as root."""
    opened = Image.open

    def guarded(path, *arguments):
        if pathlib.Path(path).name == "b.png":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(Image, "open", guarded)
    with pytest.raises(ValueError, match=r"1 × permission denied \(heron/b.png\)"):
        ImageFolder(photos)


def test_too_many_pixels(photos, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 32 // 2 - 1)
    with pytest.raises(ValueError, match="4 × image has too many pixels"):
        ImageFolder(photos)


def test_other_files_and_nested_folders(photos):
    before = len(ImageFolder(photos))
    (photos / "heron/2023/may").mkdir(parents=True)
    (photos / "stork").mkdir(exist_ok=True)
    _write(photos / "heron/2023/may/x.jpg")
    _write(photos / "beside.jpg")
    for name in ("notes.txt", "heron/x.jpg.txt", "Thumbs.db", ".DS_Store", "__MACOSX"):
        (photos / name).touch()
    (photos / "heron/again").symlink_to(photos / "heron")  # Without an end.
    examples = ImageFolder(photos)
    assert len(examples) == before + 1 and "__MACOSX" not in examples.class_names
    found = [example for example in examples if example["image"].name == "x.jpg"]
    assert [examples.class_names[each["label"]] for each in found] == ["heron"]
    assert examples.invalid_annotations == {}
    assert examples.ignored_files == {
        "file beside the class folders": ["beside.jpg", "notes.txt"],
        "file without an image extension": ["heron/x.jpg.txt"],
    }


def test_all_reasons_are_in_one_message(photos):
    INVALID["empty file"](photos)
    (photos / "crane").mkdir()
    with pytest.raises(ValueError) as raised:
        ImageFolder(photos)
    for reason in ("empty file", "class without images (crane)"):
        assert f"1 × {reason}" in str(raised.value)


@pytest.mark.parametrize("invalid", ["raise", "drop"])
def test_folders_that_are_not_a_data_set(tmp_path, invalid):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        ImageFolder(tmp_path / "nowhere", invalid=invalid)
    with pytest.raises(ValueError, match="must contain one folder per class"):
        ImageFolder(tmp_path, invalid=invalid)
    (tmp_path / "heron").mkdir()
    with pytest.raises(ValueError, match="class without images|has no valid images"):
        ImageFolder(tmp_path, invalid=invalid)
    _write(tmp_path / "heron/a.png")
    _write(tmp_path / "Heron/a.png")
    with pytest.raises(ValueError, match="differ only in case: 'Heron' and 'heron'"):
        ImageFolder(tmp_path, invalid=invalid)
    with pytest.raises(ValueError, match="`invalid` must be one of"):
        ImageFolder(tmp_path, invalid="ignore")


def test_classes_without_valid_images_are_dropped(photos):
    for path in (photos / "heron").iterdir():
        path.write_bytes(b"")
    examples = ImageFolder(photos, invalid="drop")
    assert examples.class_names == ["stork"] and [each["label"] for each in examples] == [0, 0]
    assert examples.invalid_annotations["class without images"] == ["heron"]
    kept = ImageFolder(photos, ["heron", "stork"], invalid="drop")
    assert kept.class_names == ["heron", "stork"] and [each["label"] for each in kept] == [1, 1]
    with pytest.raises(ValueError, match=r"1 × folder of an unknown class \(heron\)"):
        ImageFolder(photos, ["stork"])


def test_without_verification_errors_are_raised_when_read(photos):
    (photos / "heron/a.jpg").write_bytes(b"")
    examples = ImageFolder(photos, verify=False)
    with pytest.raises(ValueError, match="a.jpg cannot be read as an image"):
        read_image(examples[0]["image"])
    (photos / "heron/c.jpg").symlink_to("nowhere.jpg")
    assert ImageFolder(photos, verify=False, invalid="drop")  # A broken link.
    (photos / "stork/a.png").unlink()
    with pytest.raises(FileNotFoundError):
        read_image(examples[2]["image"])


def test_all_modes_become_rgb(tmp_path):
    gray = np.asarray(Image.fromarray(PIXELS).convert("L"))
    cmyk = Image.fromarray(PIXELS).convert("CMYK")
    deep = PIXELS[..., 0].astype("uint16") * 257
    palette = Image.fromarray(PIXELS).quantize(200)
    transparent = Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]]))
    cases = {
        "gray.png": (Image.fromarray(gray), np.repeat(gray[..., None], 3, -1), 0),
        "cmyk.tif": (cmyk, 255 - np.asarray(cmyk, int)[..., :3], 0),
        "cmyk.jpg": (cmyk, None, None),
        "deep.png": (Image.fromarray(deep), np.repeat(PIXELS[..., :1], 3, -1), 0),
        "deep.tif": (Image.fromarray(deep), np.repeat(PIXELS[..., :1], 3, -1), 0),
        "palette.png": (palette, np.asarray(palette.convert("RGB")), 0),
        "transparent.png": (transparent, PIXELS, 0),
        "named_after_another_format.jpg": (Image.fromarray(PIXELS), PIXELS, 0),
    }
    for name, (image, *_) in cases.items():
        path = tmp_path / "all" / name
        path.parent.mkdir(exist_ok=True)
        image.save(path, format="PNG" if name.startswith("named") else None)
    examples = ImageFolder(tmp_path)
    assert len(examples) == len(cases)
    for example in examples:
        pixels = np.asarray(read_image(example["image"]))
        assert pixels.shape == (24, 32, 3) and pixels.dtype == "uint8"
        _, expected, tolerance = cases[example["image"].name]
        if expected is not None:
            assert np.abs(pixels.astype(int) - expected).max() <= tolerance, example["image"].name


def test_fifty_megapixels(tmp_path):
    (tmp_path / "large").mkdir()
    colors = Image.fromarray(PIXELS[:2, :2]).resize((8000, 6250), Image.Resampling.BILINEAR)
    colors.save(tmp_path / "large/photo.jpg", quality=90)
    (example,) = ImageFolder(tmp_path)
    assert read_image(example["image"]).size == (8000, 6250)
    small = read_image(example["image"], min_scale=0.1)
    assert small.size == (1000, 782)
    expected = np.asarray(colors.reduce(8), "float32")
    assert np.abs(np.asarray(small, "float32") - expected)[:781].mean() < 1


def _table(tmp_path, text, **arguments):
    for name in "abcd":
        _write(tmp_path / "images" / f"{name}.png")
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    return CsvDataset(tmp_path / "table.csv", tmp_path / "images", **arguments)


def test_tables_with_one_label_per_image(tmp_path):
    text = '\ufeffpath,label,by\nb.png,"stork, white",Ada\n\na.png,heron ,Ben\n'
    examples = _table(tmp_path, text)
    assert examples.class_names == ["heron", "stork, white"] and not examples.multi_label
    found = [(each["image"].name, each["label"]) for each in examples]
    assert found == [("b.png", 1), ("a.png", 0)]
    beside = tmp_path / "images/table.csv"
    beside.write_text(text, encoding="utf-8")
    assert CsvDataset(beside)[1]["image"] == tmp_path / "images/a.png"


def test_tables_with_several_labels_per_image(tmp_path):
    text = "labels,path\nbird|water,a.png\n,b.png\n water,c.png\n"
    examples = _table(tmp_path, text, class_names=["water", "bird", "sky"])
    assert examples.multi_label
    np.testing.assert_array_equal(
        [each["label"] for each in examples], [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
    )
    examples[0]["label"][:] = 5
    assert examples[0]["label"].max() == 1 and examples[0]["label"].dtype == "float32"


def test_splits_of_a_table_share_their_classes(tmp_path):
    text = "path,label,split\na.png,heron,train\nb.png,stork,train\nc.png,stork,val\n"
    train, val = (_table(tmp_path, text, split=split) for split in ("train", "val"))
    assert train.class_names == val.class_names == ["heron", "stork"]
    assert [each["label"] for each in val] == [1] and len(train) == 2
    with pytest.raises(ValueError, match="Did you mean 'train'"):
        _table(tmp_path, text, split="training")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.png", "row with a wrong number of fields"),
        ("a.png,heron,stork", "row with a wrong number of fields"),
        (",heron", "row without a path"),
        ("a.png,", "row without a label"),
        ("b.png,heron", "duplicate path"),
        (".//b.png,heron", "duplicate path"),
        ("a.png,crane", "unknown class"),
        ("x.png,heron", "missing image file"),
        ("../images/a.png,heron", "path outside of the folder, see `allow_outside`"),
    ],
)
def test_invalid_rows(tmp_path, row, reason):
    text = f"path,label\nb.png,heron\nc.png,stork\n{row}\n"
    names = ["heron", "stork"]
    with pytest.raises(ValueError, match=rf"1 × {reason} \(row 4\)"):
        _table(tmp_path, text, class_names=names)
    examples = _table(tmp_path, text, class_names=names, invalid="drop")
    assert examples.invalid_annotations == {reason: ["row 4"]} and len(examples) == 2


def test_paths_outside_of_the_folder_can_be_allowed(tmp_path):
    _write(tmp_path / "b.png")
    text = f"path,label\n{tmp_path}/b.png,heron\n../b.png,heron\n{tmp_path}/images/a.png,heron\n"
    examples = _table(tmp_path, text, allow_outside=True)
    assert [example["image"].name for example in examples] == ["b.png", "b.png", "a.png"]
    with pytest.raises(ValueError, match=r"2 × path outside of the folder.*\(row 2, row 3\)"):
        _table(tmp_path, text)


@pytest.mark.parametrize("names", ["heron", [], ["heron", "heron"], ["heron", ""], ["heron", 3]])
def test_class_names_are_checked(photos, tmp_path, names):
    for read in (ImageFolder, lambda path, names: _table(path, "path,label\n", class_names=names)):
        with pytest.raises(ValueError, match="`class_names` must be distinct, non-empty strings"):
            read(photos, names)


def test_malformed_tables(tmp_path):
    for text, message in (
        ("", "must have the columns"),
        ("path,species\na.png,heron\n", r"Received: \['path', 'species'\]"),
        ("path,label,labels\n", "`label` or `labels`"),
        ("path,label,label\n", "duplicate columns"),
        ('path,label\n"a.png,heron\n', "not a CSV file in UTF-8"),
        ("path,label\n", "has no valid images"),
        ("path,label\na.png,heron\nb.png,Heron\n", "'Heron' and 'heron'"),
    ):
        with pytest.raises(ValueError, match=message):
            _table(tmp_path, text)
    (tmp_path / "table.csv").write_bytes(b"path,label\n\xff\xfe,heron\n")
    with pytest.raises(ValueError, match="not a CSV file in UTF-8"):
        CsvDataset(tmp_path / "table.csv")
    with pytest.raises(FileNotFoundError):
        CsvDataset(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match=r"duplicate label \(row 2\)"):
        _table(tmp_path, "path,labels\na.png,heron|heron\n")
