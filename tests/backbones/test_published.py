"""Sizes and costs of every variant against the published figures."""

import math

import numpy as np
import pytest

from keras_spm import PVT
from keras_spm import PVTSPM
from keras_spm import ImageClassifier
from keras_spm import PVTv2
from keras_spm import PVTv2SPM
from keras_spm import Swin
from keras_spm import SwinSPM

# What looks at shapes alone need not run on three backends.
pytestmark = pytest.mark.only("torch")

IMAGE = (1, 224, 224, 3)

# With 1000 classes: parameters, exact or in M to the digits given, and multiply-adds in
# G with attention's products, to the digits given. For SPM the multiply-adds are those
# of the reference's formulation.
PUBLISHED = {
    (PVT, "tiny"): (13.229, 1.93),
    (PVT, "small"): (24.486, 3.82),
    (PVT, "medium"): (44.208, 6.66),
    (PVT, "large"): (61.369, 9.81),
    (PVTv2, "b0"): (3_666_760, 0.57),
    (PVTv2, "b1"): (14.009, 2.11),
    (PVTv2, "b2_li"): (22.554, 3.89),
    (PVTv2, "b2"): (25.363, 4.03),
    (PVTv2, "b3"): (45.239, 6.90),
    (PVTv2, "b4"): (62.556, 10.10),
    (PVTv2, "b5"): (81_956_008, 11.72),
    (Swin, "tiny"): (28_288_354, 4.5),
    (Swin, "small"): (49_606_258, 8.7),
    (Swin, "base"): (87_768_224, 15.4),
}
PUBLISHED_SPM = {
    (PVTSPM, "tiny"): (14_029_480, 2.76),
    (PVTSPM, "small"): (25.286, 4.63),
    (PVTSPM, "medium"): (45.008, 7.47),
    (PVTSPM, "large"): (62.170, 10.63),
    (PVTv2SPM, "b0"): (3.62, 0.75),
    (PVTv2SPM, "b1"): (13.74, 2.81),
    (PVTv2SPM, "b2_li"): (22.29, 4.59),
    (PVTv2SPM, "b2"): (25.10, 4.73),
    (PVTv2SPM, "b3"): (44.97, 7.60),
    (PVTv2SPM, "b4"): (62.29, 10.80),
    (PVTv2SPM, "b5"): (81.69, 12.42),
}
# What SPM adds to Swin, in M and G.
ADDED_SPM = {"tiny": (1.66, 1.53), "small": (1.66, 1.53), "base": (2.90, 2.69)}


def _parameters(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def _is(count, published):
    """Whether a count is the published one, to the digits that were published."""
    if isinstance(published, int):
        return count == published
    digits = len(str(published).partition(".")[2])
    return abs(count / 1e6 - published) <= 0.51 * 10**-digits


def _spared(backbone):
    """What the guided attention spares: 12 C^2 in projections of a window, and some."""
    spared, size = 0, IMAGE[1] // 4
    for stage in backbone.stages[1:]:
        size //= 2
        channels = stage.merging.output_dim
        heads, tokens = 8, 5
        ours = 3 * channels**2 + 2 * tokens * heads * channels
        plain = 3 * tokens * channels**2 + 2 * tokens * tokens * channels
        spared += size**2 * (plain - ours)
    return spared


@pytest.mark.parametrize(("cls", "name"), [*PUBLISHED, *PUBLISHED_SPM])
def test_size_and_cost_are_as_published(cls, name):
    published = {**PUBLISHED, **PUBLISHED_SPM}
    parameters, multiply_adds = published[cls, name]
    model = ImageClassifier(cls.from_preset(name, load_weights=False), 1000)
    assert _is(_parameters(model), parameters)
    cost = model.backbone.multiply_adds(IMAGE)
    if (cls, name) in PUBLISHED_SPM:
        cost += _spared(model.backbone)
    # Half a percent between ways of counting, and what rounding took from the figure.
    rounding = 0.5 * 10 ** -len(str(multiply_adds).partition(".")[2])
    assert cost / 1e9 == pytest.approx(multiply_adds, abs=0.005 * multiply_adds + rounding)


@pytest.mark.parametrize("name", ADDED_SPM)
def test_spm_adds_to_swin_what_was_counted(name):
    parameters, multiply_adds = ADDED_SPM[name]
    plain, spm = (cls.from_preset(name, load_weights=False) for cls in (Swin, SwinSPM))
    assert _is(_parameters(spm) - _parameters(plain), parameters)
    added = spm.multiply_adds(IMAGE) + _spared(spm) - plain.multiply_adds(IMAGE)
    assert added / 1e9 == pytest.approx(multiply_adds, abs=0.005)


@pytest.mark.parametrize("cls_name", [(PVT, "tiny"), (PVTv2, "b0"), (Swin, "tiny")])
def test_multiply_adds_agree_with_a_count_of_what_runs(cls_name):
    """PyTorch's own counter sees the convolutions and products that really run."""
    from torch.nn.attention import SDPBackend
    from torch.nn.attention import sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    cls, name = cls_name
    backbone = cls.from_preset(name, load_weights=False)
    # The counter does not know PyTorch's fused attention on CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        backbone(np.zeros(IMAGE, "float32"))
    counted = counter.get_total_flops() / 2
    assert backbone.multiply_adds(IMAGE) == pytest.approx(counted, rel=1e-3)
