"""Decoders in mmsegmentation, in the official codes on top of it, and in transformers."""

from keras_spm.converters.conversion import register_layouts
from keras_spm.converters.detection_heads import PREFIX, pyramid_rules
from keras_spm.converters.hf_config import HeadConfig, register_task_config
from keras_spm.weights.key_mapping import Layout, affine, batch_normalization
from keras_spm.weights.transforms import CONVOLUTION, LINEAR, POINTWISE

_LEVELS = ("P2", "P3", "P4", "P5")
# {name of a layout: name of the backbone's layout in the same files}
_MMSEG = {"official": "official", "mmseg": "mmdet"}


def _semantic_fpn():
    rules = [*pyramid_rules(_LEVELS)]
    for index, level in enumerate(_LEVELS):
        for number in range(max(index, 1)):
            # Upsampling layers have the odd numbers.
            name = f"decode_head.scale_heads.{index}.{2 * number}"
            path = f"{level}_{number + 1}"
            rules += affine(f"{path}_convolution", f"{name}.conv", CONVOLUTION)[:1]
            rules += batch_normalization(f"{path}_norm", f"{name}.bn")
    return tuple(rules), affine("classifier", "decode_head.conv_seg", POINTWISE)


def _block(path, convolution, norm):
    """Returns the rules of a `ConvolutionBlock`."""
    return (
        *affine(f"{path}/convolution", convolution, CONVOLUTION)[:1],
        *batch_normalization(f"{path}/norm", norm),
    )


def _upernet(norm, classifier):
    """Returns (rules, rules of the classifiers); the names differ in two words."""

    def block(path, name):
        return _block(path, f"{name}.conv", f"{name}.{norm}")

    auxiliary = block("auxiliary_head/convolution", "auxiliary_head.convs.0")
    rules = (
        *block("pooling_{number}", "decode_head.psp_modules.{number_index}.1"),
        *block("bottleneck", "decode_head.bottleneck"),
        *block("lateral_P{level}", "decode_head.lateral_convs.{level_before}"),
        *block("output_P{level}", "decode_head.fpn_convs.{level_before}"),
        *block("fusion", "decode_head.fpn_bottleneck"),
        *auxiliary,
    )
    head = (
        *affine("classifier", f"decode_head.{classifier}", POINTWISE),
        *affine("auxiliary_head/classifier", f"auxiliary_head.{classifier}", POINTWISE),
    )
    # A model without auxiliary head ignores that of a file.
    optional = tuple(name for rule in auxiliary for name in rule.names)
    return {"rules": rules, "head": head, "optional": optional}


_FPN_RULES, _FPN_HEAD = _semantic_fpn()
register_layouts(
    "SemanticFPN",
    [
        Layout(name, _FPN_RULES, _FPN_HEAD, backbone=(backbone, PREFIX))
        for name, backbone in _MMSEG.items()
    ],
)
register_layouts(
    "UPerNet",
    [
        *(
            Layout(name, **_upernet("bn", "conv_seg"), backbone=(backbone, PREFIX))
            for name, backbone in _MMSEG.items()
        ),
        Layout(
            "transformers",
            **_upernet("batch_norm", "classifier"),
            backbone=("transformers", PREFIX),
        ),
    ],
)
register_layouts(
    "SegFormerHead",
    [
        Layout(
            "transformers",
            (
                *affine("projection_P{level}", "decode_head.linear_c.{level_before}.proj", LINEAR),
                *_block("fusion", "decode_head.linear_fuse", "decode_head.batch_norm"),
            ),
            affine("classifier", "decode_head.classifier", POINTWISE),
            backbone=("transformers", "segformer."),
        )
    ],
)


def _read_upernet(config):
    for key, value in {"auxiliary_num_convs": 1, "auxiliary_concat_input": False}.items():
        if config.get(key, value) != value:
            raise ValueError(f"`{key}` must be {value}. Received: {config[key]}")
    has_auxiliary_head = config.get("use_auxiliary_head", True)
    arguments = {
        "channels": config.get("hidden_size", 512),
        "pool_scales": config.get("pool_scales", [1, 2, 3, 6]),
        "auxiliary_channels": config.get("auxiliary_channels", 256),
        "auxiliary_weight": config.get("auxiliary_loss_weight", 0.4) if has_auxiliary_head else 0,
    }
    return HeadConfig("SemanticSegmenter", "decoder", "UPerNet", arguments)


def _read_segformer(config):
    arguments = {
        "channels": config.get("decoder_hidden_size", 256),
        "dropout": config.get("classifier_dropout_prob", 0.1),
    }
    return HeadConfig("SemanticSegmenter", "decoder", "SegFormerHead", arguments)


register_task_config("UperNetForSemanticSegmentation", _read_upernet)
register_task_config("SegformerForSemanticSegmentation", _read_segformer)
