"""Depthwise convolution as a sum of shifted products, for JAX on CPU.

The input's gradient is the same stencil with the kernel flipped; the kernel's is one
reduction per tap. Both are written out, since the automatic gradient is slow: it pads
and adds a whole map per tap.

Arrays are JAX arrays; shapes are those of `keras_spm.backend.depthwise_conv2d`. Sums
are taken in float32, as a convolution takes them in half precision.
"""


def forward(inputs, kernel, strides, padding):
    """Returns the convolution."""
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
    phases = []
    for row in range(strides):
        for column in range(strides):
            taps = kernel[row::strides, column::strides][::-1, ::-1]
            padded = _pad(
                cotangent,
                (taps.shape[0] - 1, rows - cotangent.shape[1]),
                (taps.shape[1] - 1, columns - cotangent.shape[2]),
            )
            phases.append(forward(padded, taps, strides=1, padding=0))
    phases = jnp.stack(phases, axis=3)
    gradient = phases.reshape(batch, rows, columns, strides, strides, channels).swapaxes(2, 3)
    gradient = gradient.reshape(batch, rows * strides, columns * strides, channels)
    return gradient[:, padding : padding + height, padding : padding + width]


def kernel_gradient(inputs, kernel, cotangent, strides, padding):
    """Returns the gradient of the kernel.

    Image by image, so that the maps of one image stay in cache for all the taps; row by
    row of the kernel, as unrolled taps are slow to compile.
    """
    import jax
    from jax import numpy as jnp

    _, out_height, out_width, channels = cotangent.shape
    rows, columns = kernel.shape[:2]

    def add_image(total, image):
        padded, cotangent = (array[None].astype("float32") for array in image)

        def one_row(row):
            band = jax.lax.dynamic_slice_in_dim(padded, row, padded.shape[1] - rows + 1, axis=1)
            windows = (
                _window(band, 0, column, out_height, out_width, strides)
                for column in range(columns)
            )
            return jnp.stack([jnp.sum(window * cotangent, (0, 1, 2)) for window in windows])

        return total + jax.lax.map(one_row, jnp.arange(rows)), None

    start = jnp.zeros((rows, columns, channels), "float32")
    padded = _pad(inputs, (padding, padding), (padding, padding))
    total, _ = jax.lax.scan(add_image, start, (padded, cotangent))
    return total[..., None].astype(kernel.dtype)


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
