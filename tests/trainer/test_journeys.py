"""The command line from a user's images to predictions."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import keras_spm
from keras_spm import trainer
from keras_spm.cli import main
from keras_spm.data import DigitScenes, load_dataset
from keras_spm.heads import RetinaNet, SemanticFPN
from keras_spm.trainer import dense
from tests.helpers import randomize

SMALL = (
    *("preset=pvt_v2_two_stages", "load_weights=false", "image_size=32", "crop_pct=1"),
    *("epochs=1", "warmup_epochs=0", "batch_size=5", "randaugment_magnitude=0"),
    "label_smoothing=0",  # The loss of the training is that of `evaluate`.
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder for each of three digits."""
    folder = tmp_path_factory.mktemp("journey") / "photos"
    images, labels = load_dataset("digits").train
    for digit in range(3):
        (folder / f"digit {digit}").mkdir(parents=True)
        for number, image in enumerate(images[labels == digit][:8]):
            Image.fromarray(image).save(folder / f"digit {digit}/{number}.png")
    return folder


def _sets(*overrides):
    return [part for each in overrides for part in ("--set", each)]


def test_train_evaluate_predict_and_export(photos, tmp_path, capsys):
    training = ["train", "classification_folder", *_sets(*SMALL, f"data_folder={photos}")]

    # The plan is printed, and the first batch is drawn.
    assert main([*training, "--dry-run", "--output", str(tmp_path / "run")]) == 0
    plan = capsys.readouterr().out
    assert "19 train, 5 validation images, no test split; 3 classes" in plan
    assert "1 epochs × 3 = 3, of 5 images" in plan
    assert "a folder per class: 19 + 5 images, 3 classes" in plan
    assert [path.name for path in tmp_path.iterdir()] == ["run-dry-run.png"]

    assert main([*training, "--output", str(tmp_path / "run")]) == 0
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"samples.png", "curves.png", "best.keras"} <= files
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert "There is no test split: the metrics are those of the validation split" in (
        capsys.readouterr().out
    )
    assert not [name for name in result if name.startswith("test_")]

    # By default a run is evaluated on its own test split, or here, the validation split.
    output = tmp_path / "numbers.json"
    assert main(["evaluate", str(tmp_path / "run"), "--output", str(output)]) == 0
    own = json.loads(output.read_text())
    assert own["images"] == 5
    assert own["accuracy"] == pytest.approx(result["validation_accuracy"], abs=1e-6)
    assert own["loss"] == pytest.approx(result["validation_loss"], abs=1e-5)
    assert f"accuracy: {own['accuracy']:.5g}" in capsys.readouterr().out

    # Unreadable images are listed.
    paths = sorted(photos.rglob("*.png"))
    (photos / "torn.png").write_bytes(paths[0].read_bytes()[:60])
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(photos), "--json", "--top", "3"]) == 1
    printed = capsys.readouterr()
    assert "1 of 25 images could not be read:" in printed.err and "torn.png" in printed.err
    for line, path in zip(printed.out.splitlines(), paths, strict=True):
        found = json.loads(line)
        assert found["image"] == str(path)
        names, probabilities = zip(*(each.values() for each in found["classes"]), strict=True)
        assert sorted(names) == ["digit 0", "digit 1", "digit 2"]
        assert sum(probabilities) == pytest.approx(1) and max(probabilities) == probabilities[0]
    (photos / "torn.png").unlink()

    target = tmp_path / "weights.safetensors"
    assert main(["export", str(tmp_path / "run/best.keras"), str(target)]) == 0
    with safe_open(target, "numpy") as file:
        assert file.get_tensor("head.weight").shape == (3, 16)


def _backbone():
    return keras_spm.PVTv2.from_preset("mini", load_weights=False)


