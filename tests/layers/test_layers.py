"""Single layers against PyTorch's layers and closed forms."""

import keras
import numpy as np
import pytest
import torch

from keras_spm import layers
from keras_spm.backend import chunked, resize_on_host
from keras_spm.layers.spatial_reduction_attention import adaptive_average_pooling
from tests.helpers import (
    difference,
    gradients,
    gradients_at_once_and_by_image,
    random_array,
    randomize,
    to_numpy,
)


@pytest.mark.parametrize(
    ("kernel_size", "strides", "size"),
    [
        *((kernel_size, 1, (9, 12)) for kernel_size in (3, 5, 7, 9)),
        *((kernel_size, 2, (9, 12)) for kernel_size in (3, 7)),
        *((kernel_size, 2, (12, 7)) for kernel_size in (3, 9)),
        (5, 3, (12, 7)),
    ],
)
def test_depthwise_convolution_equals_pytorch(kernel_size, strides, size):
    _check_convolution(layers.DepthwiseConv2D(kernel_size, strides), (2, *size, 5), groups=5)


@pytest.mark.parametrize(
    ("channels", "kernel_size", "strides"), [(5, 3, 1), (5, 3, 2), (130, 3, 1), (128, 5, 1)]
)
def test_convolution_equals_pytorch(channels, kernel_size, strides):
    """On JAX, wide kernels have a gradient of their own."""
    layer = layers.Conv2D(6, kernel_size, strides, padding=kernel_size // 2)
    _check_convolution(layer, (2, 9, 12, channels))


def _check_convolution(layer, shape, groups=1):
    maps = random_array(*shape)
    layer.build(maps.shape)
    randomize(layer)
    kernel, bias = (torch.tensor(to_numpy(v), requires_grad=True) for v in layer.weights)
    inputs = torch.tensor(maps, requires_grad=True)
    expected = torch.nn.functional.conv2d(
        inputs.permute(0, 3, 1, 2),
        kernel.permute(2, 3, 0, 1) if groups > 1 else kernel.permute(3, 2, 0, 1),
        bias,
        stride=layer.strides,
        padding=layer.explicit_padding,
        groups=groups,
    ).permute(0, 2, 3, 1)
    cotangent = random_array(*expected.shape, seed=1)
    (expected * torch.tensor(cotangent)).sum().backward()

    outputs, by_path, by_input = gradients(layer, maps, cotangent)
    assert layer.compute_output_shape(maps.shape) == outputs.shape
    for found, reference in (
        (outputs, expected.detach()),
        (by_input, inputs.grad),
        *zip(by_path.values(), (kernel.grad, bias.grad), strict=True),
    ):
        assert difference(found, reference) <= 2e-6 * float(reference.abs().max())


@pytest.mark.only("jax")
@pytest.mark.parametrize("step", ["forward", "gradient"])
def test_depthwise_convolution_is_lowered_by_platform(step):
    import jax

    layer = layers.DepthwiseConv2D(9)
    layer.build((1, 16, 16, 8))
    variables = [variable.value for variable in layer.weights]

    def forward(maps, variables):
        return layer.stateless_call(variables, [], maps)[0]

    def gradient(maps, variables):
        return jax.grad(lambda *inputs: forward(*inputs).sum(), argnums=(0, 1))(maps, variables)

    function = jax.jit({"forward": forward, "gradient": gradient}[step])
    maps = jax.ShapeDtypeStruct((1, 16, 16, 8), "float32")

    def text(platform):
        return jax.export.export(function, platforms=[platform])(maps, variables).mlir_module()

    assert "stablehlo.convolution" in text("tpu")
    assert "stablehlo.convolution" in text("cuda")
    assert "stablehlo.convolution" not in text("cpu")


def test_batch_normalization_equals_pytorch():
    reference = torch.nn.BatchNorm2d(6)
    layer = layers.BatchNormalization()
    maps = random_array(3, 4, 5, 6) + 1000  # A difference of squares would lose precision.
    layer.build(maps.shape)
    for step in range(3):
        expected = reference(torch.tensor(maps + step).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        assert difference(layer(maps + step, training=True), expected.detach()) <= 1e-3
    assert difference(layer.moving_variance, reference.running_var) <= 1e-6
    assert difference(layer.moving_mean, reference.running_mean) <= 1e-3
    layer.trainable = False
    frozen = to_numpy(layer.moving_mean)
    assert difference(layer(maps, training=True), layer(maps, training=False)) == 0
    assert difference(layer.moving_mean, frozen) == 0


@pytest.mark.only("torch")
def test_gradient_of_inference_before_a_training_step():
    layer = layers.BatchNormalization()
    maps = torch.tensor(random_array(2, 3, 3, 4), requires_grad=True)
    outputs = layer(maps, training=False)
    layer(maps, training=True)  # Updates the running statistics in place.
    outputs.sum().backward()
    assert difference(maps.grad, np.full(maps.shape, 1 / np.sqrt(1 + layer.epsilon))) <= 1e-6


def test_batch_normalization_of_a_single_value_stays_finite():
    layer = layers.BatchNormalization()
    assert np.isfinite(to_numpy(layer(random_array(1, 1, 1, 4), training=True))).all()
    assert np.isfinite(to_numpy(layer.moving_variance)).all()


@pytest.mark.only("tensorflow", "torch")
def test_batch_normalization_trains_in_float64():
    layer = layers.BatchNormalization(momentum=0.0, dtype="float64")
    maps = random_array(4, 3, 3, 2).astype("float64")
    outputs = to_numpy(layer(maps, training=True))
    mean, variance = maps.mean((0, 1, 2)), maps.var((0, 1, 2), ddof=1)
    assert difference(layer.moving_mean, mean) <= 1e-6
    assert difference(layer.moving_variance, variance) <= 1e-6
    expected = (maps - mean) / np.sqrt(maps.var((0, 1, 2)) + layer.epsilon)
    assert outputs.dtype == "float64" and difference(outputs, expected) <= 1e-5


def test_layer_normalization_equals_pytorch():
    layer = layers.LayerNormalization(epsilon=1e-6)
    maps, cotangent = random_array(3, 4, 5, 6) * 2 + 10, random_array(3, 4, 5, 6, seed=1)
    layer.build(maps.shape)
    randomize(layer)
    inputs, gamma, beta = (
        torch.tensor(to_numpy(each), requires_grad=True) for each in (maps, layer.gamma, layer.beta)
    )
    expected = torch.nn.functional.layer_norm(inputs, (6,), gamma, beta, 1e-6)
    (expected * torch.tensor(cotangent)).sum().backward()
    outputs, by_path, by_input = gradients(layer, maps, cotangent)
    assert difference(outputs, expected.detach()) <= 1e-5
    by_path = {path.rsplit("/")[-1]: gradient for path, gradient in by_path.items()}
    for gradient, of in (by_input, inputs), (by_path["gamma"], gamma), (by_path["beta"], beta):
        assert difference(gradient, of.grad) <= 1e-5
    with pytest.raises(ValueError, match=r"axis=\[?1"):
        layers.LayerNormalization(axis=1)


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    layer = layers.DropPath(0.25, seed=1)
    inputs = np.ones((4000, 2, 2, 1), "float32")
    outputs = to_numpy(layer(inputs, training=True))
    per_example = outputs.reshape(4000, -1)
    assert (per_example == per_example[:, :1]).all()
    assert np.allclose(np.unique(per_example), [0, 1 / 0.75])
    assert abs((per_example[:, 0] == 0).mean() - 0.25) < 0.03  # 4 standard deviations
    assert difference(layer(inputs), inputs) == 0
    with pytest.raises(ValueError, match="rate=1"):
        layers.DropPath(1)


@pytest.mark.parametrize("size", [(7, 7), (14, 14), (1, 3), (9, 20), (56, 5)])
def test_adaptive_average_pooling_equals_pytorch(size):
    maps = random_array(2, *size, 3)
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(maps).permute(0, 3, 1, 2), 7)
    assert difference(adaptive_average_pooling(maps, 7), expected.permute(0, 2, 3, 1)) <= 1e-6


@pytest.mark.parametrize("size", [(4, 4), (2, 8), (3, 9), (11, 6), (1, 1)])
def test_resized_position_embeddings_equal_pytorch(size):
    """A 2 x 8 map has as many positions as the grid, but another shape."""
    layer = layers.PositionEmbedding((4, 4))
    maps = random_array(2, *size, 3)
    layer.build(maps.shape)
    randomize(layer)
    expected = torch.nn.functional.interpolate(
        torch.tensor(to_numpy(layer.embedding)).permute(2, 0, 1)[None], size, mode="bilinear"
    )
    assert difference(to_numpy(layer(maps)) - maps, expected.permute(0, 2, 3, 1)) <= 1e-6


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (5, 3)])
def test_incomplete_patches_are_padded_with_zeros(size):
    """Patch embedding and merging equal PyTorch's on a padded map."""
    maps = random_array(2, *size, 3)

    def padded(multiple):
        bottom, right = (-length % multiple for length in size)
        return torch.nn.functional.pad(torch.tensor(maps), (0, 0, 0, right, 0, bottom))

    embedding = layers.PatchEmbedding(6, 4)
    embedding.build(maps.shape)
    kernel, bias, *_ = (torch.tensor(to_numpy(v)) for v in randomize(embedding).weights)
    expected = torch.nn.functional.conv2d(
        padded(4).permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias, stride=4
    )
    gamma, beta = (torch.tensor(to_numpy(v)) for v in embedding.norm.weights)
    expected = torch.nn.functional.layer_norm(expected.permute(0, 2, 3, 1), (6,), gamma, beta, 1e-5)
    assert embedding.compute_output_shape(maps.shape) == tuple(expected.shape)
    assert difference(embedding(maps), expected) <= 1e-5

    merging = layers.PatchMerging(5)
    merging.build(maps.shape)
    gamma, beta, kernel = (torch.tensor(to_numpy(v)) for v in randomize(merging).weights)
    whole = padded(2)
    columns_first = [whole[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    expected = torch.nn.functional.layer_norm(torch.cat(columns_first, -1), (12,), gamma, beta)
    assert merging.compute_output_shape(maps.shape) == (*expected.shape[:-1], 5)
    assert difference(merging(maps), expected @ kernel) <= 1e-5


@pytest.mark.parametrize("size", [(2, 3), (27, 28)])
def test_attention_equals_pytorch(size):
    """On the larger map JAX computes two blocks of queries of different sizes."""
    layer = layers.SpatialReductionAttention(2)
    maps = random_array(2, *size, 8)
    layer.build(maps.shape)
    randomize(layer)
    weights = [torch.tensor(to_numpy(v), requires_grad=True) for v in layer.weights]
    query, query_bias, key_value, key_value_bias, kernel, bias = weights
    inputs = torch.tensor(maps, requires_grad=True)
    flat = inputs.flatten(1, 2)
    key, value = (flat @ key_value + key_value_bias).chunk(2, -1)
    query, key, value = (
        array.unflatten(-1, (2, 4)).transpose(1, 2)
        for array in (flat @ query + query_bias, key, value)
    )
    mixed = (query @ key.mT / 2).softmax(-1) @ value
    expected = (mixed.transpose(1, 2).flatten(2) @ kernel + bias).unflatten(1, size)
    cotangent = random_array(*expected.shape, seed=1)
    (expected * torch.tensor(cotangent)).sum().backward()

    outputs, by_path, by_input = gradients(layer, maps, cotangent)
    assert difference(outputs, expected.detach()) <= 1e-5
    assert difference(by_input, inputs.grad) <= 1e-5 * float(inputs.grad.abs().max())
    for gradient, weight in zip(by_path.values(), weights, strict=True):
        assert difference(gradient, weight.grad) <= 1e-5 * max(float(weight.grad.abs().max()), 1)


def _reference_window_attention(layer, maps):
    """Window attention of one image, one query at a time, in float64."""
    window, heads = layer.window_size, layer.num_heads
    _, height, width, channels = maps.shape
    rows, columns = -(-height // window) * window, -(-width // window) * window
    shift = window // 2 if layer.shifted and min(height, width) > window else 0
    whole = np.zeros((rows, columns, channels))
    whole[:height, :width] = maps[0]
    (kernel, bias), (out_kernel, out_bias) = (
        [to_numpy(v).astype("float64") for v in part.weights]
        for part in (layer.qkv, layer.projection)
    )
    table = to_numpy(layer.relative_position_bias_table)
    query, key, value = np.split(whole @ kernel + bias, 3, axis=-1)
    size = channels // heads

    def group(row, column):
        """Returns the group of a position: positions attend to their own group."""
        moved = (row - shift) % rows, (column - shift) % columns
        wrapped = (row < shift, column < shift) if shift else ()
        return moved[0] // window, moved[1] // window, wrapped

    outputs = np.zeros((height, width, channels))
    positions = [(row, column) for row in range(rows) for column in range(columns)]
    for row in range(height):
        for column in range(width):
            seen = [each for each in positions if group(*each) == group(row, column)]
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                scores = []
                for other in seen:
                    # Offsets in the rolled map.
                    down = (row - shift) % rows - (other[0] - shift) % rows
                    right = (column - shift) % columns - (other[1] - shift) % columns
                    offset = (down + window - 1) * (2 * window - 1) + right + window - 1
                    product = query[row, column, part] @ key[(*other, part)]
                    scores.append(product / np.sqrt(size) + table[offset, head])
                weights = np.exp(scores - np.max(scores))
                values = np.array([value[(*other, part)] for other in seen])
                outputs[row, column, part] = weights @ values / weights.sum()
    return outputs @ out_kernel + out_bias


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("size", "window"), [((8, 12), 4), ((7, 9), 3), ((7, 9), 4), ((5, 4), 3), ((2, 3), 3)]
)
def test_window_attention_equals_its_definition(shifted, window, size):
    layer = layers.WindowAttention(2, window, shifted)
    maps = random_array(1, *size, 4)
    layer.build(maps.shape)
    randomize(layer)
    assert difference(layer(maps), _reference_window_attention(layer, maps)[None]) <= 1e-5


def test_invalid_arguments_of_attention():
    with pytest.raises(ValueError, match="num_heads=3, channels=8"):
        layers.WindowAttention(3).build((1, 8, 8, 8))
    with pytest.raises(ValueError, match="num_heads=3, channels=8"):
        layers.SpatialReductionAttention(3).build((1, 8, 8, 8))
    with pytest.raises(ValueError, match="sr_ratio=8"):
        layers.SpatialReductionAttention(2, sr_ratio=8).build((1, 7, 16, 8))


def test_image_normalization_is_exact_in_half_precision():
    """Every pixel value is rounded only once, by the cast to bfloat16."""
    pixels = np.arange(256, dtype="uint8").reshape(1, 16, 16, 1).repeat(3, -1)
    expected = (pixels / 255 - layers.image_normalization.IMAGENET_MEAN) / (
        layers.image_normalization.IMAGENET_STD
    )
    outputs = layers.ImageNormalization(dtype="mixed_bfloat16")(pixels)
    rounded = keras.ops.cast(keras.ops.convert_to_tensor(expected.astype("float32")), "bfloat16")
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    outputs, rounded = (keras.ops.cast(value, "float32") for value in (outputs, rounded))
    # After rounding to float32, a tie may round either way.
    assert (np.abs(to_numpy(outputs) - to_numpy(rounded)) > 0).mean() <= 0.01


def test_macs_of_single_layers():
    """Counts by hand."""
    shape = (1, 8, 12, 16)
    counted = {
        "dense": (keras.layers.Dense(5), 8 * 12 * 16 * 5),
        "convolution": (keras.layers.Conv2D(5, 3, padding="same"), 8 * 12 * 9 * 16 * 5),
        "depthwise": (layers.DepthwiseConv2D(5, 2), 4 * 6 * 25 * 16),
        "embedding": (layers.OverlappingPatchEmbedding(5, 3, 2), 4 * 6 * 9 * 16 * 5),
        # 2 x 3 patches of 5 x 5; the last ones are padded.
        "patches": (layers.PatchEmbedding(5, 5), 2 * 3 * 25 * 16 * 5),
        "patch merging": (layers.PatchMerging(5), 4 * 6 * 64 * 5),
        "plain mlp": (layers.MLP(64), 96 * 2 * 16 * 64),
        # 9 x 12 positions: three windows by four.
        "windows": (layers.WindowAttention(2, 3), 108 * 4 * 16 * 16 + 2 * 108 * 9 * 16),
        "positions": (layers.PositionEmbedding((2, 2)), 0),
        "norm": (layers.BatchNormalization(), 0),
        "dropout": (keras.layers.Dropout(0.1), 0),
        "pooling": (keras.layers.MaxPooling2D(), 0),
        "grouped convolution": (layers.Conv2D(4, 3, groups=2), 6 * 10 * 9 * 8 * 4),
        "mlp": (layers.ConvolutionalMLP(64), 96 * (16 * 64 + 9 * 64 + 64 * 16)),
        # Query, key, value and projection, then both products of attention.
        "attention": (layers.SpatialReductionAttention(2), 96 * 4 * 16 * 16 + 2 * 96 * 96 * 16),
        "reduced attention": (
            layers.SpatialReductionAttention(2, sr_ratio=4),
            96 * 2 * 16 * 16 + 6 * (16 * 16 * 16 + 2 * 16 * 16) + 2 * 96 * 6 * 16,
        ),
        "linear attention": (
            layers.SpatialReductionAttention(2, linear_attention=True),
            96 * 2 * 16 * 16 + 49 * 3 * 16 * 16 + 2 * 96 * 49 * 16,
        ),
        # Four depthwise splits, the grouped map from 4 to 8, the projection.
        "aggregation": (
            layers.MultiScaleAggregation(24),
            96 * (4 * (9 + 25 + 49 + 81) + 4 * 4 * 8 + 32 * 24),
        ),
        # The guide; query, key and value of one token; both products over five tokens.
        "enhancement": (
            layers.GuidedLocalEnhancement(),
            24 * (49 * 16 + 3 * 16 * 16 + 2 * 5 * 8 * 16),
        ),
    }
    for name, (layer, expected) in counted.items():
        layer.build(shape)
        assert layers.macs(layer, shape) == expected, name
    for layer in (keras.layers.LSTM(3), keras.layers.Dot(1)):
        with pytest.raises(TypeError, match=type(layer).__name__):
            layers.macs(layer, shape)


@pytest.mark.parametrize("training", [True, False])
def test_mlp_image_by_image(training, monkeypatch):
    layer = layers.ConvolutionalMLP(8)
    maps = random_array(3, 5, 4, 6)
    layer.build(maps.shape)
    randomize(layer)
    cotangent = random_array(*maps.shape, seed=1)
    results = gradients_at_once_and_by_image(layer, maps, cotangent, training, monkeypatch)
    (outputs, by_path, by_input), (other_outputs, other_by_path, other_by_input) = results
    assert difference(outputs, other_outputs) <= 1e-5
    assert difference(by_input, other_by_input) <= 1e-5
    for path, gradient in by_path.items():
        assert difference(gradient, other_by_path[path]) <= 1e-5, path


@pytest.mark.only("jax")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ConvolutionalMLP", {"hidden_dim": 16}),
        ("GuidedLocalEnhancement", {"num_heads": 2}),
        ("SpatialReductionAttention", {"num_heads": 2, "sr_ratio": 2}),
        ("DepthwiseConv2D", {"kernel_size": 3}),
        ("Conv2D", {"filters": 2, "kernel_size": 3}),
    ],
)
def test_operations_are_compiled_once(name, arguments, monkeypatch, caplog):
    """Also by calls outside of a compiled program."""
    import jax

    layer = getattr(layers, name)(**arguments)
    monkeypatch.setattr(chunked, "_MIN_BYTES", 0)
    compilations = []
    for seed in range(2):
        caplog.clear()
        with jax.log_compiles():
            layer(random_array(7, 6, 10, 8, seed=seed))  # A size that no other test has.
        compilations.append(caplog.messages.copy())
    assert compilations[0]
    assert not compilations[1]


