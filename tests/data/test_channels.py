"""Images of other channels than RGB: files, arrays, resizing, batches and augmentation."""

import numpy as np
import pytest
from PIL import Image

from keras_spm.data import (
    ClassificationAugmentation,
    CsvDataset,
    DetectionBatching,
    EncodedImage,
    ImageBatching,
    ImagePreprocessing,
    SegmentationAugmentation,
    classification_augmentation,
)
from keras_spm.data.bands import Bands, rgb_to_channels
from keras_spm.data.classification_augmentation import operations, rand_augment
from keras_spm.data.images import image_size, read_image
from keras_spm.data.transforms import crop, horizontal_flip, pad, random_affine, resize, to_pixels
from keras_spm.layers.image_normalization import IMAGENET_MEAN

torch_only = pytest.mark.only("torch")  # Nothing here depends on the backend.

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 8), dtype="uint8")
RGB, RGBA, GRAY = PIXELS[..., :3], PIXELS[..., :4], PIXELS[..., 0]
CHANNELS = (1, 2, 4, 8)


def _read(image, channels):
    return np.asarray(read_image(image, channels=channels))


# === Files ===


@torch_only
def test_files_are_converted_as_by_pillow(tmp_path):
    luminance = np.round(RGB @ [0.299, 0.587, 0.114])
    opaque = np.full((24, 32, 1), 255, "uint8")
    for name, picture in (("rgb", Image.fromarray(RGB)), ("rgba", Image.fromarray(RGBA))):
        path = tmp_path / f"{name}.png"
        picture.save(path)
        encoded = EncodedImage(path.read_bytes(), name)
        for image in (path, picture, encoded, str(path)):
            gray = _read(image, 1)
            assert gray.shape == (24, 32, 1) and gray.dtype == np.uint8
            assert np.abs(gray[..., 0] - luminance).max() <= 1  # Pillow's integers.
            np.testing.assert_array_equal(_read(image, 3), RGB)
            alpha = RGBA[..., 3:] if name == "rgba" else opaque
            np.testing.assert_array_equal(_read(image, 4), np.concatenate([RGB, alpha], -1))
            np.testing.assert_array_equal(_read(image, 2), np.concatenate([gray, alpha], -1))
    Image.fromarray(GRAY).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(_read(tmp_path / "gray.png", 1)[..., 0], GRAY)
    expected = np.concatenate([np.repeat(GRAY[..., None], 3, -1), opaque], -1)
    np.testing.assert_array_equal(_read(tmp_path / "gray.png", 4), expected)


def _write_pages(path, pixels):
    first, *others = (
        Image.fromarray(np.ascontiguousarray(page)) for page in pixels.T.swapaxes(1, 2)
    )
    first.save(path, save_all=True, append_images=others)
    return path


@torch_only
@pytest.mark.parametrize("channels", [2, 4, 8])
def test_a_tiff_with_a_page_for_each_channel(tmp_path, channels):
    path = _write_pages(tmp_path / "bands.tif", PIXELS[..., :channels])
    np.testing.assert_array_equal(_read(path, channels), PIXELS[..., :channels])
    deep = PIXELS[..., :channels].astype("uint16") * 257
    path = _write_pages(tmp_path / "deep.tif", deep)
    np.testing.assert_array_equal(_read(path, channels), PIXELS[..., :channels])
    # In RGB, and in gray, it is its first page.
    np.testing.assert_array_equal(_read(path, 3), np.repeat(GRAY[..., None], 3, -1))
    np.testing.assert_array_equal(_read(path, 1), GRAY[..., None])


@torch_only
@pytest.mark.parametrize("channels", [1, 3, 4, 8])
def test_array_files(tmp_path, channels):
    path = tmp_path / "bands.npy"
    np.save(path, PIXELS[..., :channels])
    assert image_size(path) == (24, 32)
    for each in (path, str(path), bytes(path)):
        np.testing.assert_array_equal(_read(each, channels), PIXELS[..., :channels])
    np.save(path, PIXELS[..., :channels].astype("float32") - 0.25 * (PIXELS[..., :channels] > 0))
    np.testing.assert_array_equal(_read(path, channels), PIXELS[..., :channels])


