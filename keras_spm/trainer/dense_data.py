"""Data sets of dense tasks by the names that recipes call them."""

from keras_spm.data import DigitScenes
from keras_spm.data.digit_scenes import CLASS_NAMES
from keras_spm.data.readers import readers_of
from keras_spm.registry import lookup
from keras_spm.trainer.data_splits import SPLITS
from keras_spm.trainer.data_splits import DataSplits

_VALIDATION_SCENES, _TEST_SCENES = 64, 256


def segmentation_data(recipe):
    """Returns the `DataSplits` of a `SegmentationRecipe`."""
    return _data(recipe, _scenes(recipe, recipe.image_size, CLASS_NAMES), "segmentation")


def detection_data(recipe):
    """Returns the `DataSplits` of a `DetectionRecipe`."""
    return _data(recipe, _scenes(recipe, recipe.min_size, CLASS_NAMES[1:]), "detection")


def segmentation_test(recipe):
    """Returns (examples, class names) of the split alone that a `SegmentationRecipe` tests on."""
    return _test(recipe, _scenes(recipe, recipe.image_size, CLASS_NAMES), "segmentation")


def detection_test(recipe):
    """Returns (examples, class names) of the split alone that a `DetectionRecipe` tests on."""
    return _test(recipe, _scenes(recipe, recipe.min_size, CLASS_NAMES[1:]), "detection")


def _data(recipe, scenes, task):
    if recipe.dataset == "digit_scenes":
        train, validation, test = map(scenes, SPLITS)
        return DataSplits(train, validation, test, train.class_names)
    reader, splits = _reader(recipe, task)
    train = reader(recipe.data_folder, splits["train"])
    others = [splits[name] for name in ("validation", "test") if name in splits]
    others = [reader(recipe.data_folder, split, train.class_names) for split in others]
    return DataSplits(train, others[0], others[-1], train.class_names)


def _test(recipe, scenes, task):
    if recipe.dataset == "digit_scenes":
        examples = scenes("test")
    else:
        reader, splits = _reader(recipe, task)
        examples = reader(recipe.data_folder, splits.get("test", splits["validation"]))
    return examples, examples.class_names


def _reader(recipe, task):
    known = {"digit_scenes": None, **readers_of(task)}
    reader = lookup("data set", recipe.dataset, known)
    return reader, reader.splits(recipe.data_folder)


def _scenes(recipe, side, class_names):
    """A function of a split that gives its scenes."""

    def read(split):
        # To train on as many as there are steps for: no scene comes twice.
        steps = recipe.steps * recipe.batch_size
        counts = dict(zip(SPLITS, (steps, _VALIDATION_SCENES, _TEST_SCENES), strict=True))
        examples = DigitScenes(split, counts[split], side, masks=False)
        examples.class_names = class_names
        return examples

    return read
