"""COCO, scene_parse150 and sets for classification as TensorFlow Datasets lays them out.

Examples are read at random, without TensorFlow, which needs files of `array_record`.
"""

import numpy as np

from keras_spm.data.annotations import AnnotatedObject
from keras_spm.data.annotations import BadAnnotation
from keras_spm.data.annotations import as_arrays
from keras_spm.data.annotations import check_invalid
from keras_spm.data.annotations import collect
from keras_spm.data.annotations import settle
from keras_spm.data.annotations import visible_box
from keras_spm.data.categories import ADE20K_CLASS_NAMES
from keras_spm.data.categories import COCO_CATEGORIES
from keras_spm.data.examples import ClassificationExample
from keras_spm.data.examples import DetectionExample
from keras_spm.data.examples import EncodedImage
from keras_spm.data.examples import SegmentationExample
from keras_spm.data.segmentation_maps import to_segmentation_map
from keras_spm.registry import lookup


class _Examples:
    """A sequence of a split's examples, each as `_read` makes it."""

    def __init__(self, folder, split, features):
        builder = _builder(folder)
        if not features <= set(builder.info.features):
            raise ValueError(
                f"{folder} must hold a data set with the features {sorted(features)}. "
                f"Received: {sorted(builder.info.features)}"
            )
        self._source = _data_source(builder, folder, split)
        self._folder = folder

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            example = self._source[index]
        except Exception as error:  # Of several kinds, which do not say where it stands.
            raise ValueError(
                f"Example {index} of {self._folder} cannot be read: {error}"
            ) from error
        if all(value is None for value in example.values()):  # As a damaged record is read.
            raise ValueError(
                f"Example {index} of {self._folder} cannot be read: its record is empty"
            )
        return self._read(index, example)


class TfdsCoco(_Examples):
    """Objects with boxes from TensorFlow Datasets' `coco/2017` or `coco/2014`.

    A sequence of `DetectionExample`s whose images are arrays. Boxes were stored as
    float32 shares of the sides, so they are off by up to 1e-4 pixels; areas as whole
    pixels, rounded down, so a small object may have 0. Objects are checked when their
    example is asked for: COCO's `train` split has two boxes without area, and must be read
    with `invalid="drop"`.

    Args:
        folder: path of the prepared data set, such as
            `~/tensorflow_datasets/coco/2017/1.1.0`.
        split: name of a split, such as `"train"`.
        invalid: `"raise"`, or `"drop"` to leave out objects whose box has no area or whose
            class is unknown.

    Attributes:
        class_names: list of 80 str; labels are places in it.
        category_ids: list of 80 int, COCO's own id for each label, from 1 to 90.

    Raises:
        FileNotFoundError: where the folder holds no data set.
        ValueError: for an unknown split; for another data set or another file format; when
            an example is asked for, for objects that break rules.
    """

    def __init__(self, folder, split, invalid="raise"):
        check_invalid(invalid)
        self.class_names = list(COCO_CATEGORIES.values())
        self.category_ids = list(COCO_CATEGORIES)
        super().__init__(folder, split, {"image", "image/id", "objects"})
        self._invalid = invalid

    def _read(self, index, example):
        height, width = example["image"].shape[:2]
        image_id = int(example["image/id"])

        def read(annotation):
            (top, left, bottom, right), label, crowd, area = annotation
            box = visible_box(
                (left * width, top * height, right * width, bottom * height), height, width
            )
            if not 0 <= label < len(self.class_names):
                raise BadAnnotation("unknown class")
            return AnnotatedObject(0, box, label, crowd, area)

        stored = example["objects"]
        fields = ("bbox", "label", "is_crowd", "area", "id")
        *columns, ids = (np.asarray(stored[field]).tolist() for field in fields)
        invalid_annotations = {}
        rows = zip(*columns, strict=True)
        objects = collect(zip(ids, rows, strict=True), read, invalid_annotations)
        settle(f"Image {image_id} of {self._folder}", invalid_annotations, self._invalid)
        return DetectionExample(example["image"], image_id, *as_arrays(objects))


