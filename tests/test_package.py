"""Public names, and errors for a missing backend."""

import os
import subprocess
import sys

import pytest

import keras_spm

pytestmark = pytest.mark.only("torch")  # The tests start processes with their own backend.


def _python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_public_names():
    assert keras_spm.__all__ == [
        "ImageClassifier",
        "InstanceSegmenter",
        "MiT",
        "MiTSPM",
        "ObjectDetector",
        "PVT",
        "PVTSPM",
        "PVTv2",
        "PVTv2SPM",
        "SemanticSegmenter",
        "Swin",
        "SwinSPM",
        "backbones",
        "callbacks",
        "compare",
        "converters",
        "data",
        "data_parallel",
        "export",
        "fuse",
        "heads",
        "layers",
        "list_layouts",
        "list_presets",
        "load_torch_weights",
        "losses",
        "metrics",
        "optimizers",
        "presets",
        "spm_only",
        "tasks",
        "to_torch_state_dict",
        "trainer",
        "transplant",
        "upload_preset",
        "visualize",
        "weights",
    ]
    assert keras_spm.__all__ == sorted(keras_spm.__all__)
    assert all(hasattr(keras_spm, name) for name in keras_spm.__all__)
    assert keras_spm.layers.__all__ == [
        "BatchNormalization",
        "ClassTokenStage",
        "Conv2D",
        "ConvolutionalMLP",
        "Dense",
        "DepthwiseConv2D",
        "DropPath",
        "GatedMerging",
        "GuidedLocalEnhancement",
        "ImageNormalization",
        "LayerNormalization",
        "MLP",
        "MultiScaleAggregation",
        "OverlappingPatchEmbedding",
        "PatchEmbedding",
        "PatchMerging",
        "PositionEmbedding",
        "SpatialReductionAttention",
        "Stage",
        "StepwisePatchMerging",
        "TransformerBlock",
        "WindowAttention",
        "macs",
    ]


HIDE = """
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {hidden} else real(name, *rest)
import keras_spm
"""


@pytest.mark.parametrize(
    ("hidden", "chosen", "message"),
    [
        ({"tensorflow"}, "tensorflow", "KERAS_BACKEND=jax, which is installed"),
        ({"tensorflow", "jax", "torch"}, "tensorflow", "install another backend"),
        ({"jax"}, "jax", "the environment variable KERAS_BACKEND"),
        (set(), "numpy", "supports the Keras backends tensorflow, jax, torch"),
    ],
)
def test_missing_backend_error(hidden, chosen, message):
    process = _python(HIDE.format(hidden=hidden or {""}), KERAS_BACKEND=chosen)
    assert process.returncode == 1
    assert message in process.stderr.splitlines()[-1]
    assert "keras/src" not in process.stderr


def test_backend_of_the_configuration_file(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "tensorflow"}')
    code = HIDE.format(hidden={"tensorflow"})
    process = _python(code, KERAS_BACKEND="", KERAS_HOME=str(tmp_path))
    assert "keras.json" in process.stderr.splitlines()[-1]
