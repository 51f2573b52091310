"""The plan of a training: sizes, cost and learning rates, without training."""

import math
import pathlib
from typing import Any

import keras
import numpy as np

from keras_spm.backend import bytes_kept_for_gradient
from keras_spm.data.report import describe_data, report_text
from keras_spm.layers.macs import macs
from keras_spm.trainer.recipe import Recipe, Setup

_DRAWN = 8  # Images of the first batch.
_ROWS = 10
_WIDTH = 40


def dry_run(recipe: Recipe, picture: pathlib.Path) -> str:
    """Returns the report of the data and the plan of a training, and draws its first batch.

    Args:
        recipe: any recipe.
        picture: path of the PNG file to write.
    """
    setup = recipe.setup()
    report = None if setup.data is None else describe_data(setup.data)
    images, targets = setup.first_batch()
    picture.parent.mkdir(parents=True, exist_ok=True)
    setup.model.draw(images[:_DRAWN], picture, targets)
    parts = [describe_setup(setup, report), describe_plan(recipe, setup)]
    return "\n".join([*filter(None, parts), f"the first batch is drawn in {picture}"])


def describe_setup(setup: Setup, report: dict | None) -> str:
    """Returns the report of the data, and what was adapted to them."""
    lines = [] if report is None else [report_text(report)]
    return "\n".join([*lines, *setup.notes])


def describe_plan(recipe: Recipe, setup: Setup) -> str:
    """Returns the plan of a training as text. The model's optimizer is built."""
    model = setup.model
    images, targets = setup.first_batch()
    shape = images.shape[1:]
    trainable = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    steps = setup.steps_per_epoch * recipe.epochs
    rows = {
        "backend": f"{keras.config.backend()}, {model.dtype_policy.name}",
        "model": f"{type(model).__name__} on {recipe.preset}: {model.count_params():,} "
        f"parameters, {trainable:,} of them trainable",
        "MACs": _describe_macs(model, shape),
        "steps": f"{recipe.epochs:,} epochs × {setup.steps_per_epoch:,} = {steps:,}, "
        f"of {len(images):,} images",
        "memory": _describe_memory(model, images, targets),
        "learning rate": "at steps from the first to the last",
    }
    if setup.data is not None:
        sizes = ", ".join(f"{size:,} {split}" for split, size in setup.data.sizes().items())
        missing = "" if setup.data.test is not None else ", no test split"
        data = {"data": f"{sizes} images{missing}; {len(setup.data.class_names)} classes"}
        rows = {"backend": rows.pop("backend"), **data, **rows}
    lines = [f"{name:<14} {value}" for name, value in rows.items()]
    return "\n".join([*lines, *_learning_rate_lines(model.optimizer, steps)])


def step_bytes(model: keras.Model, images: np.ndarray, targets: Any) -> tuple[int, int]:
    """Returns the memory of a training step in bytes: (of the model, of one image).

    The model's part is its variables, gradients, and the optimizer's variables, including
    averages and accumulated gradients. An image's part is the intermediate results that the
    gradient needs. Workspace, and memory that a backend keeps for later steps, are not included.

    Args:
        model: compiled task; its optimizer is built.
        images: (batch, height, width, channels).
        targets: array or structure of arrays.
    """
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.trainable_variables, *model.optimizer.variables]
    model_bytes = sum(math.prod(each.shape) * _item_size(each.dtype) for each in variables)
    if len(images) == 1:
        images, targets = keras.tree.map_structure(
            lambda array: np.concatenate([array, array]), (images, targets)
        )

    def kept(count):
        batch = keras.tree.map_structure(lambda array: array[:count], (images, targets))
        return bytes_kept_for_gradient(model, *batch)

    return model_bytes, kept(2) - kept(1)


def _item_size(dtype):
    return np.dtype("uint16" if dtype == "bfloat16" else dtype).itemsize


def _describe_macs(model, shape):
    try:
        count = macs(model, (None, *shape))
    except TypeError as error:
        return f"not counted ({str(error).rstrip('.')})"
    return f"{count / 1e9:.3g} G per image of {shape[0]}×{shape[1]} pixels"


def _describe_memory(model, images, targets):
    model_size, image_size = (size / 1e6 for size in step_bytes(model, images, targets))
    total = model_size + len(images) * image_size
    return (
        f"{total:,.0f} MB = {model_size:,.0f} for weights, gradients and optimizer + "
        f"{len(images)} images × {image_size:,.1f} for the gradient"
    )


def _learning_rate_lines(optimizer, steps):
    """Returns lines with the learning rate at evenly spaced steps."""
    config = optimizer.get_config()["learning_rate"]
    is_schedule = isinstance(config, dict)
    schedule = keras.optimizers.schedules.deserialize(config) if is_schedule else lambda _: config
    indices = sorted({round(row * (steps - 1) / _ROWS) for row in range(_ROWS + 1)})
    values = [float(keras.ops.convert_to_numpy(schedule(index))) for index in indices]
    peak = max(values) or 1.0
    return [
        f"{index:>14,} {value:.2e} {'#' * round(_WIDTH * value / peak)}".rstrip()
        for index, value in zip(indices, values, strict=True)
    ]