@pytest.mark.only("torch")
def test_a_segmenter_from_the_command_line(tmp_path, capsys, monkeypatch):
    names = ["background", *map(str, range(10))]
    model = keras_spm.SemanticSegmenter(
        _backbone(), 11, SemanticFPN(pyramid_channels=8, channels=8), names
    )
    randomize(model).save(tmp_path / "model.keras")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dense, "TEST_SCENES", 16)
    scenes = list(DigitScenes("test", 3, 64))
    for index, scene in enumerate(scenes):
        (tmp_path / f"in/{index}").mkdir(parents=True)
        Image.fromarray(scene["image"][:50]).save(tmp_path / f"in/{index}/scene.png")
    assert main(["predict", "model.keras", "in"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for index, (scene, line) in enumerate(zip(scenes, lines, strict=True)):
        (expected,) = model.segment([scene["image"][:50]])
        target = f"predictions/in/{index}/scene.png.png"
        assert line.endswith(f"→ {target}")
        likeliest = np.bincount(expected.ravel()).argmax()
        assert line.startswith(f"in/{index}/scene.png  {names[likeliest]} ")
        with Image.open(target) as picture:
            np.testing.assert_array_equal(np.array(picture), expected)
    settings = _sets("image_size=64")
    arguments = ["--recipe", "segmentation_digit_scenes", "--output", "numbers.json"]
    assert main(["evaluate", "model.keras", *arguments, *settings]) == 0
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    images, segmentation_maps = zip(
        *((each["image"], each["segmentation_map"]) for each in DigitScenes("test", 16, 64)),
        strict=True,
    )
    again = model.evaluate(
        np.stack(images), np.stack(segmentation_maps), verbose=0, return_dict=True
    )
    assert numbers["images"] == 16
    assert numbers["mean_iou"] == pytest.approx(again["mean_iou"], abs=1e-6)
    assert len([name for name in numbers if name.startswith("iou/")]) == 11


@pytest.mark.only("torch")
def test_a_detector_from_the_command_line(tmp_path, capsys, monkeypatch):
    model = keras_spm.ObjectDetector(
        _backbone(),
        10,
        RetinaNet(pyramid_channels=8, channels=8, num_convs=1),
        list(map(str, range(10))),
    )
    randomize(model).save(tmp_path / "model.keras")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dense, "TEST_SCENES", 16)
    scene = DigitScenes("test", 1, 64)[0]
    Image.fromarray(scene["image"]).save("scene.png")
    arguments = ["--score-threshold", "0.9", "--output", "seen", "--json"]
    assert main(["predict", "model.keras", "scene.png", *arguments]) == 0
    objects = json.loads(capsys.readouterr().out)["objects"]
    (expected,) = model.detect([scene["image"]])
    likely = expected["scores"] >= 0.9
    assert 0 < likely.sum() == len(objects)
    assert [int(each["name"]) for each in objects] == expected["labels"][likely].tolist()
    boxes = [each["box"] for each in objects]
    np.testing.assert_allclose(boxes, expected["boxes"][likely], atol=0.06)
    with Image.open("seen/scene.png.png") as picture:
        assert picture.format == "PNG"
    settings = _sets("min_size=64", "max_size=64")
    arguments = ["--recipe", "detection_digit_scenes", "--output", "numbers.json"]
    assert main(["evaluate", "model.keras", *arguments, *settings]) == 0
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["images"] == 16 and 0 <= numbers["AP"] <= numbers["AP50"] <= 1


@pytest.mark.only("torch")
def test_a_preset_is_evaluated_by_class_names_or_order(photos, tmp_path, capsys):
    """Like ImageNet, whose folders do not have the names of the classes."""
    output = tmp_path / "numbers.json"
    measured = {}
    for key, names in (
        ("none", None),
        ("by name", ["digit 2", "digit 0", "digit 1"]),
        ("by order", ["two", "nought", "one"]),
    ):
        model = keras_spm.ImageClassifier(_backbone(), 3, names)
        randomize(model).save_to_preset(tmp_path / key)
        arguments = [
            "--data",
            str(photos),
            "--output",
            str(output),
            *_sets("image_size=32", "crop_pct=1"),
        ]
        assert main(["evaluate", str(tmp_path / key), *arguments]) == 0
        numbers = json.loads(output.read_text())
        images = np.stack([Image.open(path) for path in sorted(photos.rglob("*.png"))])
        labels = np.repeat([1, 2, 0] if key == "by name" else [0, 1, 2], 8)
        logits = model.predict(images, verbose=0).astype("float64")
        right = logits.argmax(-1) == labels
        assert numbers["accuracy"] == pytest.approx(right.mean(), abs=1e-6)
        losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(24), labels]
        assert numbers["loss"] == pytest.approx(losses.mean(), rel=1e-4)
        measured[key] = numbers["loss"]
        path = photos / "digit 1/3.png"
        capsys.readouterr()
        assert main(["predict", str(tmp_path / key), str(path), "--top", "1"]) == 0
        (name, share), *_ = model.classify(path, top=1)
        assert capsys.readouterr().out == f"{path}  {name} {share:.1%}\n"
    assert measured["none"] == measured["by order"] != measured["by name"]


