"""Training steps can be lowered for TPU and CUDA; an unsupported operation raises."""

import numpy as np
import pytest

import keras_spm
from tests.helpers import tiny_backbone

pytestmark = pytest.mark.only("jax")

SIDE = 64


def _backbone():
    return tiny_backbone(merging="spm", drop_path_rate=0.1)


def _classifier():
    model, labels = keras_spm.ImageClassifier(_backbone(), 10), np.zeros(2, "int32")
    model.compute_metrics(None, labels, np.zeros((2, 10), "float32"))  # Builds metrics.
    return model, labels


def _segmenter_with_auxiliary_loss():
    decoder = keras_spm.heads.UPerNet(channels=8, auxiliary_channels=8)
    model = keras_spm.SemanticSegmenter(_backbone(), 5, decoder)
    segmentation_maps = np.zeros((2, SIDE, SIDE), "int32")
    model.compute_metrics(
        None, segmentation_maps, np.zeros((*segmentation_maps.shape, 5), "float32")
    )
    return model, segmentation_maps


def _detector():
    targets = {"boxes": np.ones((2, 3, 4), "float32"), "labels": np.zeros((2, 3), "int32")}
    return keras_spm.ObjectDetector(_backbone(), 5), targets


def _instance_segmenter():
    targets = {"boxes": np.ones((2, 3, 4), "float32"), "labels": np.zeros((2, 3), "int32")}
    targets["masks"] = np.zeros((2, 3, SIDE, SIDE), bool)
    head = keras_spm.heads.MaskRCNN(
        pyramid_channels=8, rpn_channels=8, box_head_channels=8, mask_head_channels=8
    )
    return keras_spm.InstanceSegmenter(_backbone(), 5, head), targets


TASKS = (_classifier, _segmenter_with_auxiliary_loss, _detector, _instance_segmenter)


@pytest.mark.parametrize("task", TASKS)
def test_training_steps_are_lowered_for_tpu_and_cuda(task):
    import jax

    model, targets = task()
    model.optimizer.build(model.trainable_variables)
    groups = (
        *(model.trainable_variables, model.non_trainable_variables),
        *(model.optimizer.variables, model.metrics_variables),
    )
    state = tuple([each.value for each in group] for group in groups)
    images = np.zeros((2, SIDE, SIDE, 3), "uint8")
    export = jax.export.export(jax.jit(model.train_step), platforms=["tpu", "cuda"])
    lowered = export(state, (images, targets))
    assert lowered.platforms == ("tpu", "cuda")
    logs, after = jax.tree.unflatten(lowered.out_tree, lowered.out_avals)
    assert "loss" in logs
    for values, variables in zip(after, groups, strict=True):
        assert [each.shape for each in values] == [each.shape for each in variables]
