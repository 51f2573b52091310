"""Checks of the images and targets of a training, and of the arguments of tasks."""

import re
import warnings

import keras
import numpy as np
import pytest
import torch
from PIL import Image

from keras_spm import ImageClassifier, ObjectDetector, SemanticSegmenter
from keras_spm.heads import RetinaNet, SemanticFPN
from keras_spm.tasks import checks
from tests.helpers import tiny_backbone

# Checks run on the host; one test below covers all backends.
torch_only = pytest.mark.only("torch")


def _task(name, num_classes=3, **arguments):
    if name == "classifier":
        return ImageClassifier(tiny_backbone(), num_classes, **arguments)
    if name == "segmenter":
        decoder = SemanticFPN(pyramid_channels=8, channels=8)
        return SemanticSegmenter(tiny_backbone(), num_classes, decoder, **arguments)
    detector = RetinaNet(pyramid_channels=8, channels=8, num_convs=1)
    return ObjectDetector(tiny_backbone(), num_classes, detector, **arguments)


@pytest.fixture(scope="module")
def tasks():
    return {name: _task(name) for name in ("classifier", "segmenter", "detector")}


def _images(count=2, side=32):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype="uint8")


def _boxes(*box):
    return np.tile(np.float32(box), (2, 1, 1))


def _targets(name, label):
    if name == "classifier":
        return np.array([0, label])
    if name == "segmenter":
        maps = np.zeros((2, 32, 32), "int64")
        maps[1, 5, 7] = label
        return maps
    return {"boxes": _boxes(4, 8, 20, 30), "labels": np.array([[0], [label]])}


@pytest.mark.parametrize("name", ["classifier", "segmenter", "detector"])
def test_labels_that_are_no_class(tasks, name):
    model, images = tasks[name], _images()
    before = model.get_weights()
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="integers from 0 to 2.* Received: 3 among"):
            method(images, _targets(name, 3), verbose=0)
    assert all(map(np.array_equal, before, model.get_weights()))


def _tf_dataset(images, targets):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((images, targets)).shuffle(9).batch(2)


def _generator(images, targets):
    yield images, targets


def _py_dataset(images, targets):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return images, targets

    return Batches()


def _torch_loader(images, targets):
    data = torch.utils.data.TensorDataset(torch.tensor(images), torch.tensor(targets))
    return torch.utils.data.DataLoader(data, batch_size=2)


def _torch_stream(images, targets):
    class Examples(torch.utils.data.IterableDataset):
        def __iter__(self):
            return zip(images, targets, strict=True)

    return torch.utils.data.DataLoader(Examples(), batch_size=2)


def _grain_dataset(images, targets):
    import grain

    examples = grain.MapDataset.source(list(zip(images, targets, strict=True)))
    return examples.batch(2).to_iter_dataset()


_SOURCES = [_generator]
if keras.config.backend() == "torch":
    _SOURCES += [_tf_dataset, _py_dataset, _torch_loader, _torch_stream, _grain_dataset]


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.parametrize("source", _SOURCES)
def test_the_first_batch_of_all_kinds_of_data_is_checked(tasks, source):
    labels = np.array([-1, -1])
    with pytest.raises(ValueError, match="integers from 0 to 2. Received: -1"):
        tasks["classifier"].fit(source(_images(), labels), verbose=0)
    data = source(_images(), labels)
    with pytest.raises(ValueError, match="integers from 0 to 2. Received: -1"):
        tasks["classifier"].fit(_images(), labels + 1, validation_data=data, verbose=0)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@torch_only
