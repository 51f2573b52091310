"""Whole training steps, lowered for accelerators: an operation without such a form raises."""

import numpy as np
import pytest

import keras_spm

pytestmark = pytest.mark.only("jax")


def _backbone():
    return keras_spm.PVTv2SPM.from_preset("mini", load_weights=False, drop_path_rate=0.1)


def _classifier():
    return keras_spm.ImageClassifier(_backbone(), 10), np.zeros(2, "int32")


def _segmenter():
    return keras_spm.SemanticSegmenter(_backbone(), 5), np.zeros((2, 64, 64), "int32")


def _detector():
    targets = {"boxes": np.ones((2, 3, 4), "float32"), "labels": np.zeros((2, 3), "int32")}
    return keras_spm.ObjectDetector(_backbone(), 5), targets


@pytest.mark.parametrize("task", [_classifier, _segmenter, _detector])
def test_a_training_step_lowers_for_tpu_and_cuda(task):
    import jax

    model, targets = task()
    model.optimizer.build(model.trainable_variables)
    images = np.zeros((2, 64, 64, 3), "uint8")
    model.train_on_batch(images, targets)  # Builds metrics.
    groups = (
        *(model.trainable_variables, model.non_trainable_variables),
        *(model.optimizer.variables, model.metrics_variables),
    )
    state = tuple([each.value for each in group] for group in groups)
    step = jax.jit(model.train_step)
    for platform in ("tpu", "cuda"):
        lowered = jax.export.export(step, platforms=[platform])(state, (images, targets))
        assert lowered.platforms == (platform,)
        # Every weight, and each of its moments, comes out anew.
        logs, after = jax.tree.unflatten(lowered.out_tree, lowered.out_avals)
        assert "loss" in logs
        for values, variables in zip(after, groups, strict=True):
            assert [each.shape for each in values] == [each.shape for each in variables]
