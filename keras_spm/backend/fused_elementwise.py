"""Chains of elementwise operations and reductions in one pass over a map, under TensorFlow.

TensorFlow's graph makes a pass for every operation, into memory that the operating system
clears first. XLA makes one of them all; it is taken for these alone, as it has no good
depthwise convolution on CPU. PyTorch has the chains that matter as one operation, and JAX
compiles everything by XLA.
"""

import functools

import keras


@functools.cache
def fused_elementwise(function):
    """Returns the function; under TensorFlow one that XLA compiles, once for each shape.

    Args:
        function: of tensors, to tensors; defined once, as what is made of it is kept.
    """
    if keras.config.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, jit_compile=True, reduce_retracing=True)
