"""Detectors in mmdetection, and in the official codes on top of it."""

from collections.abc import Sequence

from keras_spm.converters.conversion import register_layouts
from keras_spm.weights.key_mapping import Layout, Rule, affine
from keras_spm.weights.transforms import CONVOLUTION, LINEAR, flattened_dense

PREFIX = "backbone."  # Of the names of the backbone's tensors.
# {name of a layout: name of the backbone's layout in the same files}
_MMDET = {"official": "official", "mmdet": "mmdet"}


def pyramid_rules(levels: Sequence[str], extra_levels: Sequence[str] = ()) -> tuple[Rule, ...]:
    """Returns the rules of a `FeaturePyramid` in mmdetection and mmsegmentation."""
    rules = []
    for index, level in enumerate((*levels, *extra_levels)):
        if level in levels:
            lateral = f"neck.lateral_convs.{index}.conv"
            rules += affine(f"feature_pyramid/lateral_{level}", lateral, CONVOLUTION)
        output = f"neck.fpn_convs.{index}.conv"
        rules += affine(f"feature_pyramid/output_{level}", output, CONVOLUTION)
    return tuple(rules)


def _register(class_name, rules, head):
    layouts = [
        Layout(name, rules, head, backbone=(backbone, PREFIX)) for name, backbone in _MMDET.items()
    ]
    register_layouts(class_name, layouts)


_register(
    "RetinaNet",
    (
        *pyramid_rules(("P3", "P4", "P5"), ("P6", "P7")),
        *affine("class_{number}", "bbox_head.cls_convs.{number_index}.conv", CONVOLUTION),
        *affine("box_{number}", "bbox_head.reg_convs.{number_index}.conv", CONVOLUTION),
        *affine("box_predictor", "bbox_head.retina_reg", CONVOLUTION),
    ),
    affine("class_predictor", "bbox_head.retina_cls", CONVOLUTION),
)

_ROI = "roi_head.bbox_head"
_BOX_RULES = (
    *pyramid_rules(("P2", "P3", "P4", "P5")),
    *affine("rpn/convolution", "rpn_head.rpn_conv", CONVOLUTION),
    *affine("rpn/objectness", "rpn_head.rpn_cls", CONVOLUTION),
    *affine("rpn/deltas", "rpn_head.rpn_reg", CONVOLUTION),
    # Box features are 7x7.
    *affine("box_head/fc1", f"{_ROI}.shared_fcs.0", flattened_dense(7)),
    *affine("box_head/fc2", f"{_ROI}.shared_fcs.1", LINEAR),
)
_BOX_HEAD = (
    *affine("box_head/classifier", f"{_ROI}.fc_cls", LINEAR),
    *affine("box_head/deltas", f"{_ROI}.fc_reg", LINEAR),
)
_MASK = "roi_head.mask_head"
_register("FasterRCNN", _BOX_RULES, _BOX_HEAD)
_register(
    "MaskRCNN",
    (
        *_BOX_RULES,
        *affine(
            "mask_head/convolution_{number}", _MASK + ".convs.{number_index}.conv", CONVOLUTION
        ),
        *affine("mask_head/upsampling", f"{_MASK}.upsample", CONVOLUTION),
    ),
    (*_BOX_HEAD, *affine("mask_head/classifier", f"{_MASK}.conv_logits", CONVOLUTION)),
)
