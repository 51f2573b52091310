"""Data sets prepared by TensorFlow Datasets, read without TensorFlow from `array_record` files."""

import numpy as np

from keras_spm.cards import read_class_names
from keras_spm.data.coco import COCO_CATEGORIES
from keras_spm.data.detection_files import ObjectEntry, clip_box, object_fields
from keras_spm.data.images import EncodedImage
from keras_spm.data.readers import (
    InvalidAnnotation,
    check_invalid,
    find_splits,
    read_annotations,
    register_reader,
    report_invalid,
)
from keras_spm.data.segmentation_files import to_segmentation_map
from keras_spm.registry import lookup
from keras_spm.types import Example, PathLike


class _Examples:
    """A sequence of a split's examples, each converted by `_convert`."""

    def __init__(self, builder, folder, split, decoders=None):
        self._folder = folder
        lookup("split", split, builder.info.splits)
        try:
            self._source = builder.as_data_source(split, decoders=decoders)
        except NotImplementedError as error:
            raise ValueError(
                f"{folder} must have files of array_record, which can be read in any order and "
                f"without TensorFlow. Received: {builder.info.file_format.value}. Convert it, "
                "where TensorFlow is installed, with `tfds convert_format "
                f"--dataset_version_dir={folder} --out_file_format=array_record --out_dir=…`, "
                "or prepare it again with "
                '`tensorflow_datasets.builder(…, file_format="array_record")`.'
            ) from error

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            example = self._source[index]
        except Exception as error:  # Of several types, which do not name the record.
            raise ValueError(f"Example {index} of {self._folder} is unreadable: {error}") from error
        if all(value is None for value in example.values()):  # As damaged records are read.
            raise ValueError(f"Example {index} of {self._folder} is unreadable: empty record")
        return self._convert(index, example)


class TfdsCoco(_Examples):
    """Objects with boxes from TensorFlow Datasets' `coco/2017` or `coco/2014`.

    A sequence of dicts of `image`, an array, `image_id`, `boxes`, `labels`, `crowd` and
    `areas`. Boxes are accurate to 1e-4 pixels; areas are rounded down, so small objects may
    have area 0. Objects are checked when their example is read: COCO's `train` split has two
    boxes without area and must be read with `invalid="drop"`.

    Args:
        folder: path of the data set, such as `~/tensorflow_datasets/coco/2017/1.1.0`.
        split: name of a split, such as `"train"`.
        invalid: `"raise"`, or `"drop"` to leave out objects whose box has no area or whose
            class is unknown.

    Attributes:
        class_names: list of 80 str.
        category_ids: list of COCO's own id of each label, from 1 to 90.

    Raises:
        FileNotFoundError: if the folder has no data set.
        ValueError: if the split is unknown or the format is another one; when an example is
            read, if objects are invalid and not dropped.
    """

    def __init__(self, folder: PathLike, split: str, invalid: str = "raise") -> None:
        check_invalid(invalid)
        self.class_names = list(COCO_CATEGORIES.values())
        self.category_ids = list(COCO_CATEGORIES)
        builder = _builder(folder, {"image", "image/id", "objects"})
        super().__init__(builder, folder, split)
        self._invalid = invalid

    def _convert(self, index, example):
        height, width = example["image"].shape[:2]
        image_id = int(example["image/id"])

        def read(annotation):
            (top, left, bottom, right), label, crowd, area = annotation
            box = (left * width, top * height, right * width, bottom * height)
            box = clip_box(box, height, width)
            if not 0 <= label < len(self.class_names):
                raise InvalidAnnotation("unknown class")
            return ObjectEntry(0, box, label, crowd, area)

        stored = example["objects"]
        fields = ("bbox", "label", "is_crowd", "area", "id")
        *columns, ids = (np.asarray(stored[field]).tolist() for field in fields)
        invalid_annotations = {}
        rows = zip(*columns, strict=True)
        objects = read_annotations(zip(ids, rows, strict=True), read, invalid_annotations)
        report_invalid(f"Image {image_id} of {self._folder}", invalid_annotations, self._invalid)
        return {"image": example["image"], "image_id": image_id, **object_fields(objects)}


# The training split has two boxes without area.
@register_reader("detection", "tfds_coco", {"train": "train", "validation": "validation"}, "drop")
def _read_coco(folder, split, class_names, invalid, verify):
    return TfdsCoco(folder, split, invalid)


