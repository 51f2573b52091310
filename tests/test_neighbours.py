"""Our backbones in the tasks of KerasHub and KerasCV, and KerasHub's backbones in ours."""

import keras
import numpy as np
import pytest

from keras_spm import ObjectDetector
from keras_spm import SemanticSegmenter
from keras_spm.data import ImageBatching
from tests import contract
from tests.helpers import difference
from tests.helpers import to_numpy

# What a detector learns and a segmenter labels: a square, of class 1.
SQUARE = slice(16, 48)
BOXES = np.full((2, 1, 4), (16, 16, 48, 48), "float32")
CLASSES = np.ones((2, 1), "float32")
LABELS = np.zeros((2, 64, 64), "int32")
LABELS[:, SQUARE, SQUARE] = 1


@pytest.fixture(scope="module")
def keras_hub():
    import keras_hub

    return keras_hub


@pytest.fixture(scope="module")
def keras_cv():
    import keras_cv

    return keras_cv


def check_learning(task, backbone, labels):
    """One step moves every kernel of the backbone, but for what is frozen."""
    trainable = {each.path for each in backbone.trainable_variables}
    kernels = [each for each in backbone.weights if each.path.endswith("kernel")]
    before = [np.array(to_numpy(each)) for each in kernels]
    # KerasHub makes a data set of the arrays, and Keras warns that it shuffles none.
    history = task.fit(
        contract.images(2, 64, 64), labels, batch_size=2, shuffle=False, verbose=0
    ).history
    (loss,) = history["loss"]
    assert np.isfinite(loss) and loss > 0
    assert bool(trainable) == backbone.trainable
    for kernel, old in zip(kernels, before, strict=True):
        assert (difference(kernel, old) > 0) == (kernel.path in trainable), kernel.path


def test_our_backbone_in_retina_net_of_keras_hub(keras_hub):
    backbone = contract.BACKBONES["PVTv2SPM"]()
    # What is frozen stays as it was, and there is less to compile.
    backbone.freeze(3)
    pyramid = keras_hub.models.RetinaNetBackbone(backbone, min_level=3, max_level=5, use_p5=False)
    task = keras_hub.models.RetinaNetObjectDetector(
        pyramid, 3, bounding_box_format="xyxy", pre_logits_num_conv_layers=1
    )
    check_learning(task, backbone, {"boxes": BOXES, "labels": CLASSES})
    found = task.predict(contract.images(2, 64, 64), verbose=0)
    assert found["boxes"].shape == (2, 100, 4) and found["labels"].shape == (2, 100)


def test_our_backbone_in_deep_lab_of_keras_hub(keras_hub):
    backbone = contract.BACKBONES["PVTv2"]()
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


# KerasCV's RetinaNet names its input, and hands itself a bare array.
@pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match:UserWarning")
def test_our_backbone_in_retina_net_of_keras_cv(keras_cv):
    backbone = contract.BACKBONES["PVT-dense"]()
    task = keras_cv.models.RetinaNet(backbone, 3, "xyxy")
    task.compile(box_loss="smoothl1", classification_loss="focal", optimizer="adam")
    check_learning(task, backbone, {"boxes": BOXES, "classes": CLASSES})
    # On PyTorch its decoding imports torchvision, which nothing else here needs.
    if keras.config.backend() != "torch":
        found = task.predict(contract.images(2, 64, 64), verbose=0)
        assert found["boxes"].shape == (2, 100, 4) and found["classes"].shape == (2, 100)


def _mit(keras_hub):
    return keras_hub.models.MiTBackbone(
        layerwise_depths=[1, 1, 1, 1],
        num_layers=4,
        layerwise_num_heads=[1, 1, 2, 2],
        layerwise_sr_ratios=[1, 1, 1, 1],
        max_drop_path_rate=0.0,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        # It takes but one size, and a square.
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
def test_their_backbones_in_our_segmenter(keras_hub, build, tmp_path):
    backbone = build(keras_hub)
    batching = ImageBatching(min_size=64, max_size=64, size_divisor=64)
    task = SemanticSegmenter(backbone, 3, pyramid_channels=8, head_channels=8, batching=batching)
    check_learning(task, backbone, LABELS)
    images = contract.images(2, 64, 64).astype("uint8")
    maps = task.segment([images[0], images[1][:40, :50]])
    assert [each.shape for each in maps] == [(64, 64), (40, 50)]
    task.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert difference(task.predict(images, verbose=0), again.predict(images, verbose=0)) == 0


def test_their_backbone_in_our_detector(keras_hub, tmp_path):
    """Frozen it stays, in a saved model too."""
    backbone = _residual(keras_hub)
    small = {"pyramid_channels": 8, "head_channels": 8, "num_convs": 1, "score_threshold": 0.0}
    task = ObjectDetector(backbone, 3, **small)
    task.freeze()
    head = {variable.path for variable in task.trainable_variables}
    assert head and all(path.startswith(contract.HEADS) for path in head)
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


def test_what_is_not_known_of_their_backbones_is_said(keras_hub):
    task = SemanticSegmenter(_residual(keras_hub), 3, pyramid_channels=8, head_channels=8)
    for arguments in ({"up_to_stage": 2}, {"up_to_stage": 0, "batch_normalization": True}):
        with pytest.raises(ValueError, match="stages of a ResNetBackbone .* Received: up_to_stage"):
            task.freeze(**arguments)
    assert task.backbone.trainable
    with pytest.raises(TypeError, match="MACs of ResNetBackbone are not known"):
        task.macs((1, 64, 64, 3))


def test_a_backbone_without_the_levels_is_refused(keras_hub):
    with pytest.raises(ValueError, match="P2, P3, P4, P5 .*ResNetBackbone with P2, P3, P4$"):
        SemanticSegmenter(_residual(keras_hub, stacks=3), 3)
