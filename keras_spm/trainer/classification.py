"""Trains, selects, tests and documents an image classifier."""

import keras

from keras_spm.backbones import PyramidBackbone
from keras_spm.optimizers import AdamW
from keras_spm.optimizers import LayerwiseAdamW
from keras_spm.tasks import ImageClassifier
from keras_spm.trainer.callbacks import observers
from keras_spm.trainer.classification_metrics import multi_label_metrics
from keras_spm.trainer.classification_metrics import single_label_metrics
from keras_spm.trainer.classification_sources import classification_source
from keras_spm.trainer.engine import train
from keras_spm.trainer.files import written_beside
from keras_spm.trainer.setup import Prepared
from keras_spm.visualize import plot_confusion_matrix
from keras_spm.visualize import plot_training_curves

_MOST_CLASSES = 30  # That a confusion matrix can show.


def prepare_classifier(recipe):
    """Returns all that a `ClassificationRecipe` needs, as `Prepared`."""
    keras.utils.set_random_seed(recipe.seed)
    source = classification_source(recipe)
    model = _build(recipe, source)
    batches, steps_per_epoch = source.training(model)
    rates = recipe.learning_rates(steps_per_epoch)
    model.compile(optimizer=_optimizer(recipe, model, rates), loss=source.loss)
    return Prepared(model, batches, steps_per_epoch, rates, source, source.counts)


def train_classifier(recipe, folder, verbose):
    """Runs a recipe and leaves its run folder.

    The epoch that does best on the validation split is kept; the test split is read once,
    by the model loaded back from its file.

    Args:
        recipe: `ClassificationRecipe`.
        folder: `RunFolder`.
        verbose: as `keras.Model.fit` takes it.

    Returns:
        The result, a dict: `test_accuracy`, `test_top_5_accuracy` of more than 5 classes,
        `test_loss`, `best_epoch`,
        `validation_accuracy` there, and `seconds` of training. Where an image may have
        several classes, `test_average_precision` and `validation_average_precision`, means
        over the classes, come on top.
    """
    prepared = prepare_classifier(recipe)
    source = prepared.data
    training = train(
        prepared,
        recipe,
        folder,
        verbose,
        source.monitor,
        source.validation,
        [
            # Exchanges weights and averages for the time of a validation.
            *([keras.callbacks.SwapEMAWeights()] if recipe.ema_decay else []),
            *observers(prepared, folder),
        ],
    )
    metrics = ["accuracy", *["average_precision"] * source.multi_label]
    curves = folder.working_path / "curves.png"
    plot_training_curves(training.history, curves, ("loss", metrics[-1]))
    if recipe.ema_decay:
        _keep_averages(training.best_model)
    result = {
        **_test(training.best_model, source, folder.working_path / "confusion_matrix.png"),
        **{f"validation_{name}": training.best(f"val_{name}") for name in metrics},
        "best_epoch": training.best_epoch,
        "seconds": training.seconds,
    }
    folder.finish(result)
    return result


def _build(recipe, source):
    backbone = PyramidBackbone.from_preset(
        recipe.preset,
        load_weights=recipe.load_weights,
        drop_path_rate=recipe.drop_path_rate,
        dtype=recipe.dtype_policy,
    )
    model = ImageClassifier(
        backbone,
        len(source.class_names),
        source.class_names,
        preprocessing=source.preprocessing,
        multi_label=source.multi_label,
    )
    backbone.freeze(recipe.frozen_stages)
    return model


def _optimizer(recipe, model, rates):
    arguments = {
        "epsilon": recipe.epsilon,
        "global_clipnorm": recipe.global_clipnorm or None,
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps
        if recipe.gradient_accumulation_steps > 1
        else None,
    }
    if recipe.ema_decay:
        arguments["use_ema"] = True
        # Keras averages after every batch, whether or not it made an update.
        arguments["ema_momentum"] = recipe.ema_decay ** (1 / recipe.gradient_accumulation_steps)
    if recipe.layer_decay < 1:
        depths = model.backbone.depths
        return LayerwiseAdamW(rates, recipe.layer_decay, depths, recipe.weight_decay, **arguments)
    return AdamW(rates, weight_decay=recipe.weight_decay, **arguments)


def _keep_averages(path):
    """Gives a saved model the averages of its weights, which its optimizer holds."""
    model = keras.saving.load_model(path)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    with written_beside(path) as beside:
        model.save(beside)


def _test(model_path, source, picture_path):
    model = keras.saving.load_model(model_path)
    labels, outputs, images = source.test(model)
    if source.multi_label:
        metrics = multi_label_metrics(model, labels, outputs)
    else:
        metrics = single_label_metrics(model, labels, outputs)
        if len(source.class_names) <= _MOST_CLASSES:
            predictions = outputs.argmax(axis=-1)
            plot_confusion_matrix(labels, predictions, images, source.class_names, picture_path)
    return {f"test_{name}": value for name, value in metrics.items()}
