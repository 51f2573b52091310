"""Sizes and costs of every variant, as the README's table gives them, and as published."""

import pathlib

import numpy as np
import pytest

from keras_spm import PVT, PVTv2, Swin

# What looks at shapes alone need not run on three backends. That the table is what the
# code counts is checked where it is generated.
pytestmark = pytest.mark.only("torch")

README = pathlib.Path(__file__).parents[2] / "README.md"

# With 1000 classes at 224 x 224: parameters, exact or in M to the digits given, and
# MACs in G with attention's products, to the digits given.
PUBLISHED = {
    "`PVT` tiny": (13.229, 1.93),
    "`PVT` small": (24.486, 3.82),
    "`PVT` medium": (44.208, 6.66),
    "`PVT` large": (61.369, 9.81),
    "`PVTv2` b0": (3_666_760, 0.57),
    "`PVTv2` b1": (14.009, 2.11),
    "`PVTv2` b2_li": (22.554, 3.89),
    "`PVTv2` b2": (25.363, 4.03),
    "`PVTv2` b3": (45.239, 6.90),
    "`PVTv2` b4": (62.556, 10.10),
    "`PVTv2` b5": (81_956_008, 11.72),
    "`Swin` tiny": (28_288_354, 4.5),
    "`Swin` small": (49_606_258, 8.7),
    "`Swin` base": (87_768_224, 15.4),
}
# With SPM; MACs as the reference computes it.
PUBLISHED_SPM = {
    "`PVT` tiny": (14_029_480, 2.76),
    "`PVT` small": (25.286, 4.63),
    "`PVT` medium": (45.008, 7.47),
    "`PVT` large": (62.170, 10.63),
    "`PVTv2` b0": (3.62, 0.75),
    "`PVTv2` b1": (13.74, 2.81),
    "`PVTv2` b2_li": (22.29, 4.59),
    "`PVTv2` b2": (25.10, 4.73),
    "`PVTv2` b3": (44.97, 7.60),
    "`PVTv2` b4": (62.29, 10.80),
    "`PVTv2` b5": (81.69, 12.42),
}
# What SPM adds to Swin, in M and G.
ADDED_SPM = {"`Swin` tiny": (1.66, 1.53), "`Swin` small": (1.66, 1.53), "`Swin` base": (2.90, 2.69)}


def _row(variant):
    """(parameters, cost, parameters with SPM, its cost, its cost in the reference's form)."""
    (line,) = (
        line for line in README.read_text().splitlines() if line.startswith(f"| {variant} |")
    )
    return [float(cell.replace(",", "")) for cell in line.split("|")[2:7]]


def _rounding(published):
    """Half a unit of the last digit that was published."""
    return 0.5 * 10 ** -len(str(published).partition(".")[2])


def _check(parameters, cost, published):
    published_parameters, published_cost = published
    if isinstance(published_parameters, int):
        assert parameters == published_parameters
    else:
        rounding = 1.01 * _rounding(published_parameters)
        assert parameters / 1e6 == pytest.approx(published_parameters, abs=rounding)
    # Half a percent between ways of counting, and what rounding took from both figures.
    tolerance = 0.005 * published_cost + _rounding(published_cost) + 0.005
    assert cost == pytest.approx(published_cost, abs=tolerance)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_size_and_cost_are_as_published(variant):
    parameters, cost, *_ = _row(variant)
    _check(parameters, cost, PUBLISHED[variant])


@pytest.mark.parametrize("variant", PUBLISHED_SPM)
def test_size_and_cost_with_spm_are_as_counted_from_the_reference(variant):
    *_, parameters, _, cost = _row(variant)
    _check(parameters, cost, PUBLISHED_SPM[variant])


@pytest.mark.parametrize("variant", ADDED_SPM)
def test_spm_adds_to_swin_what_was_counted_from_the_reference(variant):
    parameters, cost, spm_parameters, _, spm_cost = _row(variant)
    _check(spm_parameters - parameters, spm_cost - cost, ADDED_SPM[variant])


@pytest.mark.parametrize(("cls", "name"), [(PVT, "tiny"), (PVTv2, "b0"), (Swin, "tiny")])
def test_macs_agree_with_a_count_of_what_runs(cls, name):
    """PyTorch's own counter sees the convolutions and products that really run."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    backbone, image = cls.from_preset(name, load_weights=False), (1, 224, 224, 3)
    # The counter does not know PyTorch's fused attention on CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        backbone(np.zeros(image, "float32"))
    counted = counter.get_total_flops() / 2
    assert backbone.macs(image) == pytest.approx(counted, rel=1e-3)
