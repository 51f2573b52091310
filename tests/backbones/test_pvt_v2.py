"""PVT v2 with and without SPM: numbers of the reference, presets, refusals."""

import keras
import numpy as np
import pytest

from keras_spm import ImageClassifier
from keras_spm import PVTv2
from keras_spm import PVTv2SPM
from keras_spm import list_presets
from keras_spm import load_torch_weights
from keras_spm.backbones import PyramidBackbone
from tests import golden
from tests.helpers import difference

CLASSES = {"pvt_v2": PVTv2, "pvt_v2_li": PVTv2, "pvt_v2_spm": PVTv2SPM}

# Published multiply-adds at 224 x 224 in G, with attention's products, and exact
# parameters with 1000 classes where the sources give all digits, else in M.
PUBLISHED = {
    "b0": (0.57, 3_666_760),
    "b1": (2.11, 14.009),
    "b2_li": (3.89, 22.554),
    "b2": (4.03, 25.363),
    "b3": (6.90, 45.239),
    "b4": (10.10, 62.556),
    "b5": (11.72, 81_956_008),
}
PUBLISHED_SPM_PARAMETERS = {
    "b0": 3.62,
    "b1": 13.74,
    "b2_li": 22.29,
    "b2": 25.10,
    "b3": 44.97,
    "b4": 62.29,
    "b5": 81.69,
}


@pytest.mark.parametrize("name", golden.BACKBONES)
@pytest.mark.parametrize("case", ["0", "1"])
def test_maps_and_logits_equal_the_reference(name, case):
    arrays, _ = golden.read(name)
    backbone = CLASSES[name](**golden.backbone_arguments(name))
    # The goldens' inputs are what follows normalisation.
    model = ImageClassifier(backbone, 7, mean=(0, 0, 0), standard_deviation=(1, 1, 1))
    report = load_torch_weights(model, golden.state(name))
    assert not report.fresh and not report.left_over
    images = arrays[f"input{case}"]
    assert difference(model.predict(images * 255, verbose=0), arrays[f"logits{case}"]) <= 1e-5
    maps = keras.Model(backbone.input, backbone.pyramid_outputs).predict(images, verbose=0)
    for level, stage in enumerate(range(1, 5), start=2):
        if f"stage{case}.{stage}" in arrays:
            assert difference(maps[f"P{level}"], arrays[f"stage{case}.{stage}"]) <= 1e-5


def _with_head(backbone, classes=1000):
    trainable = sum(int(np.prod(variable.shape)) for variable in backbone.trainable_variables)
    return trainable + (backbone.output.shape[-1] + 1) * classes


# Marked for one backend: what looks at shapes alone need not run three times.
@pytest.mark.only("torch")
@pytest.mark.parametrize("name", PUBLISHED)
def test_size_and_cost_are_as_published(name):
    multiply_adds, parameters = PUBLISHED[name]
    backbone = PVTv2.from_preset(name, load_weights=False)
    counted = _with_head(backbone)
    assert counted == parameters or round(counted / 1e6, 3) == parameters
    cost = backbone.multiply_adds((1, 224, 224, 3)) / 1e9
    assert cost == pytest.approx(multiply_adds, rel=0.005, abs=0.005)  # Published to two digits.
    with_spm = PVTv2SPM.from_preset(name, load_weights=False)
    assert round(_with_head(with_spm) / 1e6, 2) == PUBLISHED_SPM_PARAMETERS[name]


@pytest.mark.only("torch")
def test_the_plain_formulation_of_spm_costs_what_the_reference_costs():
    """Ours plus what it spares: 12 C^2 in projections of each window, other small terms."""
    backbone = PVTv2SPM.from_preset("b1", load_weights=False)
    cost = backbone.multiply_adds((1, 224, 224, 3))
    assert cost / 1e9 == pytest.approx(2.265, abs=0.001)
    for channels, windows in ((128, 28 * 28), (320, 14 * 14), (512, 7 * 7)):
        heads, tokens = 8, 5
        ours = 3 * channels**2 + 2 * tokens * heads * channels
        plain = 3 * tokens * channels**2 + 2 * tokens * tokens * channels
        cost += windows * (plain - ours)
    assert cost / 1e9 == pytest.approx(2.81, rel=0.005)