@pytest.mark.only("torch")
def test_errors_of_the_commands(photos, tmp_path, capsys):
    model = keras_spm.ImageClassifier(_backbone(), 7)
    model.save(tmp_path / "seven.keras")
    _backbone().save(tmp_path / "backbone.keras")
    _backbone().save_to_preset(tmp_path / "backbone")
    (tmp_path / "empty").mkdir()
    seven = str(tmp_path / "seven.keras")
    for arguments, message in (
        (["evaluate", seven], "`data_folder` must be the path"),
        (["evaluate", seven, "--data", str(photos)], "must have the model's 7 classes"),
        (["evaluate", seven, "--recipe", "detection_coco"], "must be a recipe of ImageClassifier"),
        (["evaluate", seven, "--data", str(photos), "--set", "batch=2"], "'batch_size'"),
        (["evaluate", str(tmp_path / "backbone.keras"), "--data", "x"], "Received: PVTv2"),
        (["evaluate", str(tmp_path / "backbone")], "has a backbone without a task"),
        (["evaluate", "pvt_v2_b11"], "Did you mean 'pvt_v2_b1'"),
        (["predict", seven, str(tmp_path / "empty")], "contains no images"),
        (["predict", seven, str(photos), "--top", "0"], "--top 0"),
        (["train", str(tmp_path / "nowhere.py")], "nowhere.py"),
        (["train", "classification_foldr"], "Did you mean 'classification_folder'"),
    ):
        assert main(arguments) == 2, arguments
        assert message in capsys.readouterr().err
    assert main(["predict", seven, str(tmp_path / "gone.jpg")]) == 1
    assert "1 of 1 images could not be read:" in capsys.readouterr().err


@pytest.mark.only("torch")
def test_recipes_of_the_package_and_of_a_file(photos, tmp_path, capsys):
    text = "\n".join(each.replace("=", " = ", 1) for each in ("epochs=2", "seed=3"))
    shipped = (trainer.recipes_folder() / "classification_folder.py").read_text()
    (tmp_path / "classification_mine.py").write_text(f"{shipped}\n{text}\n")
    own = str(tmp_path / "classification_mine.py")
    settings = _sets("preset=pvt_v2_mini", "load_weights=false", f"data_folder={photos}")
    settings += [*_sets("image_size=32"), "--dry-run", "--output", str(tmp_path / "run")]
    assert main(["train", own, *settings]) == 0
    plan = capsys.readouterr().out
    # Adapted to 19 training images and two epochs.
    assert "batch_size=19 instead of 32: all training images" in plan
    assert "warmup_epochs=1 instead of 2: there are only 2 epochs" in plan
    assert "2 epochs × 1 = 2, of 19 images" in plan
    assert main(["train", own, *settings, *_sets("batch_size=4", "warmup_epochs=0")]) == 0
    plan = capsys.readouterr().out
    assert "2 epochs × 4 = 8, of 4 images" in plan and "instead of" not in plan