class TfdsAde20k(_Examples):
    """Segmentation maps from TensorFlow Datasets' `scene_parse150`.

    A sequence of `SegmentationExample`s whose images are arrays. The class is the first
    channel of the annotation: 0 for what does not count, given as 255, and k for class
    k - 1.

    Note what TensorFlow Datasets (seen in 4.9.10) fills it with: the annotations of the
    benchmark's challenge in *instance* segmentation, whose first channel numbers 100 kinds
    of objects; walls, sky, floors and all else without instances are 0. For the benchmark
    of 150 classes, whose figures papers state, read the benchmark's own folder with
    `Ade20k`.

    Args:
        folder: path of the prepared data set, such as
            `~/tensorflow_datasets/scene_parse150/1.0.0`.
        split: name of a split, `"train"` or `"test"`.

    Raises:
        FileNotFoundError: where the folder holds no data set.
        ValueError: for an unknown split; for another data set or another file format; when
            an example is asked for, for a map of another size than its image, or with a
            value above 150.
    """

    def __init__(self, folder, split):
        super().__init__(folder, split, {"image", "annotation"})

    def _read(self, index, example):
        segmentation_map = to_segmentation_map(
            example["annotation"][..., 0],
            example["image"].shape[:2],
            len(ADE20K_CLASS_NAMES),
            first_class=1,
            source=f"Annotation {index} of {self._folder}",
        )
        return SegmentationExample(example["image"], segmentation_map)


class TfdsClassification(_Examples):
    """Labeled images from any set of TensorFlow Datasets for classification.

    A sequence of `ClassificationExample`s whose images are `EncodedImage`s: what is not read
    is not decoded. The set must have an image and a class, or a sequence of classes, as the
    pair that TensorFlow Datasets calls `supervised_keys`: `imagenet2012`, `cifar10`,
    `oxford_flowers102`, `food101` and many others.

    Args:
        folder: path of the prepared data set, such as
            `~/tensorflow_datasets/imagenet2012/5.1.0`.
        split: name of a split, such as `"train"`.

    Attributes:
        class_names: list of str, as the set has them; labels are places in it.
        multi_label: bool, whether labels are arrays, as an image may have several.

    Raises:
        FileNotFoundError: where the folder holds no data set.
        ValueError: for an unknown split; for a set of another kind or another file format;
            when an example is asked for, for an image without a known class, as the test
            splits of some sets have them.
    """

    def __init__(self, folder, split):
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
                f"{folder} must hold a data set for classification, with an image and a class "
                f"as its supervised keys. Received: supervised keys {keys} of the features "
                f"{sorted(features)}"
            )
        self.class_names = list(label.names)
        self._image_key, self._label_key = keys[:2]
        self._folder = folder
        undecoded = {self._image_key: tfds.decode.SkipDecoding()}
        self._source = _data_source(builder, folder, split, undecoded)

    @staticmethod
    def splits(folder):
        """Returns the set of a prepared data set's splits."""
        return set(_builder(folder).info.splits)

    def _read(self, index, example):
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
        return ClassificationExample(EncodedImage(bytes(example[self._image_key]), source), label)


def _builder(folder):
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(folder)
    except OSError as error:
        raise FileNotFoundError(f"{folder} holds no prepared data set: {error}") from error


def _data_source(builder, folder, split, decoders=None):
    lookup("split", split, builder.info.splits)
    try:
        return builder.as_data_source(split, decoders=decoders)
    except NotImplementedError as error:
        raise ValueError(
            f"{folder} must hold files of array_record, which can be read at random and without "
            f"TensorFlow. Received: {builder.info.file_format.value}. Convert it, where "
            f"TensorFlow is installed, with `tfds convert_format --dataset_version_dir={folder} "
            "--out_file_format=array_record --out_dir=…`, or prepare it anew with "
            '`tensorflow_datasets.builder(…, file_format="array_record")`.'
        ) from error
