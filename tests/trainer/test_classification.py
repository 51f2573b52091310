"""Recipes of image classification on files."""

import csv
import json
import runpy
import types
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from keras_spm import trainer
from keras_spm.cli import main
from keras_spm.data import ImageFolder, load_dataset
from keras_spm.presets import list_presets
from keras_spm.trainer.classification_data import ArrayExamples, FilePipeline, class_counts
from tests.data import tfds_files
from tests.helpers import difference

SMALL = (
    *("preset=pvt_v2_two_stages", "load_weights=false", "image_size=32", "crop_pct=1"),
    *("epochs=2", "warmup_epochs=0", "batch_size=5"),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Digits as files: folders `train` and `val` of three classes of unequal size."""
    folder = tmp_path_factory.mktemp("photos")
    splits = load_dataset("digits")
    for split, examples, counts in (
        ("train", splits.train, (12, 6, 5)),
        ("val", splits.test, (4, 4, 4)),
    ):
        for digit, count in enumerate(counts):
            (folder / split / f"digit {digit}").mkdir(parents=True)
            chosen = examples.images[examples.labels == digit][:count]
            for number, image in enumerate(chosen):
                path = folder / split / f"digit {digit}" / f"{number:02}.png"
                Image.fromarray(image).save(path)
    return folder


def _overridden(recipe, *overrides):
    return trainer.load_recipe(recipe, [*SMALL, *overrides])


def _run(recipe, output, *overrides):
    """Runs a recipe with small settings. Returns (result, model)."""
    settings = [part for each in (*SMALL, *overrides) for part in ("--set", each)]
    assert main(["train", recipe, "--output", str(output), *settings]) == 0
    result = json.loads((output / "result.json").read_text())
    return result, keras.saving.load_model(output / "best.keras")


# On TensorFlow it takes minutes; tests/test_optimizers.py checks each of them there, too.
@pytest.mark.only("torch", "jax")
def test_all_optimizer_settings_at_once(photos, tmp_path):
    """Layer decay, accumulation, clipping and averages."""
    result, model = _run(
        "classification_folder",
        tmp_path / "run",
        f"data_folder={photos}",
        *(
            "ema_decay=0.9",
            "gradient_accumulation_steps=2",
            "class_weights=balanced",
            "mixup=0.8",
            "cutmix=1",
        ),
    )
    assert model.class_names == ["digit 0", "digit 1", "digit 2"]
    assert (tmp_path / "run/confusion_matrix.png").exists()
    # The averages were validated and saved.
    examples = ImageFolder(photos / "val")
    images = model.preprocessing([example["image"] for example in examples])
    labels = np.eye(3)[[example["label"] for example in examples]]
    again = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert again["accuracy"] == pytest.approx(result["validation_accuracy"], abs=1e-6)
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").read_text().splitlines()))
    best = rows[result["best_epoch"] - 1]
    assert again["loss"] == pytest.approx(float(best["val_loss"]), abs=1e-5)
    assert "test_accuracy" not in result
    (named,) = model.classify([examples[0]["image"]], top=1)
    assert named[0][0] in model.class_names


@pytest.mark.only("torch")
def test_a_linear_probe_trains_only_the_head(photos, tmp_path):
    settings = ("preset=pvt_v2_mini", "image_size=64", "crop_pct=1", "epochs=1")
    overrides = (*settings, f"data_folder={photos}")
    recipe = _overridden("classification_linear_probe", *overrides)
    start = recipe.setup().model
    _, model = _run("classification_linear_probe", tmp_path / "run", *overrides)
    assert [each.path for each in model.trainable_variables] == ["head/kernel", "head/bias"]
    for before, after in zip(start.weights, model.weights, strict=True):
        changed = difference(before, after) > 0
        assert changed == before.path.startswith("head/"), before.path
    # The model can be loaded without the trainer.
    with zipfile.ZipFile(tmp_path / "run/best.keras") as file:
        assert b"trainer" not in file.read("config.json")


@pytest.mark.only("torch")
def test_lora_trains_low_rank_matrices_and_the_head(photos):
    model = _overridden("classification_lora", f"data_folder={photos}", "lora_rank=2").setup().model
    trained = [each.path for each in model.trainable_variables if "/lora_kernel_" not in each.path]
    assert trained == ["head/kernel", "head/bias"]
    # Two matrices of four layers of each block.
    assert len(model.trainable_variables) == 2 * 4 * 2 + 2
    shapes = {tuple(each.shape) for each in model.trainable_variables if "_b" in each.path}
    assert {shape[0] for shape in shapes if len(shape) == 2} == {2}


@pytest.mark.only("torch")
def test_the_same_seed_gives_the_same_curve(photos, tmp_path):
    curves = []
    for name in ("first", "again"):
        overrides = (f"data_folder={photos}", "mixup=0.8", "repeated_augmentation=3")
        _run("classification_folder", tmp_path / name, *overrides)
        curves.append((tmp_path / name / "metrics.csv").read_text())
    assert curves[0] == curves[1]


@pytest.mark.only("torch")
def test_multi_label_data(photos, tmp_path):
    rows = ["path,labels,split"]
    for split in ("train", "val"):
        for path in sorted((photos / split).rglob("*.png")):
            digit = int(path.parent.name[-1])
            labels = "|".join(["round"] * (digit == 0) + ["straight"] * (digit > 0))
            rows.append(f"{path.relative_to(photos)},{labels or ''},{split}")
    table = photos / "table.csv"
    table.write_text("\n".join(rows))
    result, model = _run(
        "classification_folder",
        tmp_path / "run",
        *("dataset=csv", f"data_folder={table}", "dtype_policy=mixed_bfloat16"),
    )
    assert model.backbone.dtype_policy.name == "mixed_bfloat16"
    assert model.multi_label and model.class_names == ["round", "straight"]
    assert {"validation_accuracy", "validation_average_precision"} <= set(result)
    (named,) = model.classify([photos / "val/digit 0/00.png"])
    assert len(named) == 2 and all(0 < probability < 1 for _, probability in named)
    table.write_text("\n".join(rows).replace("round,val", "round|rare,val"))
    with pytest.raises(ValueError, match=r"images of every class. Received: none of \['rare'\]"):
        _overridden("classification_folder", "dataset=csv", f"data_folder={table}").splits()
    table.write_text("\n".join(rows))
    with pytest.raises(ValueError, match="class_weights='balanced'"):
        overrides = ("dataset=csv", f"data_folder={table}", "class_weights=balanced")
        _overridden("classification_folder", *overrides).setup()


@pytest.mark.only("torch")
def test_the_held_out_share_is_stratified(photos):
    recipe = _overridden("classification_folder", f"data_folder={photos / 'train'}")
    data = recipe.splits()
    assert class_counts(data).tolist() == [9, 5, 4] and len(data.validation) == 5
    train, validation = (
        {example["image"] for example in split} for split in (data.train, data.validation)
    )
    assert len(train | validation) == 23
    again = recipe.splits()
    assert [each["image"] for each in again.validation] == [
        each["image"] for each in data.validation
    ]
    for override, message in (
        ("validation_share=0", "Add one, `val`, or hold out a share"),
        ("validation_share=0.05", "cannot be divided by `validation_share`"),
    ):
        with pytest.raises(ValueError, match=message):
            overrides = (f"data_folder={photos / 'train'}", override)
            _overridden("classification_folder", *overrides).splits()


@pytest.mark.only("torch")
def test_the_test_split_does_not_select_the_epoch(photos, tmp_path):
    """Folders `train` and `test`: a share of `train` is held out, or there is no test split."""
    (tmp_path / "train").symlink_to(photos / "train")
    (tmp_path / "test").symlink_to(photos / "val")

    def sizes(*overrides):
        recipe = _overridden("classification_folder", f"data_folder={tmp_path}", *overrides)
        return recipe.splits().sizes()

    assert sizes() == {"train": 18, "validation": 5, "test": 12}
    assert sizes("validation_share=0") == {"train": 23, "validation": 12}


@pytest.mark.only("torch")
def test_balanced_weights_need_images_of_every_class():
    recipe = _overridden("classification_folder", "class_weights=balanced")
    labels = np.array([0, 2, 2])
    data = trainer.DataSplits(ArrayExamples(labels, labels), [], None, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"images of every class. Received: none of \['b'\]"):
        FilePipeline(recipe, data, types.SimpleNamespace(multi_label=False))


@pytest.mark.only("torch")
def test_invalid_data_are_reported_before_the_training(photos, tmp_path, capsys):
    for name in ("heron", "stork"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "a.jpg").write_bytes(b"")
    arguments = ["train", "classification_folder", "--output", str(tmp_path / "run")]
    arguments += ["--set", "invalid=raise", "--set", f"data_folder={tmp_path / 'photos'}"]
    assert main(arguments) == 2
    assert "2 × empty file (heron/a.jpg, stork/a.jpg)" in capsys.readouterr().err
    for folder, message in (
        (tmp_path / "nowhere", "There is no file or folder"),
        ("", "must be the path"),
    ):
        assert main([*arguments[:-1], f"data_folder={folder}"]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.only("torch")
def test_imagenet_classes(tmp_path):
    folder = tfds_files.imagenet(
        tfds_files.jpegs(["n01440764", "n02012849", "n15075141"]),
        tmp_path,
        splits=("train", "validation"),
    )
    recipe = trainer.load_recipe(
        "classification_imagenet", [f"data_folder={folder}", "preset=pvt_v2_b3"]
    )
    data = recipe.splits()
    assert len(data.train) == len(data.validation) == 3 and len(data.class_names) == 1000
    labels = sorted(example["label"] for example in data.train)
    assert [data.class_names[label] for label in labels][0] == "tench, Tinca tinca"
    assert set(data.train[0]) == {"image", "label"}
    by_format = trainer.load_recipe(
        "classification_imagenet", [f"data_folder={folder}", "dataset=tfds"]
    )
    assert by_format.splits().class_names[0] == "n01440764"


@pytest.mark.only("torch")
def test_variants_of_the_imagenet_recipe():
    def recipe(*overrides):
        return trainer.load_recipe("classification_imagenet", overrides)

    assert (recipe().drop_path_rate, recipe().global_clipnorm, recipe().repeated_augmentation) == (
        0.1,
        0.0,
        3,
    )
    for preset in ("pvt_v2_b5", "pvt_spm_medium"):
        deep = recipe(f"preset={preset}")
        assert (deep.drop_path_rate, deep.global_clipnorm, deep.warmup_epochs) == (0.3, 1.0, 5)
    swin = recipe("preset=swin_spm_base", "drop_path_rate=0.4")
    assert (swin.drop_path_rate, swin.global_clipnorm, swin.warmup_epochs) == (0.4, 5.0, 20)
    assert (swin.schedule, swin.repeated_augmentation) == ("cosine_by_step", 1)
    known = set(list_presets())
    variants = runpy.run_path(trainer.recipes_folder() / "classification_imagenet.py")["variants"]
    assert len(variants) == 16 and variants.keys() <= known


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule=cosin", "Did you mean 'cosine'"),
        ("class_weights=balance", "Did you mean 'balanced'"),
        (
            "randaugment_magnitude=11",
            "at least 0 and at most 10. Received: randaugment_magnitude=11",
        ),
        ("gradient_accumulation_steps=0", "Received: gradient_accumulation_steps=0"),
        ("dataset=folders", "Did you mean 'folder'"),
        ("rotation=5", "is not used by .* Received: rotation=5.0"),
    ],
)
def test_errors_of_classification_recipes(override, message):
    with pytest.raises(ValueError, match=message):
        _overridden("classification_folder", override).setup()
