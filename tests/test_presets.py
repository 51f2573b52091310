"""Names of presets, suggestions for unknown names, and invalid arguments."""

import numpy as np
import pytest

from keras_spm import (
    PVT,
    PVTSPM,
    ImageClassifier,
    MiT,
    MiTSPM,
    PVTv2,
    PVTv2SPM,
    Swin,
    SwinSPM,
    list_presets,
)
from keras_spm.backbones import PyramidBackbone

PRESETS = {
    "mit_": (MiT, ["b0", "b1", "b2", "b3", "b4", "b5"]),
    "mit_spm_": (MiTSPM, ["b0", "b1", "b2", "b3", "b4", "b5"]),
    "pvt_": (PVT, ["mini", "tiny", "small", "medium", "large"]),
    "pvt_spm_": (PVTSPM, ["mini", "tiny", "small", "medium", "large"]),
    "pvt_v2_": (PVTv2, ["mini", "b0", "b1", "b2", "b2_li", "b3", "b4", "b5"]),
    "pvt_v2_spm_": (PVTv2SPM, ["mini", "b0", "b1", "b2", "b2_li", "b3", "b4", "b5"]),
    "swin_": (Swin, ["mini", "tiny", "small", "base"]),
    "swin_spm_": (SwinSPM, ["mini", "tiny", "small", "base"]),
}


def test_names():
    names = [f"{prefix}{name}" for prefix, (_, names) in PRESETS.items() for name in names]
    assert list_presets()[: len(names)] == names  # Other tests define further classes.
    for prefix, (cls, names) in PRESETS.items():
        assert cls.preset_prefix == prefix and list(cls.presets) == names


@pytest.mark.only("torch")
@pytest.mark.parametrize("prefix", PRESETS)
def test_short_and_long_names(prefix):
    cls, names = PRESETS[prefix]
    long_name = f"{prefix}{names[0]}"
    by_long_name = PyramidBackbone.from_preset(long_name, load_weights=False, drop_path_rate=0.2)
    assert type(by_long_name) is cls
    assert cls.from_preset(long_name, load_weights=False).depths == by_long_name.depths
    assert cls.from_preset(names[0], load_weights=False).depths == by_long_name.depths
    last_block, first_block = by_long_name.stages[-1].blocks[-1], by_long_name.stages[0].blocks[0]
    assert (first_block.drop_path_rate, last_block.drop_path_rate) == (0, 0.2)


def test_variable_paths():
    backbone = PVTv2SPM.from_preset("mini", load_weights=False)
    paths = {variable.path for variable in backbone.variables}
    assert "stage3/merging/multi_scale_aggregation/depthwise_5x5/kernel" in paths
    assert "stage3/block1/attention/query/kernel" in paths


@pytest.mark.only("torch")
def test_smallest_variant_at_full_size():
    model = PVTv2SPM.from_preset("mini", load_weights=False)
    outputs = model.predict(np.random.rand(1, 224, 224, 3).astype("float32"), verbose=0)
    assert outputs.shape == (1, 7, 7, 128)
    assert np.isfinite(outputs).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PVTv2.from_preset("b11", load_weights=False), "Did you mean 'b1'"),
        (
            lambda: ImageClassifier.from_preset("pvt_v2_mini", load_weights=False, num_clases=2),
            "`num_classes` must be given: .* Received: num_clases",
        ),
        (lambda: PVTv2.from_preset(None), "`name` must be .* Received: name=None"),
        (lambda: ImageClassifier.from_preset(7, num_classes=3), "Received: name=7"),
        (lambda: Swin.from_preset("tinny", load_weights=False), "Did you mean 'tiny'"),
        (lambda: PVTv2.from_preset("mini"), "load_weights=False"),
        (lambda: ImageClassifier.from_preset("pvt2_spm_b1", num_classes=3), "pvt_v2_spm_b1"),
        (
            lambda: ImageClassifier.from_preset("pvt_v2_mini", load_weights=False),
            "`num_classes` must be given: pvt_v2_mini",
        ),
        (
            lambda: PVTv2SPM.from_preset("mini", load_weights=False, merging="smp"),
            "Did you mean 'spm'",
        ),
        (
            lambda: PVTv2.from_preset("mini", load_weights=False, image_shape=(31, 64, 3)),
            r"\(31, 64\)",
        ),
        (lambda: PVTv2.from_preset("mini", load_weights=False, depths=(1, 1)), r"depths=\(1, 1\)"),
        (
            lambda: PVTv2.from_preset("mini", load_weights=False, data_format="first"),
            "Unknown data_format 'first'",
        ),
        (
            lambda: PVT.from_preset("tiny", load_weights=False, data_format="first"),
            "Unknown data_format 'first'",
        ),
        (
            lambda: PVT.from_preset("tiny", load_weights=False, sr_ratios=(8, 4, 2, 2)),
            r"class_token=True.*sr_ratios=\(8, 4, 2, 2\)",
        ),
        (
            lambda: Swin.from_preset("tiny", load_weights=False, num_heads=(3, 6, 12)),
            r"num_heads=\(3, 6, 12\)",
        ),
        (
            lambda: Swin.from_preset("tiny", load_weights=False, num_heads=(5, 6, 12, 24)),
            "num_heads=5, channels=96",
        ),
        (lambda: PVTv2.from_preset("mini", load_weights=False).freeze(5), "up_to_stage=5"),
    ],
)
def test_invalid_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_unknown_arguments_are_named():
    with pytest.raises(TypeError, match="color"):
        PVTv2.from_preset("mini", load_weights=False, color="red")
    message = (
        r"^Unknown argument of PVTv2 'drop_path'\. Did you mean 'drop_path_rate'\? "
        "Available: embed_dims, .*, frozen_stages, .*, name.$"
    )
    with pytest.raises(TypeError, match=message):
        PVTv2.from_preset("mini", load_weights=False, drop_path=0.1)
    with pytest.raises(TypeError, match="'class_nams'. Did you mean 'class_names'"):
        ImageClassifier.from_preset(
            "pvt_v2_mini", load_weights=False, num_classes=2, class_nams=["a", "b"]
        )