@torch_only
def test_array_files_of_a_table_are_verified(tmp_path):
    contents = {
        "good": PIXELS,
        "gray": GRAY,
        "flat": np.zeros(300, "uint8"),
        "deep": PIXELS.astype("uint16") * 257,
    }
    for name, array in contents.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "object.npy", np.array([{}]))
    rows = [f"{name}.npy,field\n" for name in (*contents, "object")]
    (tmp_path / "table.csv").write_text("path,label\n" + "".join(rows))
    data = CsvDataset(tmp_path / "table.csv", invalid="drop")
    assert [example["image"].name for example in data] == ["good.npy", "gray.npy"]
    assert {reason: len(rows) for reason, rows in data.invalid_annotations.items()} == {
        "array that is not (height, width, channels) of at least 8 pixels": 1,
        "pixels that are not numbers in [0, 255]": 1,
        "truncated or corrupt image": 1,
    }


@torch_only
def test_wrong_numbers_of_channels_are_named(tmp_path):
    picture = Image.fromarray(RGB)
    picture.save(tmp_path / "rgb.png")
    np.save(tmp_path / "four.npy", RGBA)
    pages = _write_pages(tmp_path / "pages.tif", PIXELS[..., :5])
    extra = tmp_path / "extra.tif"
    _write_rgb_and_more(extra, PIXELS[..., :5])
    received = r"An image must have 8 channels\. Received: 3, mode RGB"
    shape = r"must be \(height, width, {}\)\. Received: shape \(24, 32, {}\)"
    for image, channels, message in (
        (tmp_path / "rgb.png", 8, f"rgb.png cannot be read as an image: {received}"),
        (picture, 8, received),
        (RGB, 4, shape.format(4, 3)),
        (RGBA, 3, shape.format(3, 4)),
        (RGB, 1, shape.format(1, 3)),
        (GRAY, 3, r"must be \(height, width, 3\)\. Received: shape \(24, 32\)"),
        (tmp_path / "four.npy", 8, "four.npy cannot.*" + shape.format(8, 4)),
        (read_image(RGBA, channels=4), 8, shape.format(8, 4)),
        (pages, 8, r"pages.tif cannot .* have 8 channels\. Received: 5 pages"),
        (extra, 5, r"extra.tif cannot .* Pillow reads only 3 of its 5 channels\. .* `.npy`"),
        (extra, 4, r"extra.tif cannot .* Pillow reads only 3 of its 5 channels\."),
    ):
        with pytest.raises(ValueError, match=message) as error:
            read_image(image, channels=channels)
        assert "\n" not in str(error.value)
    np.testing.assert_array_equal(_read(extra, 3), RGB)


def _write_rgb_and_more(path, pixels):
    """Writes an uncompressed TIFF of RGB and further samples per pixel."""
    height, width, count = pixels.shape
    shorts = np.array([8] * count + [0] * (count - 3), "<u2").tobytes()
    entries = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, count, 8), (259, 3, 1, 1)),
        *((262, 3, 1, 2), (273, 4, 1, 8 + len(shorts)), (277, 3, 1, count), (278, 4, 1, height)),
        *((279, 4, 1, pixels.size), (338, 3, count - 3, 8 + 2 * count)),
    ]
    # Two values fit into their entry.
    entries[-1] = (338, 3, 2, 0) if count == 5 else entries[-1]
    table = np.array(len(entries), "<u2").tobytes() + b"".join(
        np.array([tag, kind], "<u2").tobytes() + np.array([number, value], "<u4").tobytes()
        for tag, kind, number, value in entries
    )
    start = np.array([8 + len(shorts) + pixels.size], "<u4").tobytes()
    path.write_bytes(b"II*\0" + start + shorts + pixels.tobytes() + table + bytes(4))


# === Geometry: every channel as Pillow's gray and RGB images ===


@torch_only
def test_bands_are_as_images_of_pillow():
    ours, theirs = Bands.from_pixels(RGB), Image.fromarray(RGB)
    assert ours.size == theirs.size and ours.shape == RGB.shape
    turned = Image.Transpose.ROTATE_90
    affine = ((20, 30), Image.Transform.AFFINE, (1, 0.2, 1, -0.1, 1.1, 0), 2)
    for method, arguments in (
        *(("resize", ((17, 41), resample)) for resample in Image.Resampling),
        ("crop", ((3, 2, 20, 19),)),
        ("transpose", (turned,)),
        ("transform", affine),
    ):
        found, expected = (getattr(each, method)(*arguments) for each in (ours, theirs))
        np.testing.assert_array_equal(found, expected, err_msg=method)
        assert found.size == expected.size


