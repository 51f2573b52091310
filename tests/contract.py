"""What every backbone and task must hold on every backend. A new model is one more row.

Tolerances are for float32 on CPU: 1e-5 between two orders of the same sums.
"""

import functools

import keras
import numpy as np
import pytest
import torch

from keras_spm import ImageClassifier
from keras_spm import ObjectDetector
from keras_spm import SemanticSegmenter
from keras_spm import fuse
from tests import golden
from tests.helpers import difference
from tests.helpers import gradients
from tests.helpers import random_array
from tests.helpers import randomize
from tests.helpers import to_numpy

TOLERANCE = 1e-5
DEAD = 1e-5  # What rounding leaves of a gradient that is zero, as a share of the largest.


def _of_golden(name, **own):
    # The second block of a stage is the last that differs from those before: Swin's shift windows.
    return lambda **arguments: golden.backbone(name, depths=(2, 1, 1, 1), **own, **arguments)


# name → function (**constructor arguments) → model
BACKBONES = {
    "PVT-dense": _of_golden("pvt", class_token=False),
    "PVTSPM": _of_golden("pvt_spm"),
    "PVTv2": _of_golden("pvt_v2"),
    "PVTv2-linear": _of_golden("pvt_v2_li"),
    "PVTv2SPM": _of_golden("pvt_v2_spm"),
    "PVTv2SPM-msa": _of_golden("pvt_v2_spm", merging="msa"),
    "PVTv2SPM-gle": _of_golden("pvt_v2_spm", merging="gle"),
    "Swin": _of_golden("timm_swin"),
    "SwinSPM": _of_golden("swin_spm"),
}

TASKS = {
    "ImageClassifier": lambda **arguments: ImageClassifier(
        golden.short_backbone("pvt_v2", **arguments), 7, class_names=list("abcdefg")
    ),
    "ObjectDetector": lambda **arguments: ObjectDetector(
        golden.short_backbone("pvt_v2", **arguments), 7, None, "xyxy", 8, 8, num_convs=1
    ),
    "SemanticSegmenter": lambda **arguments: SemanticSegmenter(
        golden.short_backbone("pvt_v2", **arguments), 7, pyramid_channels=8, head_channels=8
    ),
}

MODELS = {**BACKBONES, **TASKS}

# Those with batch normalizations to fold, and one that has none.
FUSED = {
    **{name: build for name, build in BACKBONES.items() if "SPM" in name or name == "PVTv2"},
    **{name: functools.partial(build, merging="spm") for name, build in TASKS.items()},
}

# PyTorch's compiler takes half a minute and more for each: one for each kind of layer.
COMPILED = (
    ("PVTSPM", "PVTv2-linear", "Swin", *TASKS) if keras.config.backend() == "torch" else MODELS
)

# One for each kind of block.
CHECKPOINTED = ("PVT-dense", "PVTv2", "PVTv2-linear", "Swin")

# Where the variables of tasks lie, beside their backbone's.
HEADS = ("head/", "feature_pyramid/")

# One shape for whatever needs no other: programs of the same shape are compiled once.
USUAL = (3, 64, 64)

SIZES = ((32, 32), (33, 33), (97, 50))


def images(batch, height, width, seed=0):
    """Raw pixels, as floats."""
    pixels = np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3))
    return pixels.astype("float32")


def flat(model):
    """The model with its output in one tensor; of a detector, what it learns by."""
    if not isinstance(model, ObjectDetector):
        return model
    join = keras.layers.Concatenate(axis=-1, dtype="float32")
    return keras.Model(model.input, join([model.output["logits"], model.output["deltas"]]))


def check_interface(build):
    """All backbones are asked for the same things by the same names."""
    model = build()
    channels = [shape[-1] for shape in (each.shape for each in model.pyramid_outputs.values())]
    assert list(model.pyramid_outputs) == list(model.pyramid_level_inputs)
    assert list(model.pyramid_outputs) == ["P2", "P3", "P4", "P5"]
    for level, name in model.pyramid_level_inputs.items():
        assert model.get_layer(name).output is model.pyramid_outputs[level]
    assert model.output.shape == (None, None, None, channels[-1])
    assert model.pooled_output.shape == (None, channels[-1])
    assert model.image_shape == (None, None, 3)
    first = build(data_format="channels_first")
    assert first.image_shape == (3, None, None)
    assert first.output.shape == (None, channels[-1], None, None)
    assert first.pyramid_level_inputs == model.pyramid_level_inputs
    for channel, level in zip(channels, first.pyramid_outputs.values(), strict=True):
        assert level.shape == (None, channel, None, None)


