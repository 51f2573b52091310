"""The mode in which a model is traced for export, and operations that differ in it.

An exported graph has images of any size, and runs elsewhere. So it has no formulation that
suits one platform, no loop over images, no operation that a format lacks, and no Python
control flow that depends on values. Outside of `export_mode`, nothing here changes anything.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import keras
from keras import ops

from keras_spm.types import Tensor

_STATE = threading.local()


@contextlib.contextmanager
def export_mode() -> Iterator[None]:
    """Context manager in which models called by this thread are traced for export."""
    previous = is_exporting()
    _STATE.exporting = True
    try:
        yield
    finally:
        _STATE.exporting = previous


def is_exporting() -> bool:
    """Returns whether this thread is in `export_mode`."""
    return getattr(_STATE, "exporting", False)


def scalar(size: int | Tensor, dtype: str) -> Tensor:
    """Returns a size of an array, which a graph may not know yet, as a scalar tensor."""
    if keras.config.backend() == "torch" and not isinstance(size, int):
        import torch

        if isinstance(size, torch.SymInt):
            return torch.full((), size, dtype=getattr(torch, dtype))
    return ops.cast(size, dtype)


def min_size(first: int | Tensor, second: int | Tensor) -> int | Tensor:
    """Returns the smaller of two sizes, each an int or a size that a graph does not know yet."""
    return _extremum("min", first, second)


def max_size(first: int | Tensor, second: int | Tensor) -> int | Tensor:
    """Returns the larger of two sizes, as `min_size`."""
    return _extremum("max", first, second)


def _extremum(name, first, second):
    if isinstance(first, int) and isinstance(second, int):
        return {"min": min, "max": max}[name](first, second)
    if keras.config.backend() == "torch":
        import torch

        return {"min": torch.sym_min, "max": torch.sym_max}[name](first, second)
    if keras.config.backend() == "jax":
        import jax

        return {"min": jax.core.min_dim, "max": jax.core.max_dim}[name](first, second)
    return {"min": ops.minimum, "max": ops.maximum}[name](first, second)


def roll(maps: Tensor, shifts: Sequence[int | Tensor]) -> Tensor:
    """Rolls height and width of (batch, height, width, channels), as `ops.roll`."""
    if not is_exporting():
        return ops.roll(maps, shifts, axis=(1, 2))
    # Formats have no such operation, or one for constants alone.
    for axis, shift in zip((1, 2), shifts, strict=True):
        length = ops.shape(maps)[axis]
        size = scalar(length, "int32")
        positions = ops.arange(length, dtype="int32")
        maps = take(maps, (positions + size - shift) % size, axis=axis)
    return maps


def take(array: Tensor, indices: Tensor, axis: int) -> Tensor:
    """`ops.take` of indices of at least 0 along an axis."""
    if not (is_exporting() and keras.config.backend() == "torch"):
        return ops.take(array, indices, axis=axis)
    import torch

    # Keras squeezes an axis whose length an exporter does not know.
    shape = (*array.shape[:axis], *indices.shape, *array.shape[axis + 1 :])
    return torch.index_select(array, axis, indices.reshape(-1)).reshape(shape)


def take_along_rows(array: Tensor, indices: Tensor) -> Tensor:
    """`ops.take_along_axis` along axis 1, of indices that are 1 in size along all later axes."""
    if not (is_exporting() and keras.config.backend() == "torch"):
        return ops.take_along_axis(array, indices, axis=1)
    import torch

    # PyTorch's own function fixes all sizes.
    indices = indices.long().expand(*indices.shape[:2], *array.shape[2:])
    return torch.gather(array, 1, indices)


def rows_from(array: Tensor, start: Tensor, count: int) -> Tensor:
    """Returns `array[:, start : start + count]` for a scalar tensor `start`."""
    if is_exporting():
        return take(array, start + ops.arange(count, dtype="int32"), axis=1)
    first, *rest = ops.shape(array)[0], *ops.shape(array)[2:]
    starts = (0, start, *(0 for _ in rest))
    return ops.slice(array, starts, (first, count, *rest))


def while_loop(
    condition: Callable[..., Tensor],
    body: Callable[..., Sequence[Tensor]],
    state: Sequence[Tensor],
    constants: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """`ops.while_loop` of functions of the state and of constants.

    In PyTorch's exports, functions must not use other tensors.

    Args:
        condition: function (*state, *constants) → scalar bool tensor.
        body: function (*state, *constants) → next state, of the same shapes and dtypes.
        state: tensors.
        constants: tensors that every step gets unchanged.
    """
    if not (is_exporting() and keras.config.backend() == "torch"):
        return ops.while_loop(
            lambda *state: condition(*state, *constants),
            lambda *state: tuple(body(*state, *constants)),
            tuple(state),
        )
    import torch
    from torch._higher_order_ops.while_loop import while_loop_op

    def copied(*arrays):
        # No tensor may be two of the inputs and results.
        return tuple(torch.clone(each) for each in body(*arrays))

    state = tuple(torch.clone(each) for each in state)
    return tuple(while_loop_op(condition, copied, state, tuple(constants)))
