"""Small models that are exported, by tests and by a campaign."""

import keras_spm
from keras_spm import heads
from tests import golden
from tests.helpers import randomize

CLASSES = list("abc")
SMALL_RCNN = {
    "pyramid_channels": 8,
    "rpn_channels": 8,
    "box_head_channels": 8,
    "max_proposals": 50,
    "max_detections": 10,
    "score_threshold": 0.05,
}


def classifier(name, **arguments):
    """Returns a classifier on the backbone of a golden, with known random weights."""
    backbone = golden.two_stage_backbone(name, **arguments)
    return randomize(keras_spm.ImageClassifier(backbone, 3, CLASSES))


def _segmenter(decoder, name="pvt_v2"):
    backbone = golden.short_backbone(name)
    return golden.randomize_task(keras_spm.SemanticSegmenter(backbone, 3, decoder, CLASSES))


def _detector(task, detector):
    return golden.randomize_task(task(golden.short_backbone("pvt_v2"), 3, detector, CLASSES))


def _retinanet():
    return golden.random_detector(class_names=CLASSES)


def _faster_rcnn():
    return _detector(keras_spm.ObjectDetector, heads.FasterRCNN(**SMALL_RCNN))


def _mask_rcnn():
    detector = heads.MaskRCNN(mask_head_channels=8, **SMALL_RCNN)
    return _detector(keras_spm.InstanceSegmenter, detector)


# One model for each task.
TASKS = {
    "ImageClassifier": lambda: classifier("pvt_v2_spm"),
    "SemanticSegmenter": lambda: _segmenter(heads.SemanticFPN(pyramid_channels=8, channels=8)),
    "ObjectDetector": _retinanet,
    "InstanceSegmenter": _mask_rcnn,
}

# The other heads and backbones, and a backbone alone.
OTHERS = {
    "SemanticSegmenter, UPerNet": lambda: _segmenter(
        heads.UPerNet(channels=8, auxiliary_channels=8), "pvt_v2_spm"
    ),
    "SemanticSegmenter, SegFormerHead": lambda: _segmenter(heads.SegFormerHead(channels=8)),
    "ObjectDetector, FasterRCNN": _faster_rcnn,
    "ImageClassifier, PVT": lambda: classifier("pvt"),
    "ImageClassifier, PVTSPM": lambda: classifier("pvt_spm"),
    "ImageClassifier, PVTv2": lambda: classifier("pvt_v2"),
    "ImageClassifier, PVTv2 linear": lambda: classifier("pvt_v2_li"),
    "ImageClassifier, MiT": lambda: randomize(
        keras_spm.ImageClassifier(
            keras_spm.MiT(
                embed_dims=(16, 32),
                depths=(2, 1),
                num_heads=(1, 2),
                mlp_ratios=(4, 4),
                sr_ratios=(4, 1),
            ),
            3,
        )
    ),
    "ImageClassifier, Swin": lambda: classifier("timm_swin"),
    "ImageClassifier, SwinSPM": lambda: classifier("swin_spm"),
    "ImageClassifier, channels first": lambda: classifier(
        "pvt_v2_spm", data_format="channels_first"
    ),
    "ImageClassifier, bfloat16": lambda: classifier("pvt_v2_spm", dtype="mixed_bfloat16"),
    "PVTv2SPM": lambda: randomize(golden.two_stage_backbone("pvt_v2_spm")),
}

MODELS = {**TASKS, **OTHERS}
