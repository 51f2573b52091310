"""Names for types that appear in many signatures."""

import os
from typing import Any, TypeAlias

# A tensor or variable of the active backend, a NumPy array, or a symbolic KerasTensor.
Tensor: TypeAlias = Any
Shape: TypeAlias = tuple[int | None, ...]
PathLike: TypeAlias = str | os.PathLike[str]

# An image with its annotations, or what a model finds in it. Keys: `image` (path,
# `EncodedImage`, PIL image or array (height, width, 3)); `image_id`; of a classification
# `label`; of objects `boxes`, `labels`, `crowd`, `areas`, `masks`, `scores`; of a
# segmentation `segmentation_map`.
Example: TypeAlias = dict[str, Any]