def evaluated(model, batch):
    """What the model gives in evaluation, without a compiler, which takes longer here."""
    return to_numpy(flat(model)(batch))


def check_config_round_trip(build):
    """A model rebuilt from its configuration has the same configuration and variables."""
    model = build(drop_path_rate=0.1, name="original")
    again = type(model).from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert [(v.path, v.shape) for v in again.weights] == [(v.path, v.shape) for v in model.weights]


def check_keras_round_trip(build, folder):
    """Saved and loaded as `.keras`, a model gives the same numbers to the last bit."""
    model = randomize(build())
    model.save(folder / "model.keras")
    again = keras.saving.load_model(folder / "model.keras")
    assert difference(*(evaluated(each, images(*USUAL)) for each in (model, again))) == 0


def check_eager_equals_compiled(build):
    model = flat(randomize(build()))
    if keras.config.backend() == "torch":
        # After eight models it would leave Keras's step as it is, and say so to the log only.
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        if hasattr(model, "pyramid_outputs"):
            # It takes half a second a layer. Two stages have one of each kind.
            model = keras.Model(model.input, model.pyramid_outputs["P3"])
    # A size at which everything is padded.
    batch = images(2, 97, 50) if keras.config.backend() == "torch" else images(*USUAL)
    eager = to_numpy(model(batch))
    scale = np.abs(eager).max()
    # On torch this is torch.compile, elsewhere XLA or TensorFlow's graph.
    model.compile(jit_compile="auto" if keras.config.backend() == "tensorflow" else True)
    compiled = model.predict(batch, verbose=0)
    assert difference(eager, compiled) <= TOLERANCE * max(scale, 1)
    if keras.config.backend() == "torch":
        # One graph: where it breaks, the compiler gains little and takes many times as long.
        assert not torch._dynamo.utils.counters["graph_break"]


def check_mixed_precision(build, policy, compute_dtype):
    """Half precision gives finite maps of that dtype, and float32 variables."""
    model = build(dtype=policy)
    outputs = evaluated(model, images(*USUAL))
    assert outputs.dtype == ("float32" if hasattr(model, "backbone") else compute_dtype)
    assert np.isfinite(outputs.astype("float32")).all()
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    again = type(model).from_config(model.get_config())
    assert getattr(again, "backbone", again).dtype_policy.name == policy
    assert [layer.dtype_policy.name for layer in again._flatten_layers()] == [
        layer.dtype_policy.name for layer in model._flatten_layers()
    ]


def check_gradients(build):
    """Every parameter learns, but for those that a layer declares dead in training."""
    model = randomize(build())
    batch = images(*USUAL)
    cotangent = random_array(*flat(model).compute_output_shape(batch.shape), seed=1) / 10
    outputs, by_path, _ = gradients(flat(model), batch, cotangent)
    assert np.isfinite(outputs).all()
    dead = {variable.path for variable in _zero_gradient_variables(model)}
    sizes = {path: np.abs(gradient).max() for path, gradient in by_path.items()}
    assert np.isfinite(list(sizes.values())).all(), sizes
    largest = max(sizes.values())
    for path, size in sizes.items():
        assert (size <= DEAD * largest) == (path in dead), (path, size, largest)


def check_rows_are_independent(build):
    """In evaluation a row alone gives what it gives in a batch."""
    model = randomize(build())
    batch = images(*USUAL)
    together = evaluated(model, batch)
    alone = evaluated(model, batch[1:2])
    assert difference(together[1:2], alone) <= TOLERANCE * max(np.abs(together).max(), 1)


