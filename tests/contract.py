"""The properties that every backbone and task must have on every backend.

A new model is one more row. `FULL` has one model for each kind of layer; the other models differ
in how the same layers are combined, so they are checked by the cheap properties here and by
their reference vectors. Tolerances are those of float32 on CPU: 1e-5 between two orders of the
same sums.
"""

import functools
import math

import keras
import numpy as np
import pytest
import torch

import keras_spm
from keras_spm import fuse
from tests import golden
from tests.helpers import difference, gradients, outputs_of, random_array, randomize, to_numpy

TOLERANCE = 1e-5
ZERO = 1e-5  # What rounding leaves of a gradient that is zero, as a share of the largest.
# Relative rounding of half precision, accumulated over a network of this depth.
HALF_PRECISION = {"bfloat16": 0.05, "float16": 0.01}


def _of_golden(name, **own):
    # Two blocks in one stage: Swin shifts the windows of every second block.
    return lambda **arguments: golden.two_stage_backbone(name, **own, **arguments)


def _mit(**arguments):
    stages = {"embed_dims": (16, 32), "depths": (2, 1), "num_heads": (1, 2), "mlp_ratios": (4, 4)}
    return keras_spm.MiT(**{**stages, "sr_ratios": (4, 1), **arguments})


# name → function (**constructor arguments) → model
BACKBONES = {
    "MiT": _mit,
    "PVT-dense": _of_golden("pvt", class_token=False),
    "PVTSPM": _of_golden("pvt_spm"),
    "PVTv2": _of_golden("pvt_v2"),
    "PVTv2-linear": _of_golden("pvt_v2_li"),
    "PVTv2SPM": _of_golden("pvt_v2_spm"),
    "PVTv2SPM-msa": _of_golden("pvt_v2_spm", merging="msa"),
    "PVTv2SPM-gle": _of_golden("pvt_v2_spm", merging="gle"),
    "PVTv2-gated": _of_golden("pvt_v2", merging="default+spm"),
    "Swin": _of_golden("timm_swin"),
    "SwinSPM": _of_golden("swin_spm"),
}


def _backbone(**arguments):
    return golden.short_backbone("pvt_v2", **arguments)


TASKS = {
    "ImageClassifier": lambda **arguments: keras_spm.ImageClassifier(
        _backbone(**arguments), 7, class_names=list("abcdefg")
    ),
    "ObjectDetector": lambda **arguments: keras_spm.ObjectDetector(
        _backbone(**arguments),
        7,
        keras_spm.heads.RetinaNet(pyramid_channels=8, channels=8, num_convs=1),
    ),
    "InstanceSegmenter": lambda **arguments: keras_spm.InstanceSegmenter(
        _backbone(**arguments),
        7,
        keras_spm.heads.MaskRCNN(
            pyramid_channels=8, rpn_channels=8, box_head_channels=8, mask_head_channels=8
        ),
    ),
    "SemanticSegmenter": lambda **arguments: keras_spm.SemanticSegmenter(
        _backbone(**arguments), 7, keras_spm.heads.SemanticFPN(pyramid_channels=8, channels=8)
    ),
}

MODELS = {**BACKBONES, **TASKS}

# One model for each kind of layer: class token and position embedding, SPM, pooled keys,
# windows.
FULL = ("PVTSPM", "PVTv2-linear", "PVTv2SPM", "Swin")

# Those for what takes long to compile and depends on the layers alone, of which their reference
# vectors have all kinds on every backend.
FEW = FULL if keras.config.backend() == "torch" else ("PVTv2SPM", "Swin")

# Models with batch normalization to fold, and one without.
FUSED = {
    **{name: BACKBONES[name] for name in ("PVTv2SPM", "PVTv2SPM-msa", "PVTv2SPM-gle", "PVTv2")},
    **{name: functools.partial(build, merging="spm") for name, build in TASKS.items()},
}

