"""Measures any model of this package on any of the data sets."""

import json
import pathlib

import keras
import numpy as np

from keras_spm.callbacks import CocoEvaluation
from keras_spm.callbacks import SegmentationEvaluation
from keras_spm.tasks import ImageClassifier
from keras_spm.tasks import ObjectDetector
from keras_spm.tasks import SemanticSegmenter
from keras_spm.tasks.image_task import ImageTask
from keras_spm.trainer.classification_metrics import multi_label_metrics
from keras_spm.trainer.classification_metrics import single_label_metrics
from keras_spm.trainer.classification_sources import tested_outputs
from keras_spm.trainer.command import add_overrides
from keras_spm.trainer.dense_data import detection_test
from keras_spm.trainer.dense_data import segmentation_test
from keras_spm.trainer.recipe import ClassificationRecipe
from keras_spm.trainer.recipe import DetectionRecipe
from keras_spm.trainer.recipe import SegmentationRecipe
from keras_spm.trainer.recipe import load_recipe
from keras_spm.trainer.recipe import saved_recipe

# {task: (kind of recipe, name of one whose data are meant where none is named)}
_RECIPES = {
    ImageClassifier: (ClassificationRecipe, "classification_folder"),
    ObjectDetector: (DetectionRecipe, "detection_coco"),
    SemanticSegmenter: (SegmentationRecipe, "segmentation_ade20k"),
}


def add_evaluation_arguments(parser):
    """Adds what an evaluation can be told to an `argparse.ArgumentParser`."""
    parser.add_argument(
        "model", help="a run's folder, a .keras file, or a preset: its name, folder or address"
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="data set to measure on, instead of the recipe's own: its test split, or all",
    )
    parser.add_argument(
        "--recipe", help="whose data set to measure on; by default the run's, or the task's"
    )
    add_overrides(parser)
    parser.add_argument("--output", metavar="FILE", help="JSON file to write the numbers to")


def run_evaluation(options, recipes):
    """Does what parsed arguments say, and prints the metrics.

    Args:
        options: of `add_evaluation_arguments`.
        recipes: folder of the recipes that have a name.

    Raises:
        ValueError, OSError: for what cannot be measured.
    """
    model = load_task(options.model)
    recipe = _recipe(options, model, recipes)
    metrics = evaluate(model, recipe)
    print("\n".join(f"{name}: {value:.5g}" for name, value in metrics.items() if "/" not in name))
    if options.output:
        described = {"model": options.model, "dataset": recipe.dataset}
        described["data_folder"] = recipe.data_folder
        text = json.dumps({**described, **metrics}, indent=2, ensure_ascii=False)
        pathlib.Path(options.output).write_text(text + "\n", encoding="utf-8")


def load_task(name):
    """Loads a model.

    Args:
        name: path of a run's folder or of a `.keras` file; or what `from_preset` of a task
            takes, whose weights it has.

    Raises:
        ValueError: for an unknown name, a preset without a task, and another model.
        keras_spm.weights.WeightsError: where files cannot be had whole or do not fit.
    """
    path = pathlib.Path(name)
    best = path / "best.keras"
    if path.suffix != ".keras" and not best.is_file():
        return ImageTask.from_preset(name)
    model = keras.saving.load_model(path if path.suffix == ".keras" else best)
    if type(model) not in _RECIPES:
        raise ValueError(f"{path} must hold a task. Received: {type(model).__name__}")
    return model


def evaluate(model, recipe):
    """Measures a model on the test split of a recipe's data.

    Args:
        model: a task.
        recipe: a `Recipe` for the same task, of which the data alone counts.

    Returns:
        {metric: float}, and `images`, how many there were. With `/` in it a metric is of one
        class.

    Raises:
        ValueError: for data of other classes.
    """
    return _EVALUATIONS[type(model)](model, recipe)


def _recipe(options, model, recipes):
    kind, name = _RECIPES[type(model)]
    overrides = list(options.set)
    if options.data:
        overrides.append(f"data_folder={options.data}")
        if kind is ClassificationRecipe:
            overrides.append("validation_share=0")
    own = pathlib.Path(options.model, "recipe.json")
    if options.recipe is None and own.is_file():
        return saved_recipe(own, kind, overrides)
    recipe = load_recipe(options.recipe or name, recipes, overrides)
    if type(recipe) is not kind:
        raise ValueError(
            f"`--recipe` must be of a task like {type(model).__name__}. Received: {options.recipe}"
        )
    return recipe


def _of_classifier(model, recipe):
    labels, outputs, class_names = tested_outputs(model, recipe)
    places = _places(model, class_names)
    if model.multi_label:
        columns = np.zeros((len(labels), model.num_classes), "float32")
        columns[:, places] = labels
        return {"images": len(labels), **multi_label_metrics(model, columns, outputs)}
    return {"images": len(labels), **single_label_metrics(model, places[labels], outputs)}


def _of_detector(model, recipe):
    examples, class_names = detection_test(recipe)
    _check_order(model, class_names)
    metrics = CocoEvaluation(examples, class_names=class_names).measure(model)
    return {"images": len(examples), **metrics}


def _of_segmenter(model, recipe):
    examples, class_names = segmentation_test(recipe)
    _check_order(model, class_names)
    evaluation = SegmentationEvaluation(examples)
    metrics = evaluation.measure(model)
    per_class = zip(class_names, evaluation.per_class.tolist(), strict=True)
    return {
        "images": len(examples),
        **metrics,
        **{f"iou/{name}": value for name, value in per_class},
    }


_EVALUATIONS = {
    ImageClassifier: _of_classifier,
    ObjectDetector: _of_detector,
    SemanticSegmenter: _of_segmenter,
}


def _places(model, class_names):
    """Where the data's classes stand among the model's: by name, or else by their order."""
    known = model.class_names or class_names
    if set(class_names) <= set(known) and len(known) == model.num_classes:
        return np.array([known.index(name) for name in class_names])
    if len(class_names) != model.num_classes:
        unknown = [name for name in class_names if name not in known]
        raise ValueError(
            f"The data must have the model's {model.num_classes} classes, or some of them by "
            f"name. Received: {len(class_names)}, of which unknown are {unknown[:5]}"
        )
    return np.arange(model.num_classes)


def _check_order(model, class_names):
    places = _places(model, class_names)
    if places.tolist() != list(range(model.num_classes)):
        raise ValueError(
            f"The data must have the model's classes in their order, {model.class_names}. "
            f"Received: {class_names}"
        )