def check_sizes(build):
    """One model serves any size: Pn has ceil(size / 2**n), as a model of that size has."""
    model = _pyramid(randomize(build()))
    for height, width in SIZES:
        maps = model.predict(images(1, height, width) / 255, verbose=0)
        for level in range(2, 6):
            expected = tuple(-(-size // 2**level) for size in (height, width))
            assert maps[f"P{level}"].shape[1:3] == expected
            assert np.isfinite(maps[f"P{level}"]).all()


def _pyramid(backbone):
    return keras.Model(backbone.input, backbone.pyramid_outputs)


def check_static_equals_dynamic(build):
    """A model of one fixed, odd size gives what the model of any size gives there."""
    height, width = SIZES[-1]
    batch = images(1, height, width) / 255
    dynamic = randomize(build())
    static = randomize(build(image_shape=(height, width, 3)))
    assert static.output.shape[1:3] == (4, 2)
    expected, maps = (_pyramid(each).predict(batch, verbose=0) for each in (dynamic, static))
    for level, value in expected.items():
        assert difference(maps[level], value) <= TOLERANCE


def check_channels_first(build):
    """Images and maps in channels_first hold the numbers of channels_last."""
    last, first = (
        randomize(build(data_format=data_format))
        for data_format in ("channels_last", "channels_first")
    )
    batch = images(*USUAL)
    expected = evaluated(last, batch)
    outputs = evaluated(first, batch.transpose(0, 3, 1, 2))
    if not hasattr(last, "backbone"):
        outputs = outputs.transpose(0, 2, 3, 1)
    assert difference(outputs, expected) <= TOLERANCE * max(np.abs(expected).max(), 1)


def check_freezing(build):
    """What is frozen has no trainable variable, batch normalization included."""
    model = build()
    everything = {variable.path for variable in model.trainable_variables}
    later = {path for path in everything if path.startswith(("stage4/", "norm/", *HEADS))}
    model.freeze(3)
    assert later and {variable.path for variable in model.trainable_variables} == later
    again = type(model).from_config(model.get_config())
    assert {variable.path for variable in again.trainable_variables} == later
    model.freeze(4)
    head = {path for path in later if path.startswith(HEADS)}
    assert {variable.path for variable in model.trainable_variables} == head
    model.freeze(0, batch_normalization=True)
    again = type(model).from_config(model.get_config())
    for each in model, again:
        norms = everything - {variable.path for variable in each.trainable_variables}
        assert norms == {path for path in everything if _is_of_batch_normalization(path)}
    model.freeze(0)
    assert {variable.path for variable in model.trainable_variables} == everything


def _is_of_batch_normalization(path):
    return path.startswith("stage") and path.endswith(
        tuple(
            f"{name}/{variable}"
            for name in ("multi_scale_aggregation/norm", "guided_local_enhancement/guide_norm")
            for variable in ("gamma", "beta")
        )
    )


def check_fusion(build, folder):
    """A fused model computes the same, before and after its way through a file."""
    model = randomize(build())
    before = [to_numpy(variable) for variable in model.weights]
    batch = images(*USUAL)
    expected = evaluated(model, batch)
    fused = fuse(model)
    assert type(fused) is type(model) and not _batch_normalizations(fused)
    outputs = evaluated(fused, batch)
    assert difference(outputs, expected) <= TOLERANCE * max(np.abs(expected).max(), 1)
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


def _batch_normalizations(model):
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def check_gradient_checkpointing(build):
    """What is computed again gives the same gradients."""
    results = []
    for gradient_checkpointing in (False, True):
        model = randomize(build(gradient_checkpointing=gradient_checkpointing))
        batch = images(*USUAL)
        cotangent = random_array(*model.compute_output_shape(batch.shape), seed=1) / 10
        results.append(gradients(model, batch, cotangent))
    (outputs, by_path, by_input), (again, by_path_again, by_input_again) = results
    pairs = [(outputs, again), (by_input, by_input_again)]
    pairs += [(by_path[path], by_path_again[path]) for path in by_path]
    for value, other in pairs:
        assert difference(value, other) <= TOLERANCE * max(np.abs(value).max(), 1)


def _zero_gradient_variables(model):
    for layer in model._flatten_layers():
        yield from getattr(layer, "zero_gradient_variables", ())