# Compiled in every run.
COMPILED = ("PVTv2SPM",) if keras.config.backend() == "torch" else (*FEW, "ImageClassifier")
# Compiled before a release, on PyTorch to machine code, which takes half a minute for each model.
# The detector alone would take seven minutes.
COMPILED_FOR_RELEASE = tuple(
    name
    for name in MODELS
    if (name != "ObjectDetector" if keras.config.backend() == "torch" else name not in COMPILED)
)

# One for each kind of block.
CHECKPOINTED = ("PVTv2SPM", "Swin")

# Checks that hold for any family and any task, as those of a user.
ANY_TASK = (
    *("check_config_round_trip", "check_gradients", "check_rows_are_independent"),
    *("check_channels_first", "check_freezing"),
)
ANY_BACKBONE = (
    *("check_interface", "check_layer_groups", "check_sizes", "check_keras_round_trip"),
    *ANY_TASK,
)

# Prefixes of the variables of tasks, beside their backbone's.
HEADS = ("head/", "decoder/", "detector/")

# Layers of a two-stage detector that its losses and its decoding call, not its graph.
NOT_IN_GRAPH = ("detector/box_head/", "detector/mask_head/")

# One shape for all checks that need no other: programs of the same shape are compiled once.
USUAL = (3, 64, 64)

SIZES = ((33, 33), (97, 50))


def images(batch, height, width, seed=0):
    """Raw pixels, as floats."""
    pixels = np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3))
    return pixels.astype("float32")


def flat(model):
    """The model with its raw outputs in one tensor."""
    outputs = model.output
    if isinstance(outputs, dict):  # Of a detector: what depends on the images.
        outputs = {name: each for name, each in outputs.items() if name != "anchors"}
    outputs = keras.tree.flatten(outputs)
    if len(outputs) == 1:
        return model
    flatten = keras.layers.Flatten(dtype="float32")
    if any(None in output.shape[1:] for output in outputs):
        flatten = keras.layers.Reshape((-1,), dtype="float32")
    join = keras.layers.Concatenate(axis=-1, dtype="float32")
    return keras.Model(model.input, join([flatten(output) for output in outputs]))


def evaluated(model, batch):
    """The raw outputs in inference mode, without a compiler, which takes longer here."""
    return to_numpy(flat(model)(batch))


@functools.cache
def reference(build):
    """(model, batch, outputs) of a model with random weights. The model must not be changed."""
    model, batch = randomize(build()), images(*USUAL)
    return model, batch, evaluated(model, batch)


def check_equal(outputs, expected, tolerance=TOLERANCE):
    """The outputs differ by no more than rounding."""
    assert outputs.shape == expected.shape
    assert difference(outputs, expected) <= tolerance * max(np.abs(expected).max(), 1)


def check_interface(build):
    """Attributes of all backbones."""
    model = build()
    levels = [f"P{number}" for number in range(2, 2 + len(model.stages))]
    assert list(model.pyramid_outputs) == list(model.pyramid_level_inputs) == levels
    channels = [output.shape[-1] for output in model.pyramid_outputs.values()]
    for level, name in model.pyramid_level_inputs.items():
        assert model.get_layer(name).output is model.pyramid_outputs[level]
    assert model.output.shape == (None, None, None, channels[-1])
    assert model.pooled_output.shape == (None, channels[-1])
    assert model.image_shape == (None, None, 3)
    blocks = sum(len(stage.blocks) for stage in model.stages)
    assert len(model.layer_groups) == 1 + blocks
    first = build(data_format="channels_first")
    assert first.image_shape == (3, None, None)
    assert first.output.shape == (None, channels[-1], None, None)
    assert first.pyramid_level_inputs == model.pyramid_level_inputs
    for channel, level in zip(channels, first.pyramid_outputs.values(), strict=True):
        assert level.shape == (None, channel, None, None)


def check_layer_groups(build):
    """Every variable is in one group, except for those of norms after the stages."""
    model = build()
    grouped = [
        variable.path
        for group in model.layer_groups
        for member in group
        for variable in getattr(member, "trainable_variables", [member])
    ]
    everything = {variable.path for variable in model.trainable_variables}
    assert len(grouped) == len(set(grouped))
    assert {path for path in everything - set(grouped)} == {
        path for path in everything if path.startswith("norm")
    }


