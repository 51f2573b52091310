"""Models of the Keras libraries: this one, KerasHub and ZeroModels, on any backend."""

from collections.abc import Callable
from typing import Any

import numpy as np
from case import LEARNING_RATE, NUM_CLASSES, WEIGHT_DECAY, Case, UnavailableError


class KerasSteps:
    """Steps of a compiled Keras model, by `predict_on_batch` and `train_on_batch`."""

    def __init__(self, model: Any, case: Case, targets: Any, macs: Callable[[], int]) -> None:
        import keras

        keras.utils.set_random_seed(0)
        self.model = model
        self.inputs = keras.ops.convert_to_tensor(case.inputs())
        self.targets = keras.tree.map_structure(keras.ops.convert_to_tensor, targets)
        self.macs = macs

    def forward(self) -> None:
        self.model.predict_on_batch(self.inputs)

    def train(self) -> None:
        self.model.train_on_batch(self.inputs, self.targets)


def make_keras_spm(case: Case) -> KerasSteps:
    """Returns the steps of a model of this library."""
    import keras

    import keras_spm

    if case.channels:
        channels, output_dim = case.channels
        maps = keras.Input((case.size, case.size, channels))
        layer = keras_spm.layers.StepwisePatchMerging(output_dim)
        return _regression(maps, _pooled(layer(maps)), case, layer)
    kind, _, preset = case.model.rpartition(":")
    arguments = {"gradient_checkpointing": True} if kind == "checkpointed" else {}
    backbone = keras_spm.backbones.PyramidBackbone.from_preset(
        preset, load_weights=False, **arguments
    )
    if kind == "backbone":
        return _regression(backbone.input, backbone.pooled_output, case, backbone)
    name, num_classes, targets = _TASKS.get(kind, _CLASSIFIER)
    model = getattr(keras_spm, name)(backbone, num_classes)
    if kind == "fused":
        model = keras_spm.fuse(model)
    if case.compiled:
        model.compile(jit_compile=True)
    return KerasSteps(model, case, targets(case), lambda: model.macs(case.input_shape))


def _labels(case):
    return np.arange(case.batch) % NUM_CLASSES


def _segmentation_maps(case):
    return np.zeros(case.input_shape[:3], "int32")


def _boxes(case):
    """Two objects per image."""
    boxes = np.array([[0.1, 0.1, 0.5, 0.6], [0.3, 0.2, 0.9, 0.8]], "float32") * case.size
    return {
        "boxes": np.tile(boxes, (case.batch, 1, 1)),
        "labels": np.tile(np.array([3, 7], "int32"), (case.batch, 1)),
    }


# {prefix of a model: (class, num_classes, function of the case that returns targets)}
_CLASSIFIER = ("ImageClassifier", NUM_CLASSES, _labels)
_TASKS = {
    "segmenter": ("SemanticSegmenter", 150, _segmentation_maps),
    "detector": ("ObjectDetector", 80, _boxes),
}


def _compile(model, case, loss):
    import keras

    optimizer = keras.optimizers.AdamW(LEARNING_RATE, WEIGHT_DECAY)
    jit_compile = True if case.compiled else "auto"
    model.compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile)
    return model


def _pooled(maps):
    """The mean over positions of a map or a sequence."""
    import keras

    pooling = {3: keras.layers.GlobalAveragePooling1D, 4: keras.layers.GlobalAveragePooling2D}
    return pooling[len(maps.shape)]("channels_last")(maps)


def _regression(inputs, outputs, case, counted):
    """Steps of a model without a task, trained with zeros as targets."""
    import keras

    from keras_spm.layers import macs

    model = _compile(keras.Model(inputs, outputs), case, "mean_squared_error")
    targets = np.zeros((case.batch, outputs.shape[-1]), "float32")
    return KerasSteps(model, case, targets, lambda: macs(counted, case.input_shape))


def _classification(model, case, **overrides):
    """Steps of another library's classifier.

    Its MACs are those of this library's model with the constructor arguments `overrides`.
    """
    import keras

    def macs():
        import keras_spm

        equivalent = keras_spm.backbones.PyramidBackbone.from_preset(
            case.model, load_weights=False, **overrides
        )
        return keras_spm.ImageClassifier(equivalent, NUM_CLASSES).macs(case.input_shape)

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return KerasSteps(_compile(model, case, loss), case, _labels(case), macs)


def make_keras_hub(case: Case) -> KerasSteps:
    """Returns the steps of KerasHub's Swin, or of its encoder closest to PVT v2."""
    import keras
    import keras_hub

    family, variant = case.variant()
    image_shape, overrides = (case.size, case.size, 3), {}
    if family == "Swin":
        backbone = keras_hub.models.SwinTransformerBackbone(
            image_shape, **variant, window_size=7, drop_path=0.0
        )
    else:
        # SegFormer's encoder is PVT v2 with the same MLP ratio in all stages.
        overrides = {"mlp_ratios": (4, 4, 4, 4)}
        backbone = keras_hub.models.MiTBackbone(
            layerwise_depths=variant["depths"],
            num_layers=4,
            layerwise_num_heads=variant["num_heads"],
            layerwise_sr_ratios=variant["sr_ratios"],
            max_drop_path_rate=0.0,
            layerwise_patch_sizes=(7, 3, 3, 3),
            layerwise_strides=(4, 2, 2, 2),
            image_shape=image_shape,
            hidden_dims=variant["embed_dims"],
        )
    logits = keras.layers.Dense(NUM_CLASSES, dtype="float32")(_pooled(backbone.output))
    return _classification(keras.Model(backbone.input, logits), case, **overrides)


def make_zeromodels(case: Case) -> KerasSteps:
    """Returns the steps of ZeroModels' PVT v2."""
    from zeromodels.models.pvt_v2 import PvtV2ImageClassify

    family, variant = case.variant()
    if family != "PVTv2":
        raise UnavailableError("only PVT v2 is benchmarked with ZeroModels")
    model = PvtV2ImageClassify(
        hidden_sizes=list(variant["embed_dims"]),
        depths=list(variant["depths"]),
        mlp_ratios=list(variant["mlp_ratios"]),
        image_size=case.size,
    )
    return _classification(model, case)


class MatrixProduct:
    """A product of two square matrices; the case's model is their size."""

    def __init__(self, case: Case) -> None:
        import keras
        from keras import ops

        self.side, dtype = int(case.model), case.dtype
        self.first, self.second = (
            ops.cast(keras.random.normal((self.side, self.side), seed=seed), dtype)
            for seed in range(2)
        )
        self.product = ops.matmul
        if case.backend == "jax":
            import jax

            self.product = jax.jit(ops.matmul)

    def forward(self) -> None:
        from keras import ops

        product = self.product(self.first, self.second)
        ops.convert_to_numpy(ops.cast(product[0, 0], "float32"))

    def macs(self) -> int:
        return self.side**3