@torch_only
@pytest.mark.parametrize("channels", CHANNELS)
def test_preprocessing_treats_channels_alike(channels):
    """Pillow itself would scale the colors of RGBA by their opacity."""
    for crop_pct in (None, 0.9):
        rgb = ImagePreprocessing((19, 21), crop_pct)
        several = ImagePreprocessing((19, 21), crop_pct, channels=channels)
        found = several(PIXELS[..., :channels])
        for channel in range(channels):
            expected = rgb(np.repeat(PIXELS[..., channel : channel + 1], 3, -1))
            np.testing.assert_array_equal(found[..., channel], expected[..., 0])
    assert several([]).shape == (0, 19, 21, channels)
    assert several.get_config()["channels"] == channels


@torch_only
def test_gray_arrays_may_lack_their_channel():
    gray = ImagePreprocessing((24, 32), channels=1)
    np.testing.assert_array_equal(gray(GRAY), GRAY[..., None])
    np.testing.assert_array_equal(gray([GRAY, GRAY[..., None]]), [GRAY[..., None]] * 2)


@torch_only
def test_transforms_keep_the_channels_of_arrays():
    example = {"image": PIXELS, "segmentation_map": GRAY}
    np.testing.assert_array_equal(horizontal_flip(example)["image"], PIXELS[:, ::-1])
    np.testing.assert_array_equal(crop(example, (2, 3, 9, 8))["image"], PIXELS[3:8, 2:9])
    padded = pad(example, (30, 40), tuple(range(8)))["image"]
    assert (padded[24:] == np.arange(8)).all() and (padded[:24, :32] == PIXELS).all()
    colors = {"image": RGB}
    for function in (
        lambda example: resize(example, (11, 13))["image"],
        lambda example: random_affine(example["image"], np.random.default_rng(1), 20, 0.2, 0.1),
    ):
        np.testing.assert_array_equal(function(example)[..., :3], function(colors))
    assert to_pixels(Image.fromarray(RGBA)).shape == (24, 32, 3)
    np.testing.assert_array_equal(to_pixels(Image.fromarray(RGBA), 4), RGBA)


# === Batches ===


@torch_only
@pytest.mark.parametrize("channels", [*CHANNELS, 3])
def test_padding_is_the_mean_of_imagenet(channels):
    image = np.zeros((20, 30, channels), "uint8")
    batch, _ = ImageBatching(channels=channels)([image, np.zeros((32, 16, channels), "uint8")])
    assert batch.shape == (2, 32, 32, channels) and batch.dtype == np.uint8
    if channels == 1:
        expected = [np.mean(IMAGENET_MEAN)]
    else:
        expected = [IMAGENET_MEAN[channel % 3] for channel in range(channels)]
    assert (batch[0, 20:] == np.round(255 * np.array(expected))).all()
    assert not batch[0, :20, :30].any()
    assert (
        rgb_to_channels((1, 2, 6), channels)
        == ((3,) if channels == 1 else (1, 2, 6) * 3)[:channels]
    )