def check_config_round_trip(build):
    """A model rebuilt from its configuration has the same configuration and variables."""
    model = build(drop_path_rate=0.1, name="original")
    again = type(model).from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert [(v.path, v.shape) for v in again.weights] == [(v.path, v.shape) for v in model.weights]
    assert all(layer.built for layer in model._flatten_layers())


def check_keras_round_trip(build, folder):
    """Saved and loaded as `.keras`, a model has the same outputs, to the last bit."""
    model, batch, expected = reference(build)
    model.save(folder / "model.keras")
    again = keras.saving.load_model(folder / "model.keras")
    assert type(again) is type(model)
    assert difference(evaluated(again, batch), expected) == 0


def check_eager_equals_compiled(build, torch_backend="aot_eager"):
    """Compiled, a model has the same outputs.

    On PyTorch, `torch_backend` says what becomes of the captured graph: `"aot_eager"` runs its
    operations one by one, `"inductor"` makes machine code.
    """
    model = randomize(build())
    if keras.config.backend() == "torch":
        # After eight models it would leave Keras's step as it is, and only log it.
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
    model = flat(model)
    # A size at which everything is padded.
    batch = images(2, 97, 50) if keras.config.backend() == "torch" else images(*USUAL)
    eager = to_numpy(model(batch))
    # On torch this is torch.compile, elsewhere XLA or TensorFlow's graph.
    model.compile(jit_compile="auto" if keras.config.backend() == "tensorflow" else True)
    with pytest.MonkeyPatch.context() as patch:
        compiler = functools.partial(torch.compile, backend=torch_backend)
        patch.setattr(torch, "compile", compiler)
        check_equal(model.predict(batch, verbose=0), eager)
    if keras.config.backend() == "torch":
        # One graph: where it breaks, the compiler gains little and takes many times as long.
        breaks = dict(torch._dynamo.utils.counters["graph_break"])
        assert not breaks, breaks


def check_mixed_precision(build, policy, compute_dtype):
    """Half precision gives the outputs of float32 up to its rounding, and float32 variables."""
    expected_model, batch, expected = reference(build)
    model = randomize(build(dtype=policy))
    outputs = evaluated(model, batch)
    assert outputs.dtype == ("float32" if hasattr(model, "backbone") else compute_dtype)
    outputs = outputs.astype("float32")
    scale = np.abs(expected).max()
    assert np.isfinite(outputs).all()
    error = math.sqrt(np.square(outputs - expected).mean())
    assert error <= HALF_PRECISION[compute_dtype] * scale
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert model.dtype_policy.name == policy
    again = type(model).from_config(model.get_config())
    assert again.dtype_policy.name == policy
    assert [layer.dtype_policy.name for layer in again._flatten_layers()] == [
        layer.dtype_policy.name for layer in model._flatten_layers()
    ]


def check_gradients(build):
    """Every parameter has a gradient, except for the layers' `zero_gradient_variables`."""
    model = randomize(build())
    batch = images(*USUAL)
    flat_model = flat(model)
    cotangent = random_array(*flat_model.compute_output_shape(batch.shape), seed=1) / 10
    outputs, by_path, _ = gradients(flat_model, batch, cotangent)
    assert np.isfinite(outputs).all()
    zero = {variable.path for variable in _zero_gradient_variables(model)}
    sizes = {
        path: np.abs(gradient).max()
        for path, gradient in by_path.items()
        if not path.startswith(NOT_IN_GRAPH)
    }
    assert np.isfinite(list(sizes.values())).all(), sizes
    largest = max(sizes.values())
    for path, size in sizes.items():
        assert (size <= ZERO * largest) == (path in zero), (path, size, largest)


def check_rows_are_independent(build):
    """In inference mode, the outputs of a row do not depend on the other rows."""
    model, batch, expected = reference(build)
    others = images(*USUAL, seed=1)
    others[1] = batch[1]
    check_equal(evaluated(model, others)[1], expected[1])


