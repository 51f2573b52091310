"""What trainings of dense tasks share: their backbone, and the run itself."""

from keras_spm.backbones import PyramidBackbone
from keras_spm.optimizers import AdamW
from keras_spm.trainer.callbacks import observers
from keras_spm.trainer.engine import train
from keras_spm.trainer.setup import Prepared
from keras_spm.visualize import plot_training_curves

# Examples of the test split that are drawn.
SHOWN = 6


def backbone_of(recipe):
    """Returns the backbone that a `DenseRecipe` starts from."""
    return PyramidBackbone.from_preset(
        recipe.preset,
        load_weights=recipe.load_weights,
        drop_path_rate=recipe.drop_path_rate,
        merging=recipe.merging,
    )


def prepare(recipe, model, batches, data):
    """Compiles a dense task.

    Args:
        recipe: a `DenseRecipe`.
        model: the task.
        batches: endless data set.
        data: `DataSplits`.

    Returns:
        A `Prepared`.
    """
    rates = recipe.learning_rates()
    model.compile(optimizer=AdamW(rates, weight_decay=recipe.weight_decay))
    return Prepared(model, batches, recipe.steps_per_epoch, rates, data, data.sizes())


def run(prepared, evaluation, metric, test, recipe, folder, verbose):
    """Trains a dense task, keeps the best epoch and tests it.

    Args:
        prepared: a `Prepared`.
        evaluation: callback that measures the validation split.
        metric: str, by whose value there the best epoch is known.
        test: function (path of the best model, path of the run's folder) that returns
            {name: float}.
        recipe: a `DenseRecipe`.
        folder: a `RunFolder` that has not started.
        verbose: as `keras.Model.fit` takes it.

    Returns:
        The result, a dict.
    """
    training = train(
        prepared,
        recipe,
        folder,
        verbose,
        (f"val_{metric}", "max"),
        callbacks=[evaluation, *observers(prepared, folder)],
    )
    plot_training_curves(training.history, folder.working_path / "curves.png", ("loss", metric))
    result = {
        **test(training.best_model, folder.working_path),
        f"validation_{metric}": training.best(f"val_{metric}"),
        "best_epoch": training.best_epoch,
        "seconds": training.seconds,
    }
    folder.finish(result)
    return result
