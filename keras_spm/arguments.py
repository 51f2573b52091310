"""Checks of arguments: the error names the argument, the value and what is allowed.

Imports nothing of this package, so that every module can use it.
"""

import math
import numbers
from typing import Any

import numpy as np


def check_integer(name: str, value: Any, minimum: int = 1, maximum: int | None = None) -> int:
    """Returns `value` as an int.

    Raises:
        ValueError: if it is not an integer, is a bool, or is out of range.
    """
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))
    if not is_integer or value < minimum or (maximum is not None and value > maximum):
        allowed = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"`{name}` must be an integer {allowed}. Received: {name}={value!r}")
    return int(value)


def check_number(
    name: str,
    value: Any,
    minimum: float = 0.0,
    maximum: float = math.inf,
    allow_minimum: bool = True,
) -> float:
    """Returns `value` as a float.

    Args:
        name: of the argument.
        value: the argument.
        minimum, maximum: range of the number, which must be finite.
        allow_minimum: whether the number may be the minimum itself.

    Raises:
        ValueError: if it is not a finite number, is a bool, or is out of range.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    if not is_number or not _is_within(value, minimum, maximum, allow_minimum):
        allowed = [f"{'at least' if allow_minimum else 'above'} {minimum:g}"]
        if maximum < math.inf:
            allowed.append(f"at most {maximum:g}")
        raise ValueError(
            f"`{name}` must be a finite number, {' and '.join(allowed)}. Received: {name}={value!r}"
        )
    return float(value)


def _is_within(value, minimum, maximum, allow_minimum):
    above = value >= minimum if allow_minimum else value > minimum
    return math.isfinite(value) and above and value <= maximum
