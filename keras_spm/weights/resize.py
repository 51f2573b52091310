"""Resizing of learned tables to another grid, as PyTorch's `interpolate` does it."""

import math

import numpy as np


def square_side(count):
    """Returns the side of a square grid of `count` cells.

    Raises:
        ValueError: where that is not a square number.
    """
    side = math.isqrt(count)
    if count < 1 or side * side != count:
        raise ValueError(f"{count} rows are not a square grid")
    return side


def resize(table, size, kernel):
    """Resizes a grid: half-pixel centers, no antialiasing, the border repeated.

    Args:
        table: (rows, columns, channels), float32.
        size: (rows, columns) of the result.
        kernel: `linear` or `cubic`.

    Returns:
        (*size, channels), float32, computed in float64.
    """
    by_rows, by_columns = (
        _matrix(old, new, kernel) for old, new in zip(table.shape, size, strict=False)
    )
    # One axis after the other: both at once would take the product of all five sizes.
    rows = np.einsum("hr,rcx->hcx", by_rows, table, optimize=True)
    return np.einsum("wc,hcx->hwx", by_columns, rows, optimize=True).astype("float32")


def linear(distance):
    """The weight of a sample at that distance (in samples)."""
    return np.clip(1 - np.abs(distance), 0, None)


def cubic(distance, a=-0.75):
    """The same for Keys's cubic convolution, with PyTorch's coefficient."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _matrix(old, new, kernel):
    """The (new, old) matrix of the resizing along one axis."""
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    matrix = np.zeros((new, old))
    reach = np.arange(-1, 3)  # The samples around a center that a cubic reaches.
    samples = np.floor(centers).astype(int)[:, None] + reach
    weights = kernel(centers[:, None] - samples)
    np.add.at(matrix, (np.arange(new)[:, None], np.clip(samples, 0, old - 1)), weights)
    return matrix
