"""Recipe files and the allowed values of their keys."""

import dataclasses
import json
import math

import keras
import pytest

from keras_spm import trainer
from keras_spm.heads import RetinaNet
from keras_spm.registry import RECIPES
from keras_spm.trainer.recipe import Range
from keras_spm.trainer.recipe_files import load_saved_recipe

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.

FOLDER, COCO, ADE20K = "classification_folder", "detection_coco", "segmentation_ade20k"
# Names that are looked up when the data and the model are built, and paths.
OPEN = {"preset", "dataset", "data_folder", "class_names", "label_map", "distill_from"}


@pytest.mark.parametrize("kind", ["classification", "detection", "instances", "segmentation"])
def test_every_key_has_a_range_or_choices(kind):
    recipe = RECIPES[kind]
    for field in dataclasses.fields(recipe):
        limited = {int: recipe.ranges, float: recipe.ranges, str: recipe.choices}.get(field.type)
        assert field.type is bool or field.name in OPEN or field.name in limited, field.name
    keys = {field.name for field in dataclasses.fields(recipe)}
    assert keys >= recipe.ranges.keys() | recipe.choices.keys()


@pytest.mark.parametrize(
    ("recipe", "key", "values"),
    [
        (FOLDER, "learning_rate", "Infinity NaN -1 1e400"),
        (FOLDER, "weight_decay", "Infinity -0.1"),
        (FOLDER, "drop_path_rate", "1 -0.1 NaN"),
        (FOLDER, "checkpoint_steps", "-5"),
        (FOLDER, "epochs", f"0 {10**12} {10**400}"),
        (FOLDER, "mixup", f"Infinity {10**400}"),
        (FOLDER, "crop_pct", "NaN -1 0 1.01"),
        (FOLDER, "crop_scale", "0 2"),
        (FOLDER, "rotation", "NaN 181"),
        (FOLDER, "zoom", "-5 1"),
        (FOLDER, "label_smoothing", "1"),
        (FOLDER, "validation_share", "1 -0.5"),
        (FOLDER, "ema_decay", "1"),
        (FOLDER, "epsilon", "NaN -1 0"),
        (FOLDER, "layer_decay", "NaN 0 1.5"),
        (FOLDER, "warmup_learning_rate", "-1"),
        (FOLDER, "min_learning_rate", "NaN"),
        (FOLDER, "frozen_stages", "-1 5"),
        (COCO, "pyramid_channels", "-1 0"),
        (COCO, "anchor_scale", "NaN 0"),
        (COCO, "num_convs", "-1"),
        (COCO, "min_size", "0 2000"),
        (COCO, "max_size", "-1 10"),
        (COCO, "max_objects", "-1"),
        (COCO, "max_detections", "0"),
        (COCO, "frozen_stages", "9"),
        (ADE20K, "min_scale", "0 3"),
        (ADE20K, "test_min_size", "4096"),
        (ADE20K, "warmup_steps", "-1"),
    ],
)
def test_numbers_out_of_range(recipe, key, values):
    for value in values.split():
        with pytest.raises(ValueError, match=f"{key}.* Received: ") as caught:
            trainer.load_recipe(recipe, [f"{key}={value}"])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "override"),
    [
        (FOLDER, "dtype_policy=float33"),
        (FOLDER, "invalid=maybe"),
        (FOLDER, "schedule=polynomial"),
        (COCO, "invalid=maybe"),
        (COCO, "box_loss=x"),
        (COCO, "merging=x"),
        (ADE20K, "schedule=cosine_by_step"),
        (ADE20K, "decoder=unet"),
    ],
)
def test_unknown_choices(recipe, override):
    key, _, value = override.partition("=")
    with pytest.raises(ValueError, match=f"Unknown `{key}` '{value}'.* Available: "):
        trainer.load_recipe(recipe, [override])


def test_choices_of_heads():
    for value in RECIPES["detection"].choices["box_loss"]:
        assert RetinaNet(box_loss=value).box_loss == value