@pytest.mark.only("torch")
def test_multiply_adds_agree_with_a_count_of_what_runs():
    """PyTorch's own counter sees the convolutions and products that really run."""
    from torch.nn.attention import SDPBackend
    from torch.nn.attention import sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    backbone = PVTv2.from_preset("b0", load_weights=False)
    # The counter does not know PyTorch's fused attention on CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        backbone(np.zeros((1, 224, 224, 3), "float32"))
    counted = counter.get_total_flops() / 2
    assert backbone.multiply_adds((1, 224, 224, 3)) == pytest.approx(counted, rel=1e-3)


def test_the_smallest_variant_at_full_size():
    model = PVTv2SPM.from_preset("mini", load_weights=False)
    outputs = model.predict(np.random.rand(1, 224, 224, 3).astype("float32"), verbose=0)
    assert outputs.shape == (1, 7, 7, 128)
    assert np.isfinite(outputs).all()


def test_interface():
    backbone = PVTv2SPM.from_preset("mini", load_weights=False)
    assert list(backbone.pyramid_outputs) == ["P2", "P3", "P4", "P5"]
    assert backbone.pyramid_outputs["P5"] is backbone.output
    for level, name in backbone.pyramid_level_inputs.items():
        assert backbone.get_layer(name).output is backbone.pyramid_outputs[level]
    assert backbone.pooled_output.shape == (None, 128)
    assert backbone.image_shape == (None, None, 3)
    first = PVTv2SPM.from_preset("mini", load_weights=False, data_format="channels_first")
    assert first.image_shape == (3, None, None) and first.output.shape == (None, 128, None, None)
    paths = {variable.path for variable in backbone.variables}
    assert "stage3/merging/multi_scale_aggregation/depthwise_5x5/kernel" in paths
    assert "stage3/block1/attention/query/kernel" in paths


def test_presets():
    assert list(PVTv2.presets) == ["mini", "b0", "b1", "b2", "b2_li", "b3", "b4", "b5"]
    assert set(list_presets()) == {
        f"pvt_v2_{spm}{name}" for name in PVTv2.presets for spm in ("", "spm_")
    }
    long = PyramidBackbone.from_preset("pvt_v2_spm_mini", load_weights=False, drop_path_rate=0.2)
    assert type(long) is PVTv2SPM and long.drop_path_rate == 0.2
    short = PVTv2SPM.from_preset("pvt_v2_spm_mini", load_weights=False)
    assert short.embed_dims == long.embed_dims
    last_block, first_block = long.stages[-1].blocks[-1], long.stages[0].blocks[0]
    assert (first_block.drop_path_rate, last_block.drop_path_rate) == (0, 0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PVTv2.from_preset("b11", load_weights=False), "Did you mean 'b1'"),
        (lambda: PVTv2.from_preset("b1"), "load_weights=False"),
        (lambda: ImageClassifier.from_preset("pvt2_spm_b1", num_classes=3), "pvt_v2_spm_b1"),
        (
            lambda: PVTv2SPM.from_preset("mini", load_weights=False, merging="smp"),
            "Did you mean 'spm'",
        ),
        (
            lambda: PVTv2.from_preset("mini", load_weights=False, image_shape=(31, 64, 3)),
            r"\(31, 64\)",
        ),
        (
            lambda: PVTv2.from_preset("mini", load_weights=False, depths=(1, 1)),
            r"depths=\(1, 1\)",
        ),
        (
            lambda: PVTv2.from_preset("mini", load_weights=False, data_format="first"),
            "data_format='first'",
        ),
        (
            lambda: PVTv2.from_preset("mini", load_weights=False).freeze(5),
            "up_to_stage=5",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