def check_sizes(build):
    """One model takes any size: Pn is ceil(size / 2**n), and equal to a model of that size."""
    model, *_ = reference(build)
    pyramid = keras.Model(model.input, model.pyramid_outputs)
    for height, width in SIZES:
        maps = outputs_of(pyramid, images(1, height, width) / 255)
        for level, value in maps.items():
            stride = 2 ** int(level.removeprefix("P"))
            assert value.shape[1:3] == (-(-height // stride), -(-width // stride))
            assert np.isfinite(value).all()
    static = randomize(build(image_shape=(height, width, 3)))
    pyramid = keras.Model(static.input, static.pyramid_outputs)
    found = outputs_of(pyramid, images(1, height, width) / 255)
    for level, value in maps.items():
        check_equal(found[level], value)


def check_channels_first(build):
    """Images and maps in channels_first have the values of channels_last."""
    model, batch, expected = reference(build)
    first = randomize(build(data_format="channels_first"))
    outputs = evaluated(first, batch.transpose(0, 3, 1, 2))
    if outputs.ndim == 4 and not hasattr(model, "backbone"):
        outputs = outputs.transpose(0, 2, 3, 1)
    check_equal(outputs, expected)


def check_freezing(build):
    """Frozen layers have no trainable variables, including their batch normalization."""
    model = build()
    stages = len(getattr(model, "backbone", model).stages)
    everything = {variable.path for variable in model.trainable_variables}
    later = {path for path in everything if path.startswith((f"stage{stages}/", "norm/", *HEADS))}
    model.freeze(stages - 1)
    assert later and {variable.path for variable in model.trainable_variables} == later
    again = type(model).from_config(model.get_config())
    assert {variable.path for variable in again.trainable_variables} == later
    model.freeze()
    head = {path for path in later if path.startswith(HEADS)}
    assert {variable.path for variable in model.trainable_variables} == head
    model.freeze(0, batch_normalization=True)
    again = type(model).from_config(model.get_config())
    for each in model, again:
        norms = everything - {variable.path for variable in each.trainable_variables}
        assert norms == {
            variable.path
            for layer in _batch_normalizations(getattr(model, "backbone", model))
            for variable in (layer.gamma, layer.beta)
        }
    model.freeze(0)
    assert {variable.path for variable in model.trainable_variables} == everything


def check_fusion(build, folder):
    """A fused model has the same outputs, also after it is saved and loaded."""
    model, batch, expected = reference(build)
    before = [to_numpy(variable) for variable in model.weights]
    fused = fuse(model)
    assert type(fused) is type(model) and not _batch_normalizations(fused)
    check_equal(evaluated(fused, batch), expected)
    fused.save(folder / "fused.keras")
    again = keras.saving.load_model(folder / "fused.keras")
    assert again.get_config() == fused.get_config()
    for variable, value in zip(again.weights, fused.weights, strict=True):
        assert difference(variable, value) == 0
    assert fused.macs(batch.shape) == model.macs(batch.shape)
    for variable, value in zip(model.weights, before, strict=True):
        assert difference(variable, value) == 0
    with pytest.raises(ValueError, match="fused already"):
        fuse(fused)


def check_gradient_checkpointing(build):
    """Recomputed activations give the same gradients."""
    results = []
    for gradient_checkpointing in (False, True):
        model = randomize(build(gradient_checkpointing=gradient_checkpointing))
        batch = images(*USUAL)
        cotangent = random_array(*model.compute_output_shape(batch.shape), seed=1) / 10
        results.append(gradients(model, batch, cotangent))
    (outputs, by_path, by_input), (again, by_path_again, by_input_again) = results
    check_equal(again, outputs)
    check_equal(by_input_again, by_input)
    largest = max(np.abs(gradient).max() for gradient in by_path.values())
    zero = {variable.path for variable in _zero_gradient_variables(model)}
    for path, gradient in by_path.items():
        if path in zero:
            # Only rounding is left, which differs.
            assert difference(by_path_again[path], gradient) <= ZERO * largest
        else:
            check_equal(by_path_again[path], gradient)


def _batch_normalizations(model):
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def _zero_gradient_variables(model):
    for layer in model._flatten_layers():
        yield from getattr(layer, "zero_gradient_variables", ())