def test_variants_of_the_ade20k_recipe():
    def recipe(*overrides):
        return trainer.load_recipe(ADE20K, overrides)

    assert (recipe().decoder, recipe().learning_rate, recipe().steps) == (
        "semantic_fpn",
        2e-4,
        40000,
    )
    upernet = recipe("decoder=upernet")
    assert (upernet.preset, upernet.pyramid_norms) == ("swin_spm_tiny", True)
    assert (upernet.steps, upernet.warmup_steps, upernet.weight_decay) == (160000, 1500, 0.01)
    assert recipe("decoder=upernet", "preset=base").preset == "swin_spm_base"
    rate = upernet.learning_rate_schedule()
    for step, expected in ((749, 3e-5), (80000, 3e-5), (120000, 1.5e-5), (160000, 0)):
        assert float(rate(step)) == pytest.approx(expected, rel=0.01)
    segformer = recipe("decoder=segformer", "preset=mit_b3")
    assert (segformer.head_channels, segformer.pyramid_norms) == (768, False)
    assert recipe("decoder=segformer").head_channels == 256
    plain = recipe("decoder=upernet", "preset=pvt_v2_b1", "learning_rate=1e-4")
    assert (plain.pyramid_norms, plain.learning_rate, plain.head_channels) == (False, 1e-4, 512)


@pytest.mark.parametrize("name", ["semantic_fpn", "upernet", "segformer"])
def test_every_decoder_has_a_loss(name):
    overrides = [f"decoder={name}", "steps_per_epoch=2", "epochs=1", "batch_size=2"]
    sizes = ["image_size=64", "pyramid_channels=8", "head_channels=8"]
    setup = trainer.load_recipe("segmentation_digit_scenes", [*overrides, *sizes]).setup()
    images, labels = setup.first_batch()
    loss = setup.model.compute_loss(images, labels, setup.model(images, training=True))
    assert math.isfinite(keras.ops.convert_to_numpy(loss))


def test_limits_of_a_range():
    numbers = (-1, 0, 0.5, 1, 2, math.nan, math.inf, 10**400)
    for allowed, expected in (
        (Range(), numbers[:5]),
        (Range(0, 1), (0, 0.5, 1)),
        (Range(0, 1, allow_minimum=False), (0.5, 1)),
        (Range(0, 1, allow_maximum=False), (0, 0.5)),
        (Range(1), (1, 2)),
    ):
        found = []
        for number in numbers:
            try:
                allowed.check("key", number)
            except ValueError as error:
                assert f"must be a finite number{', ' * (allowed != Range())}" in str(error)
            else:
                found.append(number)
        assert tuple(found) == expected, allowed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: int = (", "SyntaxError"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("epochs = 1 / 0", "ZeroDivisionError"),
        ("epochs = " + "[" * 10000, "cannot be run"),
        ("\0", "cannot be run"),
        ("variants = 3", "`variants` must be a dict of dicts"),
        ("preset = ['a']\nvariants = {'a': {}}", "'preset' must be str"),
        ("epoch = 3", "Did you mean 'epochs'"),
        ("epochs = 3.5", "'epochs' must be int. Received: 3.5"),
        (f"learning_rate = {10**400}", "'learning_rate' must be float"),
    ],
)
def test_a_broken_recipe_file(tmp_path, text, message):
    path = tmp_path / "classification_broken.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        trainer.load_recipe(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "is not a JSON file"),
        ("{", "is not a JSON file"),
        ("\udcff", "is not a JSON file"),
        ("[1]", "must have a JSON object. Received: list"),
        ("{}", "`kind` must be one of classification"),
        ('{"kind": ["a"]}', r"Received: \['a'\]"),
        ('{"kind": "classification", "epoch": 1}', "Did you mean 'epochs'"),
        ('{"kind": "classification", "epochs": [[1]]}', "'epochs' must be int"),
        ('{"kind": "classification", "epochs": 1}', "lacks preset, "),
    ],
)
def test_a_broken_saved_recipe(tmp_path, text, message):
    path = tmp_path / "recipe.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message) as caught:
        load_saved_recipe(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_saved_recipe_is_the_same(tmp_path):
    recipe = trainer.load_recipe(COCO, ["max_objects=7"])
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.as_dict()))
    assert load_saved_recipe(tmp_path / "recipe.json") == recipe
    changed = load_saved_recipe(tmp_path / "recipe.json", ["seed=3"], "there")
    assert changed == dataclasses.replace(recipe, seed=3, data_folder="there")
