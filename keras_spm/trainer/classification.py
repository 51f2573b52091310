"""Trains, selects, tests and documents an image classifier."""

import keras
import numpy as np

from keras_spm.backbones import PyramidBackbone
from keras_spm.data import load_dataset
from keras_spm.data.pipeline import training_batches
from keras_spm.optimizers import AdamW
from keras_spm.tasks import ImageClassifier
from keras_spm.trainer.engine import train
from keras_spm.visualize import plot_confusion_matrix
from keras_spm.visualize import plot_training_curves


def train_classifier(recipe, folder, verbose):
    """Runs a recipe and leaves its run folder.

    The epoch that does best on the validation part is kept; the test part is read once,
    by the model loaded back from its file.

    Args:
        recipe: `ClassificationRecipe`.
        folder: `RunFolder`.
        verbose: as `keras.Model.fit` takes it.

    Returns:
        The result, a dict: `test_accuracy`, `test_loss`, `best_epoch`,
        `validation_accuracy` there, and `seconds` of training.
    """
    keras.utils.set_random_seed(recipe.seed)
    splits = load_dataset(recipe.dataset)
    batches, steps_per_epoch = training_batches(
        splits.train,
        recipe.batch_size,
        recipe.epochs,
        recipe.seed,
        recipe.rotation,
        recipe.zoom,
        recipe.translation,
    )
    model = _build(recipe, splits.class_names, steps_per_epoch)

    training = train(
        model,
        batches,
        recipe,
        folder,
        verbose,
        ("val_loss", "min"),
        steps_per_epoch,
        splits.validation,
    )
    plot_training_curves(training.history, folder.working_path / "curves.png")

    result = {
        **_test(training.best_model, splits, folder.working_path / "confusion_matrix.png"),
        "validation_accuracy": training.best("val_accuracy"),
        "best_epoch": training.best_epoch,
        "seconds": training.seconds,
    }
    folder.finish(result)
    return result


def _build(recipe, class_names, steps_per_epoch):
    backbone = PyramidBackbone.from_preset(
        recipe.preset, load_weights=False, drop_path_rate=recipe.drop_path_rate
    )
    model = ImageClassifier(backbone, len(class_names), class_names)
    rates = recipe.learning_rates(steps_per_epoch)
    model.compile(optimizer=AdamW(rates, weight_decay=recipe.weight_decay))
    return model


def _test(model_path, splits, picture_path):
    model = keras.saving.load_model(model_path)
    images, labels = splits.test
    logits = model.predict(images, verbose=0)
    loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    predictions = logits.argmax(axis=-1)
    plot_confusion_matrix(labels, predictions, images, splits.class_names, picture_path)
    return {
        "test_accuracy": float(np.mean(predictions == labels)),
        "test_loss": float(np.mean(keras.ops.convert_to_numpy(loss))),
    }
