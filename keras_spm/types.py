"""Names for types that appear in many signatures."""

import os
import typing

# A tensor or variable of the active backend, a NumPy array, or a symbolic KerasTensor.
Tensor: typing.TypeAlias = typing.Any
Shape: typing.TypeAlias = tuple[int | None, ...]
PathLike: typing.TypeAlias = str | os.PathLike[str]