def test_images_without_a_batch(tasks):
    """A single image, and a data set of single images."""
    import tensorflow as tf

    message = r"Images must be \(batch, height, width, 3\)\. Received: shape \(batch, 32, 3\)"
    image = _images()[0]
    single = tf.data.Dataset.from_tensors((image, 0))
    for call in (
        lambda: tasks["classifier"].predict(image, verbose=0),
        lambda: tasks["segmenter"].evaluate(image, np.zeros((32, 32)), verbose=0),
        lambda: tasks["classifier"].fit(single, verbose=0),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@torch_only
def test_a_data_set_is_not_read_twice(tasks):
    read = []

    def batches():
        for index in range(3):
            read.append(index)
            yield _images(), np.array([0, 1])

    tasks["classifier"].fit(batches(), steps_per_epoch=3, verbose=0)
    assert read == [0, 1, 2]


def _raises(function, *arguments):
    with pytest.raises(ValueError) as error:
        function(*arguments)
    return str(error.value)


@torch_only
def test_labels_of_images():
    def message(labels):
        return _raises(checks.check_labels, np.array(labels), 3)

    assert message([1, 2, 3]).endswith("these seem to count from 1.")
    assert "0.5 among 2" in message([0.5, 1])
    assert "nan among 2" in message([np.nan, 1])
    assert "`labels.argmax(axis=-1)`" in message(np.eye(3)[[0, 1]])
    assert "such as 'cat'" in message(["cat", "dog"])
    assert "(batch,)" in message([[0, 1], [1, 0]])
    checks.check_labels(np.array([[0], [2]]), 3)
    checks.check_labels(np.array([0.0, 2.0]), 3)
    checks.check_labels(np.array([0, -1]), 3, ignore_class=-1)
    assert "(batch, 3)" in _raises(checks.check_multi_labels, np.array([0, 1]), 3)
    assert "0 or 1" in _raises(checks.check_multi_labels, np.array([[0, 1, 2]]), 3)
    checks.check_multi_labels(np.array([[0, 0.5, 1]]), 3)


@torch_only
def test_segmentation_maps():
    def check(maps, num_classes=3):
        checks.check_segmentation_maps(np.array(maps), (2, 2), num_classes, 255)

    check([[[0, 1], [2, 255]]])
    check(np.array([[0, 1], [2, 255]])[None, ..., None])
    assert "or 255 to be ignored. Received: 7" in _raises(check, [[[0, 1], [7, 0]]])
    assert "(batch, 2, 2)" in _raises(check, np.eye(3)[[[[0, 1], [2, 1]]]])
    assert "(batch, 2, 2)" in _raises(check, [[[0, 1]]])
    with pytest.warns(UserWarning, match="maps // 255"):
        check([[[0, 255], [0, 255]]], num_classes=2)


@torch_only
@pytest.mark.parametrize(
    ("boxes", "fault"),
    [
        (_boxes(20, 8, 4, 30), "have no area"),
        (_boxes(4, 8, 4, 30), "have no area"),
        (_boxes(4, 28, 20, 60), "have their center outside of the image of 32 x 32"),
        (_boxes(-20, 8, 10, 30), "have their center outside of the image"),
        (_boxes(0.1, 0.2, 0.5, 0.9), "have no coordinate above 1"),
        (_boxes(4, 8, np.nan, 30), "are not finite"),
        (_boxes(4, 8, 20, 30)[0], "of shape"),
    ],
)
def test_boxes(tasks, boxes, fault):
    targets = {"boxes": boxes, "labels": np.array([[0], [1]])}
    with pytest.raises(ValueError, match=fault):
        tasks["detector"].evaluate(_images(), targets, verbose=0)
    # Padding may have any box.
    padded = {"boxes": np.concatenate([_boxes(4, 8, 20, 30), _boxes(0, 0, 0, 0)], axis=1)}
    padded["labels"] = np.array([[0, -1], [1, -1]])
    tasks["detector"].check_targets(_images(), padded)


@torch_only
@pytest.mark.parametrize("targets", [{"boxes": _boxes(1, 1, 9, 9), "classes": [0]}, [1, 2]])
def test_detection_targets_are_a_dict(tasks, targets):
    with pytest.raises(ValueError, match="dict with `boxes` and `labels`. Received: "):
        tasks["detector"].fit(_images(), targets, verbose=0)


@torch_only
def test_a_loss_of_the_user_takes_any_targets():
    model = _task("classifier")
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    model.fit(_images(), np.eye(3)[[0, 2]], verbose=0)


_CALLS = {"classifier": "classify", "segmenter": "segment", "detector": "detect"}


@torch_only
@pytest.mark.parametrize("name", _CALLS)
def test_images_of_predictions(tasks, name):
    predict = getattr(tasks[name], _CALLS[name])
    image = _images(1)[0]
    assert predict([]) == []
    single, (listed,) = predict(image), predict([image])
    for left, right in zip(keras.tree.flatten(single), keras.tree.flatten(listed), strict=True):
        np.testing.assert_array_equal(left, right)
    with pytest.warns(UserWarning, match=re.escape("scaled to [0, 1]")):
        predict([image.astype("float32") / 255])
    for bad in (
        image[..., 0],
        np.concatenate([image, image[..., :1]], axis=-1),
        np.full((32, 32, 3), np.nan),
        np.full((32, 32, 3), np.inf),
        np.full((32, 32, 3), 60000, "uint16"),
        np.full((32, 32, 3), -50),
        np.ones((32, 32, 3), complex),
    ):
        with pytest.raises(ValueError, match=r"`images\[0\]` must be|Pixels must be"):
            predict([bad])
    with pytest.raises(ValueError, match="`images` must be a path"):
        predict(7)
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        predict([image], batch_size=-1)


@torch_only
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (_images() / np.float32(255), "no pixel above 1"),
        (_images().astype("float32") - 128, "negative pixels"),
        (_images().astype("uint16") * 257, "pixels above 255"),
    ],
)
def test_pixels_of_a_training(tasks, images, message):
    for _ in range(2):  # In every call.
        with pytest.warns(UserWarning, match=message):
            tasks["classifier"].fit(images, np.array([0, 1]), verbose=0)
    with pytest.raises(ValueError, match="Pixels must be finite"):
        tasks["classifier"].fit(images * np.float32(np.nan), np.array([0, 1]), verbose=0)
    with warnings.catch_warnings(action="error", category=UserWarning):
        tasks["classifier"].fit(np.zeros((2, 32, 32, 3), "float32"), np.array([0, 1]), verbose=0)


