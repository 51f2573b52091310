"""Small data sets written by TensorFlow Datasets' own builders, read back."""

import io
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from keras_spm.data import CocoDetection, TfdsAde20k, TfdsClassification, TfdsCoco
from keras_spm.data.coco import COCO_CATEGORIES
from keras_spm.data.images import read_image
from tests.data import coco_files
from tests.data.tfds_files import imagenet, jpegs, prepared

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.


def _coco(source, folder, file_format="array_record"):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.object_detection import coco

    def splits(builder):
        (split,) = [each for each in builder.builder_config.splits if each.name == "validation"]
        arguments = {
            "image_dir": source,
            "annotation_dir": source,
            "split_name": split.images,
            "annotation_type": split.annotation_type,
            "panoptic_dir": None,
        }
        return [tfds.core.SplitGenerator(name="validation", gen_kwargs=arguments)]

    return prepared(coco.Coco, splits, folder, config="2017", file_format=file_format)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """COCO's own folders: (JSON, images, builder of TensorFlow Datasets)."""
    source = tmp_path_factory.mktemp("source")
    contents = coco_files.contents()
    contents["categories"] = [{"id": key, "name": name} for key, name in COCO_CATEGORIES.items()]
    contents["annotations"][2]["category_id"] = 90
    contents["annotations"].append(coco_files.annotation(7, 9, (3, 4, 1, 1), area=0.4))
    for image in contents["images"]:
        image["file_name"] = image["file_name"].replace("png", "jpg")
    annotations, images = coco_files.write(source / "val2017", contents)
    for image_id in coco_files.SIZES:
        with Image.open(images / f"{image_id:06}.png") as image:
            # One grayscale image, as in COCO.
            image.convert("L" if image_id == 9 else "RGB").save(images / f"{image_id:06}.jpg")
    (source / "annotations").mkdir()
    annotations = annotations.rename(source / "annotations/instances_val2017.json")
    return annotations, images, _coco(source, tmp_path_factory.mktemp("tfds"))


def test_coco_equals_its_json_file(files):
    annotations, images, builder = files
    ours, theirs = TfdsCoco(builder.data_dir, "validation"), CocoDetection(annotations, images)
    assert ours.class_names == theirs.class_names and ours.category_ids == theirs.category_ids
    assert len(ours) == len(theirs) == 3
    by_id = {example["image_id"]: example for example in ours}
    for expected in theirs:
        example = by_id[expected["image_id"]]
        # TensorFlow Datasets sorts by annotation id.
        order = [1, 0] if expected["image_id"] == 5 else slice(None)
        np.testing.assert_allclose(example["boxes"], expected["boxes"][order], rtol=0, atol=1e-5)
        assert (
            example["boxes"].dtype == "float64"
            and example["boxes"].shape == expected["boxes"].shape
        )
        np.testing.assert_array_equal(example["labels"], expected["labels"][order])
        np.testing.assert_array_equal(example["crowd"], expected["crowd"][order])
        np.testing.assert_array_equal(example["areas"], np.floor(expected["areas"][order]))
        for name in ("boxes", "labels", "crowd", "areas"):
            assert example[name].dtype == expected[name].dtype
        with Image.open(expected["image"]) as image:
            np.testing.assert_array_equal(example["image"], np.asarray(image.convert("RGB")))


def test_coco_equals_the_reader_of_tensorflow_datasets(files, tmp_path):
    """Its own reader reads tfrecord files, which this package does not."""
    annotations, _, builder = files
    records = _coco(annotations.parents[1], tmp_path, "tfrecord")
    examples = TfdsCoco(builder.data_dir, "validation")
    assert records.info.features["objects"]["label"].names == examples.class_names
    ours = {example["image_id"]: example for example in examples}
    for theirs in records.as_dataset(split="validation").as_numpy_iterator():
        example, objects = ours[theirs["image/id"]], theirs["objects"]
        assert example["image"].shape == theirs["image"].shape
        height, width = example["image"].shape[:2]
        boxes = objects["bbox"].astype("float64") * [height, width, height, width]
        np.testing.assert_array_equal(example["boxes"], boxes.reshape(-1, 4)[:, [1, 0, 3, 2]])
        np.testing.assert_array_equal(example["labels"], objects["label"])
        np.testing.assert_array_equal(example["crowd"], objects["is_crowd"])
        np.testing.assert_array_equal(example["areas"], objects["area"])


