"""Depthwise convolution as a sum of shifted products, for JAX on CPU.

The input's gradient is the same stencil with the kernel flipped; the kernel's is one
reduction per tap. Both are written out, since the automatic gradient is slow: it pads
and adds a whole map per tap.

Arrays are JAX arrays; shapes are those of `keras_spm.backend.depthwise_conv2d`. Sums
are taken in float32, as a convolution takes them in half precision.
"""


def forward(inputs, kernel, strides, padding):
    """Returns the convolution.

    Image by image, as a loop of its own: XLA would otherwise compute the whole sum anew in
    every operation that reads it.
    """
    import jax

    def of_image(image):
        return _sum_of_taps(image[None], kernel, strides, padding)[0]

    return jax.lax.map(of_image, inputs)


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


def input_gradient(inputs, kernel, cotangent, strides, padding):
    """Returns the gradient of the inputs.

    Input pixels fall into strides * strides phases. Each phase meets its own subset of
    taps, and its gradient is a convolution of stride 1 with that subset flipped.
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
        # Neighboring columns lie next to each other where phases are joined by channel.
        bands.append(jnp.concatenate(phases, axis=-1).reshape(batch, rows, -1))
    gradient = jnp.stack(bands, axis=2)
    gradient = gradient.reshape(batch, rows * strides, columns * strides, channels)
    return gradient[:, padding : padding + height, padding : padding + width]


def kernel_gradient(inputs, kernel, cotangent, strides, padding):
    """Returns the gradient of the kernel.

    Image by image, so that the maps of one image stay in cache for all the taps; row by
    row of the kernel, as unrolled taps are slow to compile. The products of a tap are
    added up map row by map row, with all columns and channels side by side, and then
    once over the columns: XLA on CPU makes a sum over all positions channel by channel.
    """
    import jax
    from jax import numpy as jnp

    rows, columns, channels, _ = kernel.shape

    def add_image(total, image):
        padded, cotangent = (array.astype("float32") for array in image)

        def one_row(row):
            return _taps_gradient(padded, cotangent, row, columns, strides)

        return total + jax.lax.map(one_row, jnp.arange(rows)), None

    start = jnp.zeros((rows, columns, channels), "float32")
    padded = _pad(inputs, (padding, padding), (padding, padding))
    total, _ = jax.lax.scan(add_image, start, (padded, cotangent))
    return total[..., None].astype(kernel.dtype)


def _taps_gradient(padded, cotangent, row, columns, strides):
    """Returns the gradient of one row of the kernel's taps by one image."""
    import jax
    from jax import numpy as jnp

    out_height, out_width, channels = cotangent.shape
    block = _rows_at_once(out_height, out_width * channels)

    def add_block(sums, index):
        first = index * block
        band = jax.lax.dynamic_slice_in_dim(
            padded, first * strides + row, (block - 1) * strides + 1
        )
        weights = jax.lax.dynamic_slice_in_dim(cotangent, first, block)
        windows = (
            _window(band[None], 0, column, block, out_width, strides)[0]
            for column in range(columns)
        )
        return tuple(
            total + window * weights for total, window in zip(sums, windows, strict=True)
        ), None

    zeros = jnp.zeros((block, out_width, channels), "float32")
    sums, _ = jax.lax.scan(add_block, (zeros,) * columns, jnp.arange(out_height // block))
    return jnp.stack([jnp.sum(total, (0, 1)) for total in sums])


def _rows_at_once(rows, row_size):
    """Returns the largest divisor of `rows` that keeps a block in the fast cache."""
    fitting = (block for block in range(rows, 1, -1) if block * row_size <= 2**14)
    return next((block for block in fitting if rows % block == 0), 1)


def _pad(maps, rows, columns):
    from jax import numpy as jnp

    return jnp.pad(maps, ((0, 0), rows, columns, (0, 0)))


def _window(padded, row, column, out_height, out_width, strides):
    """What one tap meets."""
    return padded[
        :,
        row : row + (out_height - 1) * strides + 1 : strides,
        column : column + (out_width - 1) * strides + 1 : strides,
    ]