def test_gradient_checkpointing_drops_the_same_branches():
    results = []
    for gradient_checkpointing in (False, True):
        keras.utils.set_random_seed(0)
        block = layers.TransformerBlock(
            layers.MLP(8), layers.MLP(8), 0.5, gradient_checkpointing=gradient_checkpointing
        )
        maps = random_array(16, 2, 2, 4)
        block.build(maps.shape)
        randomize(block)
        results.append(gradients(block, maps, random_array(*maps.shape, seed=1)))
    (outputs, by_path, by_input), (again, by_path_again, by_input_again) = results
    assert difference(outputs, again) <= 1e-5
    assert difference(by_input, by_input_again) <= 1e-5
    for gradient, other in zip(by_path.values(), by_path_again.values(), strict=True):
        assert difference(gradient, other) <= 1e-5 * max(np.abs(gradient).max(), 1)
    # Some branches are dropped and some are not.
    unchanged = [(row == same).all() for row, same in zip(outputs, maps, strict=True)]
    assert 0 < sum(unchanged) < len(unchanged)


@pytest.mark.parametrize("size", [(7, 12), (3, 2), (5, 4)])
def test_resizing_on_the_host_equals_pytorch(size):
    maps = random_array(5, 4, 3)
    expected = torch.nn.functional.interpolate(
        torch.tensor(maps).permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    assert difference(resize_on_host(maps, size), expected) <= 1e-6
