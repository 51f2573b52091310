"""What a training would do: a recipe's plan, from everything built and nothing trained."""

import math

import keras
import numpy as np

from keras_spm.backend import bytes_kept_for_gradient

_POINTS = 10
_BAR = 40


def plan(recipe, prepared):
    """Returns the plan of a training, as text.

    Args:
        recipe: a `Recipe`.
        prepared: what it needs, as `Prepared`. The model's optimizer is built.
    """
    model = prepared.model
    images, targets = prepared.first_batch()
    shape = images.shape[1:]
    trained = sum(math.prod(each.shape) for each in model.trainable_variables)
    steps = prepared.steps_per_epoch * recipe.epochs
    counts = dict(zip(("train", "validate", "test"), prepared.counts.values(), strict=True))
    rows = {
        "backend": f"{keras.config.backend()}, {model.backbone.dtype_policy.name}",
        "data": ", ".join(f"{count:,} to {part} on" for part, count in counts.items())
        + f"; {len(model.class_names)} classes",
        "model": f"{type(model).__name__} on {recipe.preset}: {model.count_params():,} "
        f"parameters, of which {trained:,} are trained",
        "MACs": f"{model.macs((None, *shape)) / 1e9:.3g} G an image of "
        f"{shape[0]}×{shape[1]} pixels",
        "steps": f"{recipe.epochs:,} epochs × {prepared.steps_per_epoch:,} = {steps:,}, "
        f"of {recipe.batch_size:,} images",
        "memory": _memory(model, images, targets),
        "learning rate": "at its step, from the first to the last",
    }
    lines = [f"{name:<14} {value}" for name, value in rows.items()]
    return "\n".join([*lines, *_curve(prepared.rates, steps)])


def step_bytes(model, images, targets):
    """Returns what a training step needs to hold, bytes: (of the model, of an image).

    The model's are its variables, a gradient for each that is trained, and what the
    optimizer keeps of it (averages and accumulated gradients too). An image's are the
    intermediate results that the gradient needs: the step's are those times the batch.
    Room to compute in comes on top, and what a backend keeps for later steps.

    Args:
        model: a compiled task; its optimizer is built.
        images, targets: arrays, a batch.
    """
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.trainable_variables, *model.optimizer.variables]
    of_model = sum(math.prod(each.shape) * _item_size(each.dtype) for each in variables)
    if len(images) == 1:
        images, targets = keras.tree.map_structure(
            lambda array: np.concatenate([array, array]), (images, targets)
        )

    def kept(count):
        first = keras.tree.map_structure(lambda array: array[:count], (images, targets))
        return bytes_kept_for_gradient(model, *first)

    return of_model, kept(2) - kept(1)


def _item_size(dtype):
    return np.dtype("uint16" if dtype == "bfloat16" else dtype).itemsize


def _memory(model, images, targets):
    of_model, of_image = (each / 1e6 for each in step_bytes(model, images, targets))
    total = of_model + len(images) * of_image
    return (
        f"{total:,.0f} MB = {of_model:,.0f} of weights, gradients and optimizer + "
        f"{len(images)} images × {of_image:,.1f} that the gradient needs"
    )


def _curve(rates, steps):
    """Lines of the rate at steps that divide the training evenly."""
    places = sorted({round(share * (steps - 1) / _POINTS) for share in range(_POINTS + 1)})
    values = [float(keras.ops.convert_to_numpy(rates(place))) for place in places]
    peak = max(values) or 1.0
    return [
        f"{place:>14,} {value:.2e} {'#' * round(_BAR * value / peak)}".rstrip()
        for place, value in zip(places, values, strict=True)
    ]
