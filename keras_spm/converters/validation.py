"""Checks of configurations from folders and the hub, before anything is allocated."""

import concurrent.futures
import math
import reprlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_spm.types import PathLike
from keras_spm.weights.errors import FormatError

_MAX_NUMBER = 1 << 16
_MAX_ITEMS = 64  # Of lists and objects.
_MAX_STRINGS = 1 << 16  # Of lists of strings, such as class names.
_MAX_TEXT = 1000
_MAX_NESTING = 4
_MIN_LARGEST = 256  # Allowed whatever the sizes in the weights.
# Without weights to compare with: several times the largest preset.
_MAX_BLOCKS = 500
_MAX_PARAMETERS = 500_000_000
_DTYPES = (None, "float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16")


def check_arguments(arguments: dict[str, Any], source: PathLike) -> None:
    """Refuses constructor arguments that are not plain values of limited size.

    Allowed are null, booleans, strings, finite numbers up to 2**16, and lists and objects
    of them, but not objects that Keras could deserialize (`"class_name"`).

    Raises:
        FormatError: names the source, the argument and its value.
    """
    for name, value in arguments.items():
        if not isinstance(name, str) or not _is_plain(value, _MAX_NESTING):
            raise FormatError(
                f"{source}: `{reprlib.repr(name)[1:-1]}` must be a plain value, with numbers up "
                f"to {_MAX_NUMBER}. Received: {reprlib.repr(value)}"
            )


def _is_plain(value, nesting):
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return len(value) <= _MAX_TEXT
    if isinstance(value, (int, float)):
        return abs(value) <= _MAX_NUMBER  # False for NaN.
    if isinstance(value, dict):
        return "class_name" not in value and _is_plain([*value, *value.values()], nesting)
    if not isinstance(value, (list, tuple)) or not nesting:
        return False
    limit = _MAX_STRINGS if all(isinstance(item, str) for item in value) else _MAX_ITEMS
    return len(value) <= limit and all(_is_plain(item, nesting - 1) for item in value)


def check_backbone(
    arguments: dict[str, Any], arrays: dict[str, np.ndarray] | None, source: str
) -> None:
    """Checks a backbone's arguments that the comparison with the weights does not cover.

    The number of blocks is limited to the number of tensors, since layers take memory too.
    Integers are limited to the largest size in the weights, since layers may compute
    constants of any power of them. Raises FormatError.
    """
    limit = _MAX_BLOCKS if arrays is None else len(arrays)
    depths = arguments.get("depths")
    blocks = depths if isinstance(depths, (list, tuple)) else [depths]
    if sum(count for count in blocks if isinstance(count, (int, float))) > limit:
        raise FormatError(
            f"{source}: `depths` must be at most {limit} blocks in total. "
            f"Received: {reprlib.repr(depths)}"
        )
    sizes = [size for array in (arrays or {}).values() for size in array.shape]
    largest = _MAX_NUMBER if arrays is None else max([_MIN_LARGEST, *sizes])
    for name, value in arguments.items():
        if isinstance(value, int) and value > largest:
            raise FormatError(f"{source}: `{name}` must be at most {largest}. Received: {value}")
    if arguments.get("dtype") not in _DTYPES:
        raise FormatError(
            f"{source}: `dtype` must be one of {_DTYPES}. "
            f"Received: {reprlib.repr(arguments['dtype'])}"
        )


def build_without_memory(build: Callable[[], keras.Model]) -> keras.Model:
    """Calls a function that builds a model; the variables have shapes, but no values."""

    def build_in_scope():
        with keras.StatelessScope(initialize_variables=False):
            return build()

    # Keras keeps a list of the variables to initialize later. The list is local to the
    # thread, so it ends with the thread.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(build_in_scope).result()


def check_size(model: keras.Model, source: str) -> None:
    """Limits the parameters of a model without weights to compare with."""
    count = sum(math.prod(variable.shape) for variable in model.weights)
    if count > _MAX_PARAMETERS:
        raise FormatError(
            f"{source} describes a model of {count} parameters, more than {_MAX_PARAMETERS}."
        )