@torch_only
def test_batches_of_objects(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(RGBA).save(path)
    boxes = {"boxes": np.float32([[2, 3, 9, 8]]), "labels": np.array([1])}
    boxes |= {"crowd": np.array([False]), "areas": np.float32([35])}
    batching = DetectionBatching(ImageBatching(min_size=48, channels=4), 2)
    images, targets = batching([{"image": each, **boxes} for each in (path, RGBA)])
    assert images.shape == (2, 64, 64, 4)
    np.testing.assert_array_equal(*images)
    np.testing.assert_allclose(targets["boxes"][0, 0], [4, 6, 18, 16])
    with pytest.raises(ValueError, match=r"\(height, width, 4\)\. Received: shape \(24, 32, 3\)"):
        batching([{"image": RGB, **boxes}])


@pytest.mark.only("tensorflow")
def test_tf_data_sets():
    import tensorflow as tf

    preprocessing = ImagePreprocessing((16, 20), channels=4)
    images = preprocessing(tf.data.Dataset.from_tensors(RGBA))
    assert images.element_spec.shape == (16, 20, 4)
    np.testing.assert_array_equal(next(iter(images)), preprocessing(RGBA))


# === Augmentation ===


def _augmentation(channels, crop_scale=0.2, flip=0.5, magnitude=0.0, erasing=0.0):
    mean, std = (rgb_to_channels(each, channels) for each in ((0.2, 0.4, 0.6), (0.1, 0.2, 0.3)))
    return ClassificationAugmentation(16, crop_scale, flip, magnitude, erasing, mean, std)


@torch_only
@pytest.mark.parametrize("channels", CHANNELS)
def test_crops_and_flips_of_all_channels(channels, tmp_path):
    np.save(tmp_path / "bands.npy", PIXELS[..., :channels])
    for seed in range(4):
        rgb, found, read = (
            augmentation(image, np.random.default_rng(seed))
            for augmentation, image in (
                (_augmentation(3), np.repeat(PIXELS[..., :1], 3, -1)),
                (_augmentation(channels), PIXELS[..., :channels]),
                (_augmentation(channels), tmp_path / "bands.npy"),
            )
        )
        np.testing.assert_array_equal(found[..., 0], rgb[..., 0])
        np.testing.assert_array_equal(found, read)


class _First:
    """A generator that draws the first operation, applies it and has no noise."""

    def integers(self, high, size):
        return [0] * size

    def random(self):
        return 0.0

    def normal(self, mean, std):
        return mean


@torch_only
@pytest.mark.parametrize("name", classification_augmentation.OPERATIONS_OF_BANDS)
def test_random_operations_of_other_channels(name, monkeypatch):
    """Geometry and brightness are those of RGB; contrast is that of each channel in gray."""
    operation, fill = operations()[name], (7, 80, 150)
    monkeypatch.setattr(classification_augmentation, "OPERATIONS_OF_BANDS", (name,))
    image = Bands.from_pixels(RGB)
    found = np.asarray(rand_augment(image, _First(), 6, fill, num_operations=1))
    if name == "contrast":
        grays = [operation(Image.fromarray(RGB[..., i]), 0.6, 1, fill[i]) for i in range(3)]
        expected = np.stack(grays, axis=-1)
    else:
        expected = operation(Image.fromarray(RGB), 0.6, 1, fill)
    np.testing.assert_array_equal(found, expected)
    assert (found != RGB).any()


@torch_only
@pytest.mark.parametrize("channels", CHANNELS)
def test_all_augmentation_of_other_channels(channels):
    augmentation = _augmentation(channels, magnitude=9.0, erasing=0.5)
    for seed in range(20):
        pixels = augmentation(PIXELS[..., :channels], np.random.default_rng(seed))
        assert pixels.shape == (16, 16, channels) and pixels.dtype == np.uint8


@torch_only
def test_erased_pixels_have_the_statistics_of_their_channels():
    augmentation = _augmentation(4, crop_scale=1.0, flip=0.0, erasing=1.0)
    erased = []
    for seed in range(300):
        pixels = augmentation(np.zeros((16, 16, 4), "uint8"), np.random.default_rng(seed))
        erased.append(pixels[pixels.any(axis=-1)])
    means = np.concatenate(erased).mean(axis=0)
    np.testing.assert_allclose(means, 255 * np.array([0.2, 0.4, 0.6, 0.2]), rtol=0.1)


@torch_only
@pytest.mark.parametrize("channels", CHANNELS)
def test_segmentation_augmentation(channels):
    example = {"image": PIXELS[..., :channels], "segmentation_map": GRAY % 5}
    plain, jittered = (
        SegmentationAugmentation(16, (40, 30), color_jitter=color_jitter, channels=channels)
        for color_jitter in (False, True)
    )
    for seed in range(8):
        before, after = (
            augmentation(example, np.random.default_rng(seed))["image"].astype(int)
            for augmentation in (plain, jittered)
        )
        assert before.shape == after.shape == (16, 16, channels)
        # Brightness and contrast keep the order of a pixel's channels.
        assert (np.sign(np.diff(before)) * np.diff(after) >= 0).all()