class TfdsAde20k(_Examples):
    """Segmentation maps from TensorFlow Datasets' `scene_parse150`.

    A sequence of dicts of `image`, an array, and `segmentation_map` (height, width) uint8, 255
    where ignored.

    Note that TensorFlow Datasets (as of 4.9.10) contains the annotations of the benchmark's
    *instance* segmentation challenge, whose first channel numbers 100 kinds of objects;
    walls, sky, floors and everything else without instances are 0. For the benchmark with 150
    classes that papers report, read the benchmark's own folder with `Ade20k`.

    Args:
        folder: path of the data set, such as `~/tensorflow_datasets/scene_parse150/1.0.0`.
        split: `"train"` or `"test"`.

    Attributes:
        class_names: list of 150 str, `"class 0"` and so on.

    Raises:
        FileNotFoundError: if the folder has no data set.
        ValueError: if the split is unknown or the format is another one; when an example is
            read, if its map is invalid.
    """

    def __init__(self, folder: PathLike, split: str) -> None:
        self.class_names = [f"class {number}" for number in range(150)]
        super().__init__(_builder(folder, {"image", "annotation"}), folder, split)

    def _convert(self, index, example):
        segmentation_map = to_segmentation_map(
            example["annotation"][..., 0],
            example["image"].shape[:2],
            len(self.class_names),
            first_class=1,
            source=f"Annotation {index} of {self._folder}",
        )
        return {"image": example["image"], "segmentation_map": segmentation_map}


@register_reader("segmentation", "tfds_ade20k", {"train": "train", "validation": "test"})
def _read_ade20k(folder, split, class_names, invalid, verify):
    return TfdsAde20k(folder, split)


class TfdsClassification(_Examples):
    """Labeled images from any classification data set of TensorFlow Datasets.

    A sequence of dicts of `image`, an `EncodedImage` that is not decoded yet, and `label`, an
    int, or (classes,) float32 of 0 and 1. The `supervised_keys` of the data set must be an
    image and a class, or a sequence of classes: `imagenet2012`, `cifar10`,
    `oxford_flowers102`, `food101` and many others.

    Args:
        folder: path of the data set, such as `~/tensorflow_datasets/imagenet2012/5.1.0`.
        split: name of a split, such as `"train"`.

    Attributes:
        class_names: list of str, as in the data set.
        multi_label: bool, whether an image may have several classes.

    Raises:
        FileNotFoundError: if the folder has no data set.
        ValueError: if the split is unknown or the format is another one; when an example is
            read, if it has no known class, as in some test splits.
    """

    def __init__(self, folder: PathLike, split: str) -> None:
        import tensorflow_datasets as tfds

        builder = _builder(folder)
        features = {key: builder.info.features[key] for key in builder.info.features}
        keys = builder.info.supervised_keys or (None, None)
        image, label = (features.get(key) for key in keys[:2])
        self.multi_label = isinstance(label, tfds.features.Sequence)
        label = label.feature if self.multi_label else label
        if not isinstance(image, tfds.features.Image) or not isinstance(
            label, tfds.features.ClassLabel
        ):
            raise ValueError(
                f"{folder} must be a classification data set, with an image and a class as its "
                f"supervised keys. Received: supervised keys {keys} of the features "
                f"{sorted(features)}"
            )
        self.class_names = list(label.names)
        self._image_key, self._label_key = keys[:2]
        super().__init__(builder, folder, split, {self._image_key: tfds.decode.SkipDecoding()})

    def _convert(self, index, example):
        source = f"Image {index} of {self._folder}"
        classes = np.atleast_1d(example[self._label_key]).astype("int64")
        if classes.size and not 0 <= classes.min() <= classes.max() < len(self.class_names):
            raise ValueError(
                f"{source} must have classes from 0 to {len(self.class_names) - 1}. "
                f"Received: {classes.tolist()}"
            )
        if self.multi_label:
            label = np.zeros(len(self.class_names), "float32")
            label[classes] = 1
        else:
            label = int(classes[0])
        image = EncodedImage(bytes(example[self._image_key]), source)
        return {"image": image, "label": label}


@register_reader("classification", "tfds", lambda folder: find_splits(_builder(folder).info.splits))
def _read_classification(folder, split, class_names, invalid, verify):
    return TfdsClassification(folder, split)


# The test split has no labels.
@register_reader("classification", "imagenet2012", {"train": "train", "validation": "validation"})
def _read_imagenet(folder, split, class_names, invalid, verify):
    """ImageNet with words as class names, in place of synset ids."""
    examples = TfdsClassification(folder, split)
    examples.class_names = read_class_names("imagenet-1k")
    return examples


def _builder(folder, features=()):
    """Returns the builder of a prepared data set that has the features."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
    except OSError as error:
        raise FileNotFoundError(f"{folder} has no prepared data set: {error}") from error
    if not set(features) <= set(builder.info.features):
        raise ValueError(
            f"{folder} must have a data set with the features {sorted(features)}. "
            f"Received: {sorted(builder.info.features)}"
        )
    return builder
