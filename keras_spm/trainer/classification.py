"""Trains, selects, tests and documents an image classifier."""

import platform
import time

import keras
import numpy as np

from keras_spm.backbones import PyramidBackbone
from keras_spm.data import load_dataset
from keras_spm.data.pipeline import training_batches
from keras_spm.environment import versions
from keras_spm.optimizers import AdamW
from keras_spm.tasks import ImageClassifier
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

    # Only now, as a recipe that asks for what there is not leaves nothing behind.
    folder.start()
    folder.write("recipe.json", recipe.as_dict())
    folder.write("environment.json", {**versions(), "machine": platform.platform()})
    best_path = folder.working_path / "best.keras"
    started = time.perf_counter()
    history = model.fit(
        batches,
        shuffle=False,
        steps_per_epoch=steps_per_epoch,
        epochs=recipe.epochs,
        validation_data=splits.validation,
        callbacks=[
            keras.callbacks.CSVLogger(str(folder.working_path / "metrics.csv")),
            keras.callbacks.ModelCheckpoint(
                str(best_path), monitor="val_loss", save_best_only=True
            ),
        ],
        verbose=verbose,
    ).history
    seconds = time.perf_counter() - started
    plot_training_curves(history, folder.working_path / "curves.png")

    best_epoch = int(np.argmin(history["val_loss"]))
    result = {
        **_test(best_path, splits, folder.working_path / "confusion_matrix.png"),
        "best_epoch": best_epoch + 1,
        "validation_accuracy": history["val_accuracy"][best_epoch],
        "seconds": round(seconds, 1),
    }
    folder.finish(result)
    return result


def _build(recipe, class_names, steps_per_epoch):
    backbone = PyramidBackbone.from_preset(
        recipe.preset, load_weights=False, drop_path_rate=recipe.drop_path_rate
    )
    model = ImageClassifier(backbone, len(class_names), class_names)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=recipe.learning_rate,
        warmup_steps=recipe.warmup_epochs * steps_per_epoch,
        decay_steps=(recipe.epochs - recipe.warmup_epochs) * steps_per_epoch,
    )
    model.compile(optimizer=AdamW(schedule, weight_decay=recipe.weight_decay))
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