@torch_only
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("classifier", {"num_classes": True}, "`num_classes` must be an integer of at least 2"),
        ("classifier", {"num_classes": 1}, "`num_classes` must be an integer of at least 2"),
        ("classifier", {"class_names": "abc"}, "`class_names` must be 3 distinct names"),
        ("classifier", {"dropout": 2}, "`dropout` must be a finite number"),
        ("classifier", {"preprocessing": (224, 224)}, "`preprocessing` must be an"),
        ("classifier", {"preprocessing": {"size": 224}}, "`preprocessing` has a wrong argument"),
        ("segmenter", {"num_classes": 1}, "`num_classes` must be an integer of at least 2"),
        ("segmenter", {"num_classes": 300}, "`ignore_class` must not be one of the 300 classes"),
        (
            "segmenter",
            {"class_colors": [[0, 0, 0]]},
            "`class_colors` must be 3 colors of three int",
        ),
        ("segmenter", {"batching": 32}, "`batching` must be an `ImageBatching`"),
        ("detector", {"num_classes": 0}, "`num_classes` must be an integer of at least 1"),
        ("detector", {"bounding_box_format": "foo"}, "Unknown bounding_box_format 'foo'"),
    ],
)
def test_arguments_of_tasks(name, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        _task(name, **arguments)


@torch_only
def test_the_backbone_is_a_model():
    for task in (ImageClassifier, SemanticSegmenter, ObjectDetector):
        with pytest.raises(ValueError, match="`backbone` must be a model.* backbone='b1'"):
            task("b1", 3)


@torch_only
def test_images_are_resized_to_a_backbone_of_one_size():
    backbone = tiny_backbone(image_shape=(32, 32, 3))
    image = _images(1, 60)[0, :40]
    model = ImageClassifier(backbone, 2)
    expected = Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(model.preprocessing(image), expected)
    again = ImageClassifier.from_config(model.get_config()).preprocessing
    assert again.get_config() == model.preprocessing.get_config()
    decoder = SemanticFPN(pyramid_channels=8, channels=8)
    batch, (geometry,) = SemanticSegmenter(backbone, 2, decoder).batching([image])
    # The aspect ratio is kept: 40×60 becomes 21×32, and is padded.
    assert batch.shape == (1, 32, 32, 3) and geometry.resized == (21, 32)
    # Neither what the user chose nor a backbone of any size is changed.
    assert checks.make_batching({"size_divisor": 16}, backbone).min_size is None
    assert checks.make_preprocessing(None, tiny_backbone()) is None
    assert checks.make_batching(None, tiny_backbone()).min_size is None
