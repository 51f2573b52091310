"""Trains the mergings of a network to reproduce those of another one."""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_spm.arguments import argument_error, check_bool, check_integer, check_number
from keras_spm.backend import replicas
from keras_spm.data.preprocessing import ImagePreprocessing
from keras_spm.tasks.graph import channels_of, data_format_of
from keras_spm.transplantation.images import MIN_IMAGES, ShiftedBatches, collect_images
from keras_spm.transplantation.matching import MergingFit, TransplantReport, explained_variance, fit
from keras_spm.transplantation.networks import Networks

_IMAGE_SIZE, _CROP_PCT = 224, 0.875  # Of files, for models without sizes of their own.
_CLOSED_FORM_IMAGES = 128  # Their maps are kept in memory.


def transplant(
    student: keras.Model,
    images: Any,
    teacher: keras.Model | None = None,
    steps: int | tuple[int, int] = 100,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    validation_split: float = 0.125,
    max_images: int = 1024,
    image_size: int | None = None,
    seed: int = 0,
    verbose: bool = True,
) -> TransplantReport:
    """Gives newly initialized mergings a pretrained start, from unlabeled images.

    The teacher is the same network with the mergings of its family. The student gets all
    variables that both have, and its mergings learn to give the same maps as the teacher's:

    1. They are initialized in closed form: Multi-Scale Aggregation to a linear map whose
       depthwise kernels are the best separable approximation of the teacher's convolution,
       the values of Guided Local Enhancement by least squares.
    2. All mergings are trained in parallel, on the inputs and outputs of the teacher's.
    3. They are trained end to end: the outputs of all mergings and of the last stage, in the
       student, on those in the teacher. All other layers stay as they are.

    The statistics of batch normalization are settled at the end, without a change of the
    outputs. If anything fails, the student keeps its weights.

    A student with `merging="default+spm"` is its own teacher: its Stepwise Patch Merging learns
    to replace its default merging, by 1 and 2. Its outputs do not change before the default
    merging is faded out.

    Args:
        student: backbone or task of this package.
        images: a few hundred unlabeled images: an array (count, height, width, channels) of raw
            pixels in [0, 255], also for a backbone; a folder of images; a list of paths, arrays
            or examples; or any data set that `fit` takes, whose targets are ignored.
        teacher: backbone or task, trained, of the student's architecture with
            `merging="default"`. By default, the mergings are those of the preset that the
            student was loaded from.
        steps: steps of 2 and of 3, one int for both or two. A training stops early when the
            error on held-out images no longer decreases.
        batch_size: images per step.
        learning_rate: peak learning rate of Adam.
        validation_split: share of the images that is held out.
        max_images: number of images that are read at most; they are kept in memory.
        image_size: height and width to which files and examples are resized and cropped; by
            default those of the task's preprocessing or of the model, or 224.
        seed: of the held-out images, the order and the augmentation.
        verbose: whether progress bars are shown.

    Returns:
        A `TransplantReport`: the explained variance of each merging on the held-out images,
        before, between and after these phases.

    Raises:
        ValueError: if an argument is out of range, there are too few images, the student has no
            mergings to train, or the teacher has another architecture; and on several devices.

    Example:

    >>> backbone = keras_spm.PVTv2SPM.from_preset("b1")  # doctest: +SKIP
    >>> print(keras_spm.transplant(backbone, "photos"))  # doctest: +SKIP
    >>> backbone = keras_spm.PVTv2SPM.from_preset("b1", transplant="photos")  # doctest: +SKIP
    """
    started = time.perf_counter()
    _check_one_device()
    first_steps, second_steps = _check_steps(steps)
    batch_size = check_integer("batch_size", batch_size, 2)
    learning_rate = check_number("learning_rate", learning_rate, allow_minimum=False)
    check_number("validation_split", validation_split, 0, 0.5, allow_minimum=False)
    max_images = check_integer("max_images", max_images, MIN_IMAGES)
    seed, verbose = check_integer("seed", seed, 0), check_bool("verbose", verbose)
    networks = Networks(student, teacher)
    backbone = networks.student
    preprocessing = _preprocessing(student, backbone, image_size)
    pixels = collect_images(images, backbone, preprocessing, max_images)
    pixels = pixels[np.random.default_rng(seed).permutation(len(pixels))]
    held_out, training = np.split(pixels, [max(math.ceil(validation_split * len(pixels)), 2)])
    is_first = data_format_of(backbone) == "channels_first"
    batches = ShiftedBatches(training, batch_size, seed, is_first)
    validation = ShiftedBatches(held_out, batch_size, None, is_first)
    few = ShiftedBatches(training[:_CLOSED_FORM_IMAGES], batch_size, None, is_first).all()
    with _all_or_nothing(student, backbone), networks.only_mergings_trainable():
        networks.copy_variables()
        # Training another model keeps the compiled prediction of this one.
        compared = networks.in_place()
        fits = [explained_variance(compared, validation.all())]
        networks.initialize(few)
        fits.append(explained_variance(compared, validation.all()))
        data = (batches, validation)
        title = "Regression of each merging"
        regressed = fit(networks.regression(), *data, first_steps, learning_rate, title, verbose)
        networks.settle(few)
        fits.append(explained_variance(compared, validation.all()))
        matched = 0
        if not networks.is_gated:
            title, rate = "Matching end to end", learning_rate / 5
            matched = fit(networks.in_place(), *data, second_steps, rate, title, verbose)
            networks.settle(few)
        fits.append(explained_variance(compared, validation.all()))
        if not all(math.isfinite(value) for each in fits[1:] for value in each.values()):
            raise argument_error("learning_rate", "lower: the training diverged", learning_rate)
    return TransplantReport(
        mergings={
            name: MergingFit(*(each[name] for each in fits)) for name in networks.stage_names
        },
        images=len(training),
        held_out_images=len(held_out),
        steps=(regressed, matched),
        seconds=time.perf_counter() - started,
    )


@contextlib.contextmanager
def _all_or_nothing(*models: keras.Model) -> Iterator[None]:
    """Restores the weights of models if the block fails or is interrupted."""
    before = [(model, model.get_weights()) for model in models]
    try:
        yield
    except BaseException:
        for model, weights in before:
            model.set_weights(weights)
        raise


def _check_one_device():
    if replicas.count() > 1:
        raise ValueError(
            "`transplant` works on one device: call it outside of `data_parallel`, save the model, "
            f"and load it inside. Received: {replicas.count()} devices"
        )


def _check_steps(steps):
    if isinstance(steps, (tuple, list)) and len(steps) == 2:
        return tuple(check_integer(f"steps[{i}]", each) for i, each in enumerate(steps))
    return (check_integer("steps", steps),) * 2


def _preprocessing(model, backbone, image_size):
    """Returns the preprocessing of files."""
    own = getattr(model, "preprocessing", None)
    if image_size is None and own is not None:
        return own
    if image_size is None:
        sizes = [size or _IMAGE_SIZE for size in backbone.spatial_sizes]
    else:
        sizes = [check_integer("image_size", image_size)] * 2
    return ImagePreprocessing(sizes, _CROP_PCT, channels=channels_of(backbone))
