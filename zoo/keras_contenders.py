"""The contenders on Keras: this library, KerasHub and ZeroModels, on any backend."""

import numpy as np
from contenders import CLASSES
from contenders import LEARNING_RATE
from contenders import WEIGHT_DECAY
from contenders import UnavailableError


class _KerasSteps:
    """Steps of a Keras model, as `predict_on_batch` and `train_on_batch` take them."""

    def __init__(self, model, contender, targets, macs):
        import keras

        keras.utils.set_random_seed(0)
        self.model = model
        self.inputs = keras.ops.convert_to_tensor(contender.inputs())
        self.targets = keras.tree.map_structure(keras.ops.convert_to_tensor, targets)
        self.macs = macs

    def forward(self):
        self.model.predict_on_batch(self.inputs)

    def train(self):
        self.model.train_on_batch(self.inputs, self.targets)


def make_keras_spm(contender):
    import keras

    import keras_spm

    if contender.channels:
        channels, output_dim = contender.channels
        maps = keras.Input((contender.size, contender.size, channels))
        layer = keras_spm.layers.StepwisePatchMerging(output_dim)
        return _regression(maps, _pooled(layer(maps)), contender, layer)
    kind, _, preset = contender.model.rpartition(":")
    arguments = {"gradient_checkpointing": True} if kind == "checkpointed" else {}
    backbone = keras_spm.backbones.PyramidBackbone.from_preset(
        preset, load_weights=False, **arguments
    )
    if kind == "backbone":
        return _regression(backbone.input, backbone.pooled_output, contender, backbone)
    name, num_classes, targets = _TASKS.get(kind, _CLASSIFIER)
    model = getattr(keras_spm, name)(backbone, num_classes)
    if kind == "fused":
        model = keras_spm.fuse(model)
    if contender.compiled:
        model.compile(jit_compile=True)
    return _KerasSteps(
        model, contender, targets(contender), lambda: model.macs(contender.input_shape)
    )


def _labels(contender):
    return np.arange(contender.batch) % CLASSES


def _segmentation_maps(contender):
    return np.zeros(contender.input_shape[:3], "int32")


def _boxes(contender):
    """Two objects an image."""
    boxes = np.array([[0.1, 0.1, 0.5, 0.6], [0.3, 0.2, 0.9, 0.8]], "float32") * contender.size
    return {
        "boxes": np.tile(boxes, (contender.batch, 1, 1)),
        "labels": np.tile(np.array([3, 7], "int32"), (contender.batch, 1)),
    }


# (class, classes to tell apart, targets), by what stands before the colon of a model.
_CLASSIFIER = ("ImageClassifier", CLASSES, _labels)
_TASKS = {
    "segmenter": ("SemanticSegmenter", 150, _segmentation_maps),
    "detector": ("ObjectDetector", 80, _boxes),
}


def _compiled(model, contender, loss):
    import keras

    optimizer = keras.optimizers.AdamW(LEARNING_RATE, WEIGHT_DECAY)
    jit_compile = True if contender.compiled else "auto"
    model.compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile)
    return model


def _pooled(maps):
    """The mean over positions, on a map or in a row."""
    import keras

    pooling = {3: keras.layers.GlobalAveragePooling1D, 4: keras.layers.GlobalAveragePooling2D}
    return pooling[len(maps.shape)]("channels_last")(maps)


def _regression(inputs, outputs, contender, counted):
    """Trains towards zeros, where there is no task."""
    import keras

    from keras_spm.layers.macs import macs

    model = _compiled(keras.Model(inputs, outputs), contender, "mean_squared_error")
    targets = np.zeros((contender.batch, outputs.shape[-1]), "float32")
    return _KerasSteps(model, contender, targets, lambda: macs(counted, contender.input_shape))


def _classification(model, contender, **overrides):
    """Of another library; `overrides` make a backbone of ours what that library's is."""
    import keras

    def macs():
        import keras_spm

        same = keras_spm.backbones.PyramidBackbone.from_preset(
            contender.model, load_weights=False, **overrides
        )
        return keras_spm.ImageClassifier(same, CLASSES).macs(contender.input_shape)

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = _compiled(model, contender, loss)
    return _KerasSteps(model, contender, _labels(contender), macs)


def make_keras_hub(contender):
    import keras
    import keras_hub

    family, figures = contender.figures()
    image_shape, own = (contender.size, contender.size, 3), {}
    if family == "Swin":
        backbone = keras_hub.models.SwinTransformerBackbone(
            image_shape, **figures, window_size=7, drop_path=0.0
        )
    else:
        # SegFormer's encoder: PVT v2 with one MLP ratio in all stages.
        own = {"mlp_ratios": (4, 4, 4, 4)}
        backbone = keras_hub.models.MiTBackbone(
            layerwise_depths=figures["depths"],
            num_layers=4,
            layerwise_num_heads=figures["num_heads"],
            layerwise_sr_ratios=figures["sr_ratios"],
            max_drop_path_rate=0.0,
            layerwise_patch_sizes=(7, 3, 3, 3),
            layerwise_strides=(4, 2, 2, 2),
            image_shape=image_shape,
            hidden_dims=figures["embed_dims"],
        )
    logits = keras.layers.Dense(CLASSES, dtype="float32")(_pooled(backbone.output))
    return _classification(keras.Model(backbone.input, logits), contender, **own)


def make_zeromodels(contender):
    from zeromodels.models.pvt_v2 import PvtV2ImageClassify

    family, figures = contender.figures()
    if family != "PVTv2":
        raise UnavailableError("ZeroModels is asked for PVT v2 alone")
    model = PvtV2ImageClassify(
        hidden_sizes=list(figures["embed_dims"]),
        depths=list(figures["depths"]),
        mlp_ratios=list(figures["mlp_ratios"]),
        image_size=contender.size,
    )
    return _classification(model, contender)


class MatrixProduct:
    """A product of two square matrices; the model names their size."""

    def __init__(self, contender):
        import keras
        from keras import ops

        self.side, dtype = int(contender.model), contender.dtype
        self.first, self.second = (
            ops.cast(keras.random.normal((self.side, self.side), seed=seed), dtype)
            for seed in range(2)
        )
        self.product = ops.matmul
        if contender.backend == "jax":
            import jax

            self.product = jax.jit(ops.matmul)

    def forward(self):
        from keras import ops

        product = self.product(self.first, self.second)
        ops.convert_to_numpy(ops.cast(product[0, 0], "float32"))

    def macs(self):
        return self.side**3
