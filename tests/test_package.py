"""The package from outside: its names, what importing it loads, a missing backend."""

import os
import subprocess
import sys

import pytest

import keras_spm


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
        "ObjectDetector",
        "PVT",
        "PVTSPM",
        "PVTv2",
        "PVTv2SPM",
        "SemanticSegmenter",
        "Swin",
        "SwinSPM",
        "callbacks",
        "compare",
        "data",
        "fuse",
        "heads",
        "layers",
        "list_layouts",
        "list_presets",
        "load_torch_weights",
        "losses",
        "metrics",
        "to_torch_state_dict",
        "upload_preset",
        "visualize",
    ]
    assert all(hasattr(keras_spm, name) for name in keras_spm.__all__)
    assert keras_spm.layers.__all__ == [
        "BatchNormalization",
        "ClassTokenStage",
        "ConvolutionalMLP",
        "DepthwiseConv2D",
        "DropPath",
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


def test_importing_loads_nothing_beyond_keras():
    """What Keras itself loads where it is installed is Keras's affair."""
    code = "import sys, keras; before = set(sys.modules); import keras_spm; "
    loaded = _python(code + "print(*set(sys.modules) - before)").stdout.split()
    assert "keras_spm.layers" in loaded
    # Under PyTorch Keras imports its optimizers late.
    late = {name for name in loaded if name.startswith("keras.src.backend.torch.optimizers")}
    assert {name.partition(".")[0] for name in set(loaded) - late} == {"keras_spm"}


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_tensorflow_stays_out(backend):
    code = "import sys, keras_spm; sys.exit('tensorflow' in sys.modules)"
    assert _python(code, KERAS_BACKEND=backend).returncode == 0


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
        (set(), "numpy", "runs on tensorflow, jax, torch"),
    ],
)
def test_a_missing_backend_is_explained(hidden, chosen, message):
    process = _python(HIDE.format(hidden=hidden or {""}), KERAS_BACKEND=chosen)
    assert process.returncode == 1
    assert message in process.stderr.splitlines()[-1]
    assert "keras/src" not in process.stderr


def test_without_a_choice_the_configuration_file_counts(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "tensorflow"}')
    code = HIDE.format(hidden={"tensorflow"})
    process = _python(code, KERAS_BACKEND="", KERAS_HOME=str(tmp_path))
    assert "keras.json" in process.stderr.splitlines()[-1]
