"""Checks of arguments: the error names the argument, the value and what is allowed.

Imports nothing of this package, so that every module can use it.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

_LONGEST = 200  # Characters of a value in a message.


def argument_error(name: str, allowed: str, value: Any) -> ValueError:
    """Returns the error for a value that is not `allowed`; its message is one line."""
    received = " ".join(repr(value).split())
    if len(received) > _LONGEST:
        received = f"{received[:_LONGEST]}…"
    return ValueError(f"`{name}` must be {allowed}. Received: {name}={received}")


def check_integer(name: str, value: Any, minimum: int = 1, maximum: int | None = None) -> int:
    """Returns `value` as an int.

    Raises:
        ValueError: if it is not an integer, is a bool, or is out of range.
    """
    largest = math.inf if maximum is None else maximum
    if not _is(numbers.Integral, value) or not minimum <= value <= largest:
        allowed = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise argument_error(name, f"an integer {allowed}", value)
    return int(value)


def check_odd(name: str, value: Any) -> int:
    """Returns `value` as an int.

    Raises:
        ValueError: if it is not an odd integer of at least 1.
    """
    if not _is(numbers.Integral, value) or value < 1 or value % 2 == 0:
        raise argument_error(name, "an odd integer of at least 1", value)
    return int(value)


def check_number(
    name: str,
    value: Any,
    minimum: float = 0.0,
    maximum: float = math.inf,
    allow_minimum: bool = True,
    allow_maximum: bool = True,
) -> float:
    """Returns `value` as a float.

    Args:
        name: of the argument.
        value: the argument.
        minimum, maximum: range of the number, which must be finite.
        allow_minimum, allow_maximum: whether the number may be the minimum or maximum itself.

    Raises:
        ValueError: if it is not a finite number, is a bool, or is out of range.
    """
    number = _as_float(value)
    if not (
        math.isfinite(number)
        and (number >= minimum if allow_minimum else number > minimum)
        and (number <= maximum if allow_maximum else number < maximum)
    ):
        allowed = f"{'at least' if allow_minimum else 'above'} {minimum:g}"
        if maximum < math.inf:
            allowed += f" and {'at most' if allow_maximum else 'below'} {maximum:g}"
        raise argument_error(name, f"a finite number, {allowed}", value)
    return number


def check_rate(name: str, value: Any) -> float:
    """Returns `value`, the share of something that is dropped, as a float.

    Raises:
        ValueError: if it is not a number from 0 to below 1.
    """
    return check_number(name, value, maximum=1, allow_maximum=False)


def check_epsilon(name: str, value: Any) -> float:
    """Returns `value`, which is added to a variance, as a float.

    Raises:
        ValueError: if it is not a number above 0, or is above 1, as in 1e5 for 1e-5.
    """
    return check_number(name, value, maximum=1, allow_minimum=False)


def check_bool(name: str, value: Any) -> bool:
    """Returns `value` as a bool.

    Raises:
        ValueError: if it is another type: the string "false", for example, would be true.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise argument_error(name, "True or False", value)
    return bool(value)


def check_each(
    name: str, values: Any, check: Callable[..., Any], length: int | None = None, **limits: Any
) -> tuple:
    """Returns a tuple of what `check(name, value, **limits)` returns for each of `values`.

    Args:
        name: of the argument.
        values: the argument, a sequence of any type, not empty.
        check: function of this module.
        length: required number of values, if it is fixed.
        **limits: arguments of `check`.

    Raises:
        ValueError: if `values` is not a sequence, has another length, or a value is refused.
    """
    sequence = _sequence(values)
    if not sequence or len(sequence) != (length or len(sequence)):
        raise argument_error(name, f"a list of {length or 'one or more'} values", values)
    return tuple(check(f"{name}[{i}]", value, **limits) for i, value in enumerate(sequence))


def _is(kind, value):
    return isinstance(value, kind) and not isinstance(value, (bool, np.bool_))


def _as_float(value):
    """NaN for what is not a number, or too large for a float."""
    try:
        return float(value) if _is(numbers.Real, value) else math.nan
    except OverflowError:
        return math.nan


def _sequence(values):
    """A tuple, empty for what is not a sequence."""
    if isinstance(values, (str, bytes, dict, set)):
        return ()
    try:
        return tuple(values)
    except TypeError:
        return ()
