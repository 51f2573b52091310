"""Convolutions as sums of shifted products, for JAX on CPU.

The gradient of the inputs of a depthwise convolution is the same stencil with the kernel
flipped; that of the kernel is one reduction per tap. Both are written out, since the automatic
gradient is slow: it pads and adds a whole map per tap.

Arrays are JAX arrays, with the shapes of `keras_spm.backend.depthwise_conv2d` and `conv2d`.
Sums are computed in float32.
"""

from keras_spm.types import Tensor


def forward(inputs: Tensor, kernel: Tensor, strides: int, padding: int) -> Tensor:
    """Returns the convolution.

    It loops over the images, as XLA would otherwise recompute the whole sum in every
    operation that reads it.
    """
    import jax

    def convolve_image(image):
        return _sum_of_taps(image[None], kernel, strides, padding)[0]

    return jax.lax.map(convolve_image, inputs)


def input_gradient(
    inputs: Tensor, kernel: Tensor, cotangent: Tensor, strides: int, padding: int
) -> Tensor:
    """Returns the gradient of the inputs.

    Input pixels belong to strides * strides phases. Each phase has its own subset of taps,
    and its gradient is a convolution of stride 1 with that subset flipped.
    """
    from jax import numpy as jnp

    batch, height, width, channels = inputs.shape
    rows = -(-(height + 2 * padding) // strides)
    columns = -(-(width + 2 * padding) // strides)
    bands = []
    for row in range(strides):
        phases = []
        for column in range(strides):
            taps = kernel[row::strides, column::strides][::-1, ::-1]
            padded = _pad(
                cotangent,
                (taps.shape[0] - 1, rows - cotangent.shape[1]),
                (taps.shape[1] - 1, columns - cotangent.shape[2]),
            )
            phases.append(_sum_of_taps(padded, taps, strides=1, padding=0))
        # Joined by channel, the phases of neighboring columns are adjacent.
        bands.append(jnp.concatenate(phases, axis=-1).reshape(batch, rows, -1))
    gradient = jnp.stack(bands, axis=2)
    gradient = gradient.reshape(batch, rows * strides, columns * strides, channels)
    return gradient[:, padding : padding + height, padding : padding + width]


def kernel_gradient(
    inputs: Tensor, kernel: Tensor, cotangent: Tensor, strides: int, padding: int
) -> Tensor:
    """Returns the gradient of the kernel.

    It loops over the images, so that the maps of one image stay in the cache for all taps,
    and over the rows of the kernel, as unrolled taps are slow to compile. The products of a
    tap are summed row by row of the map, and then once over the columns: XLA on CPU sums over
    all positions channel by channel. All columns and channels of a row are one axis: loops over
    16 channels take 3.5 times as long (9x9 taps, eight 56x56 maps: 17.7 ms, not 5.1).
    """
    import jax
    from jax import numpy as jnp

    rows, columns, channels, _ = kernel.shape

    def add_image(total, image):
        *phases, cotangent = (array.reshape(len(array), -1).astype("float32") for array in image)

        def row_gradient(row):
            return _row_gradient(phases, cotangent, row, columns, channels, strides)

        return total + jax.lax.map(row_gradient, jnp.arange(rows)), None

    start = jnp.zeros((rows, columns, channels), "float32")
    excess = -(inputs.shape[2] + 2 * padding) % strides
    padded = _pad(inputs, (padding, padding), (padding, padding + excess))
    # Windows of each phase of the columns are contiguous.
    phases = [padded[:, :, phase::strides] for phase in range(strides)]
    total, _ = jax.lax.scan(add_image, start, (*phases, cotangent))
    return total[..., None].astype(kernel.dtype)


def dense_kernel_gradient(inputs: Tensor, kernel: Tensor, cotangent: Tensor) -> Tensor:
    """Returns the kernel's gradient in a "same" convolution with stride 1: a product per tap."""
    from jax import numpy as jnp

    rows, columns = kernel.shape[:2]
    _, height, width, _ = inputs.shape
    padded = _pad(inputs, (rows // 2, rows // 2), (columns // 2, columns // 2))
    products = [
        jnp.einsum(
            "bhwc,bhwf->cf",
            _window(padded, row, column, height, width, 1),
            cotangent,
            preferred_element_type="float32",
        )
        for row in range(rows)
        for column in range(columns)
    ]
    return jnp.stack(products).reshape(kernel.shape).astype(kernel.dtype)


def _sum_of_taps(inputs, kernel, strides, padding):
    padded = _pad(inputs, (padding, padding), (padding, padding))
    out_height, out_width = (
        (padded.shape[axis + 1] - kernel.shape[axis]) // strides + 1 for axis in range(2)
    )
    total = 0.0
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            window = _window(padded, row, column, out_height, out_width, strides)
            total += window.astype("float32") * kernel[row, column, :, 0].astype("float32")
    return total.astype(inputs.dtype)


def _row_gradient(phases, cotangent, row, columns, channels, strides):
    """Returns the gradient of one kernel row from one image, (columns, channels).

    Args:
        phases: `strides` arrays (padded height, columns of a phase * channels).
        cotangent: (height, width * channels).
        row: int array, of the kernel.
        columns, channels: int, of the kernel.
        strides: int.
    """
    import jax
    from jax import numpy as jnp

    height, row_size = cotangent.shape
    block = _rows_per_block(height, row_size)

    def add_block(sums, index):
        first = index * block
        rows = (block - 1) * strides + 1
        bands = [
            jax.lax.dynamic_slice_in_dim(phase, first * strides + row, rows) for phase in phases
        ]
        weights = jax.lax.dynamic_slice_in_dim(cotangent, first, block)
        totals = []
        for column, total in enumerate(sums):
            offset, phase = divmod(column, strides)
            start = offset * channels
            window = bands[phase][::strides, start : start + row_size]
            totals.append(total + window * weights)
        return tuple(totals), None

    zeros = jnp.zeros((block, row_size), "float32")
    sums, _ = jax.lax.scan(add_block, (zeros,) * columns, jnp.arange(height // block))
    return jnp.stack(sums).reshape(columns, -1, channels).sum(1)


def _rows_per_block(rows, row_size):
    """Returns the largest divisor of `rows` for which a block fits the fastest cache."""
    fitting = (block for block in range(rows, 1, -1) if block * row_size <= 2**11)
    return next((block for block in fitting if rows % block == 0), 1)


def _pad(maps, rows, columns):
    from jax import numpy as jnp

    return jnp.pad(maps, ((0, 0), rows, columns, (0, 0)))


def _window(padded, row, column, out_height, out_width, strides):
    """Returns the inputs that one tap multiplies."""
    return padded[
        :,
        row : row + (out_height - 1) * strides + 1 : strides,
        column : column + (out_width - 1) * strides + 1 : strides,
    ]
