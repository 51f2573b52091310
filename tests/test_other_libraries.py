"""Backbones in the tasks of KerasHub and KerasCV, and KerasHub's backbones in tasks."""

import keras
import numpy as np
import pytest

from keras_spm import ObjectDetector, SemanticSegmenter, heads
from keras_spm.data import ImageBatching
from tests import contract, golden
from tests.helpers import difference, to_numpy

# The targets: a square of class 1.
SQUARE = slice(16, 48)
BOXES = np.full((2, 1, 4), (16, 16, 48, 48), "float32")
CLASSES = np.ones((2, 1), "float32")
LABELS = np.zeros((2, 64, 64), "int32")
LABELS[:, SQUARE, SQUARE] = 1


# Graphs are connected in the same way on all backends.
pytestmark = pytest.mark.only("torch")


@pytest.fixture(scope="module")
def keras_hub():
    import keras_hub

    return keras_hub


@pytest.fixture(scope="module")
def keras_cv():
    import keras_cv

    return keras_cv


def check_learning(task, backbone, labels):
    """Checks that a training step changes every kernel of the backbone that is not frozen."""
    trainable = {each.path for each in backbone.trainable_variables}
    kernels = [each for each in backbone.weights if each.path.endswith("kernel")]
    before = [np.array(to_numpy(each)) for each in kernels]
    # KerasHub converts the arrays to a data set, for which Keras would warn about shuffling.
    history = task.fit(
        contract.images(2, 64, 64), labels, batch_size=2, shuffle=False, verbose=0
    ).history
    (loss,) = history["loss"]
    assert np.isfinite(loss) and loss > 0
    assert bool(trainable) == backbone.trainable
    for kernel, old in zip(kernels, before, strict=True):
        assert (difference(kernel, old) > 0) == (kernel.path in trainable), kernel.path


def test_backbone_in_retina_net_of_keras_hub(keras_hub):
    backbone = golden.short_backbone("pvt_v2_spm")
    # Frozen layers do not change, and there is less to compile.
    backbone.freeze(3)
    pyramid = keras_hub.models.RetinaNetBackbone(backbone, min_level=3, max_level=5, use_p5=False)
    task = keras_hub.models.RetinaNetObjectDetector(
        pyramid, 3, bounding_box_format="xyxy", pre_logits_num_conv_layers=1
    )
    check_learning(task, backbone, {"boxes": BOXES, "labels": CLASSES})
    found = task.predict(contract.images(2, 64, 64), verbose=0)
    assert found["boxes"].shape == (2, 100, 4) and found["labels"].shape == (2, 100)


def test_backbone_in_deep_lab_of_keras_hub(keras_hub):
    backbone = golden.short_backbone("pvt_v2")
    pyramid = keras_hub.models.DeepLabV3Backbone(
        backbone,
        spatial_pyramid_pooling_key="P5",
        low_level_feature_key="P2",
        upsampling_size=8,
        dilation_rates=[1],
    )
    task = keras_hub.models.DeepLabV3ImageSegmenter(pyramid, num_classes=3)
    check_learning(task, backbone, np.eye(3, dtype="float32")[LABELS])
    assert task.predict(contract.images(2, 64, 64), verbose=0).shape == (2, 64, 64, 3)


# KerasCV's RetinaNet has a named input and calls itself with a single array.
@pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match:UserWarning")
def test_backbone_in_retina_net_of_keras_cv(keras_cv):
    backbone = golden.short_backbone("pvt", class_token=False)
    task = keras_cv.models.RetinaNet(backbone, 3, "xyxy")
    task.compile(box_loss="smoothl1", classification_loss="focal", optimizer="adam")
    check_learning(task, backbone, {"boxes": BOXES, "classes": CLASSES})
    # On PyTorch, decoding imports torchvision, which is not installed.
    if keras.config.backend() != "torch":
        found = task.predict(contract.images(2, 64, 64), verbose=0)
        assert found["boxes"].shape == (2, 100, 4) and found["classes"].shape == (2, 100)


def _decoder():
    return heads.SemanticFPN(pyramid_channels=8, channels=8)


def _mit(keras_hub):
    return keras_hub.models.MiTBackbone(
        layerwise_depths=[1, 1, 1, 1],
        num_layers=4,
        layerwise_num_heads=[1, 1, 2, 2],
        layerwise_sr_ratios=[1, 1, 1, 1],
        max_drop_path_rate=0.0,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        # It supports square images of a single size only.
        image_shape=(64, 64, 3),
        hidden_dims=[8, 8, 16, 16],
    )


def _residual(keras_hub, stacks=4):
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64] * stacks,
        stackwise_num_blocks=[1] * stacks,
        stackwise_num_strides=[1, 2, 2, 2][:stacks],
        block_type="basic_block",
    )


@pytest.mark.parametrize("build", [_mit, _residual])
def test_other_backbones_in_the_segmenter(keras_hub, build, tmp_path):
    backbone = build(keras_hub)
    batching = ImageBatching(min_size=64, max_size=64, size_divisor=64)
    task = SemanticSegmenter(backbone, 3, _decoder(), batching=batching)
    check_learning(task, backbone, LABELS)
    images = contract.images(2, 64, 64).astype("uint8")
    maps = task.segment([images[0], images[1][:40, :50]])
    assert [each.shape for each in maps] == [(64, 64), (40, 50)]
    task.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert difference(task.predict(images, verbose=0), again.predict(images, verbose=0)) == 0


def test_frozen_other_backbone_in_the_detector(keras_hub, tmp_path):
    """It is also frozen in a loaded model."""
    backbone = _residual(keras_hub)
    detector = heads.RetinaNet(
        pyramid_channels=8, channels=8, num_convs=1, score_threshold=0.0, max_detections=20
    )
    task = ObjectDetector(backbone, 3, detector)
    task.freeze()
    head = {variable.path for variable in task.trainable_variables}
    assert head and all(path.startswith("detector/") for path in head)
    check_learning(task, backbone, {"boxes": BOXES, "labels": CLASSES})
    task.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert {variable.path for variable in again.trainable_variables} == head
    images = contract.images(2, 64, 64)
    found, expected = (each.predict(images, verbose=0) for each in (again, task))
    assert (expected["labels"] >= 0).any()
    assert all(difference(found[name], expected[name]) == 0 for name in expected)
    task.freeze(0)
    assert len(task.trainable_variables) > len(head)


def test_unknown_properties_of_other_backbones(keras_hub):
    task = SemanticSegmenter(_residual(keras_hub), 3, _decoder())
    for arguments in ({"up_to_stage": 2}, {"up_to_stage": 0, "batch_normalization": True}):
        with pytest.raises(ValueError, match="stages of a ResNetBackbone .* Received: up_to_stage"):
            task.freeze(**arguments)
    assert task.backbone.trainable
    with pytest.raises(TypeError, match="MACs of ResNetBackbone are unknown"):
        task.macs((1, 64, 64, 3))


def test_backbones_without_the_levels_are_refused(keras_hub):
    with pytest.raises(ValueError, match="P2, P3, P4, P5 .*ResNetBackbone with P2, P3, P4$"):
        SemanticSegmenter(_residual(keras_hub, stacks=3), 3)