def test_random_access_and_pickling(files):
    examples = TfdsCoco(files[2].data_dir, "validation")
    copied = pickle.loads(pickle.dumps(examples))
    for name, values in examples[2].items():
        np.testing.assert_array_equal(copied[2][name], values)
    with pytest.raises(IndexError):
        examples[3]


def test_tensorflow_is_not_imported(files):
    code = (
        "import sys; from keras_spm.data import TfdsCoco; "
        f"TfdsCoco({str(files[2].data_dir)!r}, 'validation')[0]; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ)).returncode == 0


def test_invalid_objects(files, tmp_path):
    annotations, _, _ = files
    source = tmp_path / "source"
    (source / "annotations").mkdir(parents=True)
    (source / "val2017").symlink_to(annotations.parents[1] / "val2017")
    text = annotations.read_text().replace("[3, 4, 1, 1]", "[3, 4, 1, 0]")
    (source / "annotations/instances_val2017.json").write_text(text)
    folder = _coco(source, tmp_path / "tfds").data_dir
    dropping = TfdsCoco(folder, "validation", invalid="drop")
    (index,) = [index for index, example in enumerate(dropping) if example["image_id"] == 9]
    assert dropping[index]["boxes"].shape == (0, 4)
    with pytest.raises(ValueError, match=r"Image 9 of .*1 × box without area \(7\)"):
        TfdsCoco(folder, "validation")[index]
    with pytest.raises(ValueError, match="`invalid` must be"):
        TfdsCoco(folder, "validation", invalid="ignore")


def test_other_data_sets_and_formats_are_errors(files, tmp_path):
    *_, builder = files
    with pytest.raises(ValueError, match="Did you mean 'validation'"):
        TfdsCoco(builder.data_dir, "valid")
    with pytest.raises(ValueError, match=r"features \['annotation', 'image'\]. Received: \['im"):
        TfdsAde20k(builder.data_dir, "validation")
    with pytest.raises(FileNotFoundError, match="has no prepared data set"):
        TfdsCoco(tmp_path, "validation")
    records = _coco(files[0].parents[1], tmp_path / "tfds", "tfrecord")
    with pytest.raises(ValueError, match="must have files of array_record.* Received: tfrecord"):
        TfdsCoco(records.data_dir, "validation")


def _scene_parse(source, folder):
    import tensorflow_datasets as tfds

    arguments = {
        "images_dir_path": str(source / "images"),
        "annotations_dir_path": str(source / "annotations"),
    }

    def splits(builder):
        return [tfds.core.SplitGenerator(name="train", gen_kwargs=arguments)]

    builder_class = tfds.builder_cls("scene_parse150")
    return prepared(builder_class, splits, folder, file_format="array_record").data_dir


def test_scene_parse(tmp_path):
    generator = np.random.default_rng(0)
    stored = {}
    for kind in ("images", "annotations"):
        (tmp_path / kind).mkdir()
    for index in range(2):
        stored[index] = generator.integers(0, 151, (24, 36 + index, 3), dtype="uint8")
        Image.fromarray(stored[index]).save(tmp_path / f"annotations/{index}.png")
        Image.new("RGB", (36 + index, 24)).save(tmp_path / f"images/{index}.jpg")
    examples = TfdsAde20k(_scene_parse(tmp_path, tmp_path / "tfds"), "train")
    assert len(examples) == 2
    for example in examples:
        first = stored[example["image"].shape[1] - 36][..., 0].astype(int)
        assert example["image"].dtype == example["segmentation_map"].dtype == "uint8"
        np.testing.assert_array_equal(
            example["segmentation_map"], np.where(first > 0, first - 1, 255)
        )
    with pytest.raises(IndexError):
        examples[2]


def test_maps_with_another_size_or_value_are_errors(tmp_path):
    for kind in ("images", "annotations"):
        (tmp_path / kind).mkdir()
    for index, (size, value) in enumerate([((5, 4), 1), ((4, 4), 151)]):
        Image.new("RGB", (4, 4)).save(tmp_path / f"images/{index}.jpg")
        Image.new("RGB", size, (value, 0, 0)).save(tmp_path / f"annotations/{index}.png")
    examples = TfdsAde20k(_scene_parse(tmp_path, tmp_path / "tfds"), "train")
    messages = []
    for index in range(2):
        with pytest.raises(ValueError) as raised:
            examples[index]
        messages.append(str(raised.value))
    assert any("must have the size of its image" in message for message in messages)
    assert any("values from 1 to 150, or 0" in message for message in messages)


def test_imagenet(tmp_path):
    synsets = ["n01440764", "n15075141", "n02012849"]
    images = jpegs(synsets)
    examples = TfdsClassification(imagenet(images, tmp_path), "validation")
    assert len(examples) == 3 and not examples.multi_label
    assert len(examples.class_names) == 1000
    # Labels are indices of sorted synsets, as in PyTorch's and timm's heads.
    assert sorted(example["label"] for example in examples) == [0, 134, 999]
    by_label = dict(zip([0, 999, 134], images.values(), strict=True))
    for example in pickle.loads(pickle.dumps(examples)):
        content, synset = by_label[example["label"]]
        assert examples.class_names[example["label"]] == synset
        with Image.open(io.BytesIO(content)) as image:
            np.testing.assert_array_equal(np.asarray(read_image(example["image"])), image)
    with pytest.raises(ValueError, match="Did you mean 'validation'"):
        TfdsClassification(examples._folder, "valid")


def test_truncated_images_are_named(tmp_path):
    images = jpegs(["n01440764"])
    images = {name: (content[:300], synset) for name, (content, synset) in images.items()}
    folder = imagenet(images, tmp_path)
    (example,) = TfdsClassification(folder, "validation")
    with pytest.raises(ValueError, match=f"Image 0 of {folder} cannot be read as an image"):
        read_image(example["image"])


def test_tfrecord_error_shows_how_to_convert(tmp_path):
    folder = imagenet(jpegs(["n01440764"]), tmp_path, "tfrecord")
    command = f"tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record"
    with pytest.raises(ValueError, match=command):
        TfdsClassification(folder, "validation")


def test_multi_label_data(tmp_path):
    import tensorflow_datasets as tfds

    class Sky(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = tfds.features.Sequence(tfds.features.ClassLabel(names=["sun", "cloud"]))
            features = {"photo": tfds.features.Image(shape=(None, None, 3)), "seen": label}
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("photo", "seen"),
            )

        def _split_generators(self, manager):
            return []

        def _generate_examples(self):
            photo = np.zeros((9, 9, 3), "uint8")
            yield 0, {"photo": photo, "seen": ["cloud"]}
            yield 1, {"photo": photo + 1, "seen": ["cloud", "sun"]}
            yield 2, {"photo": photo + 2, "seen": []}

    builder = prepared(
        Sky,
        lambda builder: {"train": builder._generate_examples()},
        tmp_path,
        file_format="array_record",
    )
    examples = TfdsClassification(builder.data_dir, "train")
    assert examples.multi_label and examples.class_names == ["sun", "cloud"]
    found = {
        np.asarray(read_image(each["image"])).max(): each["label"].tolist() for each in examples
    }
    assert found == {0: [0, 1], 1: [1, 1], 2: [0, 0]}


def test_detection_data_are_not_classification_data(files):
    with pytest.raises(ValueError, match="a classification data set.* Received: supervised"):
        TfdsClassification(files[2].data_dir, "validation")


def test_truncated_records_are_named(tmp_path):
    folder = imagenet(jpegs(["n01440764", "n02012849"]), tmp_path)
    examples = TfdsClassification(folder, "validation")
    (path,) = (each for each in pathlib.Path(folder).iterdir() if "array_record-" in each.name)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match="Example 1 of .*5.1.0 is unreadable"):
        examples[1]
