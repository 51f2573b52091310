"""What `benchmark.py` times: this library, and others that compute the same.

A contender runs in a process of its own, `python zoo/contenders.py '{"library": …}'`. It
says what it is in one line of JSON, and then answers every line that it reads with one:

    forward   → seconds of one forward pass of a batch
    train     → seconds of one training step: forward, backward, AdamW
    memory    → bytes: highest resident size since building less that after building

A step is over when its numbers are there. Weights are random.
"""

import dataclasses
import json
import os
import pathlib
import sys
import time

import numpy as np

CLASSES = 1000
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.05


@dataclasses.dataclass(frozen=True)
class Contender:
    """Whose code is timed, on what.

    Attributes:
        library: a key of `LIBRARIES`.
        model: `"merging_64_128"`, a Stepwise Patch Merging layer from 64 to 128 channels,
            under a mean over positions; or the long name of a backbone preset, which gets a
            classifier of 1,000 classes, or, after `"segmenter:"` or `"detector:"`, that head.
        backend: `"torch"`, `"jax"` or `"tensorflow"`; libraries of PyTorch run on the first.
        compiled: whether PyTorch compiles; elsewhere Keras's own choice counts.
        dtype: `"float32"`, or `"bfloat16"` for mixed precision.
        batch: maps or images.
        size: their height and width.
    """

    library: str
    model: str
    backend: str = "torch"
    compiled: bool = False
    dtype: str = "float32"
    batch: int = 8
    size: int = 224

    @property
    def channels(self):
        """(channels in, channels out) of a merging layer, None for a network."""
        kind, *channels = self.model.split("_")
        return tuple(map(int, channels)) if kind == "merging" else None

    @property
    def input_shape(self):
        return (self.batch, self.size, self.size, self.channels[0] if self.channels else 3)

    def inputs(self):
        """Returns random pixels or features."""
        generator = np.random.default_rng(0)
        if self.channels:
            return generator.normal(size=self.input_shape).astype("float32")
        return generator.integers(0, 256, self.input_shape).astype("float32")

    def __str__(self):
        compiled = ", compiled" if self.compiled else ""
        return f"{self.library} ({self.backend}{compiled})"


# === This library and others on Keras ===


class _KerasSteps:
    """Steps of a Keras model, as `predict_on_batch` and `train_on_batch` take them."""

    def __init__(self, model, contender, targets):
        import keras

        keras.utils.set_random_seed(0)
        self.model = model
        self.inputs = keras.ops.convert_to_tensor(contender.inputs())
        self.targets = keras.tree.map_structure(keras.ops.convert_to_tensor, targets)

    def forward(self):
        self.model.predict_on_batch(self.inputs)

    def train(self):
        self.model.train_on_batch(self.inputs, self.targets)


def _compile_keras(model, contender, loss):
    import keras

    optimizer = keras.optimizers.AdamW(LEARNING_RATE, WEIGHT_DECAY)
    jit_compile = True if contender.compiled else "auto"
    model.compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile)


def _classifier_steps(model, contender):
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    _compile_keras(model, contender, loss)
    return _KerasSteps(model, contender, np.arange(contender.batch) % CLASSES)


def _classifier_on(backbone, maps):
    import keras

    pooled = keras.layers.GlobalAveragePooling2D("channels_last")(maps)
    return keras.Model(backbone.input, keras.layers.Dense(CLASSES, dtype="float32")(pooled))


def _keras_spm(contender):
    import keras

    import keras_spm

    if contender.channels:
        channels, output_dim = contender.channels
        maps = keras.Input((contender.size, contender.size, channels))
        layer = keras_spm.layers.StepwisePatchMerging(output_dim)
        pooled = keras.layers.GlobalAveragePooling2D("channels_last")(layer(maps))
        model = keras.Model(maps, pooled)
        _compile_keras(model, contender, "mean_squared_error")
        steps = _KerasSteps(model, contender, np.zeros((contender.batch, output_dim), "float32"))
        return steps, keras_spm.layers.multiply_adds(layer, contender.input_shape)
    kind, _, preset = contender.model.rpartition(":")
    build, targets = _TASKS[kind]
    model = build(preset)
    jit_compile = True if contender.compiled else "auto"
    model.compile(jit_compile=jit_compile)
    steps = _KerasSteps(model, contender, targets(contender))
    return steps, model.multiply_adds(contender.input_shape)


def _classifier(preset):
    import keras_spm

    return keras_spm.ImageClassifier.from_preset(preset, num_classes=CLASSES, load_weights=False)


def _segmenter(preset):
    import keras_spm

    return keras_spm.SemanticSegmenter.from_preset(preset, num_classes=150, load_weights=False)


def _detector(preset):
    import keras_spm

    return keras_spm.ObjectDetector.from_preset(preset, num_classes=80, load_weights=False)


def _boxes(contender):
    """Two objects an image."""
    boxes = np.array([[0.1, 0.1, 0.5, 0.6], [0.3, 0.2, 0.9, 0.8]], "float32") * contender.size
    return {
        "boxes": np.tile(boxes, (contender.batch, 1, 1)),
        "labels": np.tile(np.array([3, 7], "int32"), (contender.batch, 1)),
    }


_TASKS = {
    "": (_classifier, lambda contender: np.arange(contender.batch) % CLASSES),
    "segmenter": (_segmenter, lambda contender: np.zeros(contender.input_shape[:3], "int32")),
    "detector": (_detector, _boxes),
}


def _keras_hub(contender):
    import keras_hub

    family, variant = contender.model.rsplit("_", 1)
    image_shape = (contender.size, contender.size, 3)
    if family == "swin":
        embed_dim, depths, num_heads = _SWIN[variant]
        backbone = keras_hub.models.SwinTransformerBackbone(
            image_shape, embed_dim=embed_dim, depths=depths, num_heads=num_heads, window_size=7
        )
        return _classifier_steps(_classifier_on(backbone, backbone.output), contender), None
    # SegFormer's encoder, which is built like PVT v2 b0 to b5.
    embed_dims, depths, _ = _PVT_V2[variant]
    backbone = keras_hub.models.MiTBackbone(
        layerwise_depths=depths,
        num_layers=4,
        layerwise_num_heads=(1, 2, 5, 8),
        layerwise_sr_ratios=(8, 4, 2, 1),
        max_drop_path_rate=0.0,
        layerwise_patch_sizes=(7, 3, 3, 3),
        layerwise_strides=(4, 2, 2, 2),
        image_shape=image_shape,
        hidden_dims=embed_dims,
    )
    return _classifier_steps(_classifier_on(backbone, backbone.output), contender), None


def _zeromodels(contender):
    from zeromodels.models.pvt_v2 import PvtV2ImageClassify

    embed_dims, depths, mlp_ratios = _PVT_V2[contender.model.rsplit("_", 1)[1]]
    model = PvtV2ImageClassify(
        hidden_sizes=embed_dims, depths=depths, mlp_ratios=mlp_ratios, image_size=contender.size
    )
    return _classifier_steps(model, contender), None


# === PyTorch's own ===


class _TorchSteps:
    """Steps of a PyTorch module; `outputs_of` finds the logits in what it returns."""

    def __init__(self, module, contender, channels_first=True, outputs_of=lambda outputs: outputs):
        import torch

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.module = module.to(self.device)
        self.call = torch.compile(self.module) if contender.compiled else self.module
        self.outputs_of = outputs_of
        inputs = torch.from_numpy(contender.inputs()).to(self.device)
        self.inputs = inputs.permute(0, 3, 1, 2).contiguous() if channels_first else inputs
        self.optimizer = torch.optim.AdamW(
            module.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        self.half = contender.dtype == "bfloat16"

    def _outputs(self):
        import torch

        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            return self.outputs_of(self.call(self.inputs))

    def forward(self):
        import torch

        self.module.eval()
        with torch.inference_mode():
            self._outputs().float().cpu()

    def train(self):
        import torch

        self.module.train()
        self.optimizer.zero_grad()
        outputs = self._outputs().float()
        if outputs.ndim == 4:  # A merging layer's maps.
            loss = outputs.mean(dim=(1, 2)).square().mean()
        else:
            labels = torch.arange(len(outputs), device=self.device)
            loss = torch.nn.functional.cross_entropy(outputs, labels)
        loss.backward()
        self.optimizer.step()
        loss.item()


def _textbook(contender):
    from textbook import TextbookMerging

    return _TorchSteps(TextbookMerging(*contender.channels), contender, channels_first=False), None


def _transformers(contender):
    import transformers

    family, variant = contender.model.rsplit("_", 1)
    if family == "swin":
        embed_dim, depths, num_heads = _SWIN[variant]
        module = transformers.SwinForImageClassification(
            transformers.SwinConfig(
                embed_dim=embed_dim, depths=depths, num_heads=num_heads, num_labels=CLASSES
            )
        )
    else:
        embed_dims, depths, mlp_ratios = _PVT_V2[variant]
        module = transformers.PvtV2ForImageClassification(
            transformers.PvtV2Config(
                hidden_sizes=embed_dims, depths=depths, mlp_ratios=mlp_ratios, num_labels=CLASSES
            )
        )
    return _TorchSteps(module, contender, outputs_of=lambda outputs: outputs.logits), None


def _timm(contender):
    import timm

    name = contender.model
    if name.startswith("swin"):
        name += "_patch4_window7_224"
    return _TorchSteps(timm.create_model(name, num_classes=CLASSES), contender), None


# The variants whose figures others do not know by name: (embed_dims, depths, mlp_ratios) and
# (embed_dim, depths, num_heads).
_WIDE = [64, 128, 320, 512]
_PVT_V2 = {
    "b0": ([32, 64, 160, 256], [2, 2, 2, 2], [8, 8, 4, 4]),
    "b1": (_WIDE, [2, 2, 2, 2], [8, 8, 4, 4]),
    "b2": (_WIDE, [3, 4, 6, 3], [8, 8, 4, 4]),
}
_SWIN = {"tiny": (96, [2, 2, 6, 2], [3, 6, 12, 24])}


# === The machine's limit ===


class _MatrixProduct:
    """A product of two square matrices, as large as the machine does best."""

    SIDE = 2048

    def __init__(self, contender):
        import keras
        from keras import ops

        dtype = contender.dtype
        self.first, self.second = (
            ops.cast(keras.random.normal((self.SIDE, self.SIDE), seed=seed), dtype)
            for seed in range(2)
        )
        self.product = ops.matmul
        if contender.backend == "jax":
            import jax

            self.product = jax.jit(ops.matmul)

    def forward(self):
        import keras

        product = self.product(self.first, self.second)
        if keras.config.backend() == "torch" and product.is_cuda:
            import torch

            torch.cuda.synchronize()
        elif keras.config.backend() == "jax":
            product.block_until_ready()

    def train(self):
        self.forward()


def _matrix_product(contender):
    return _MatrixProduct(contender), _MatrixProduct.SIDE**3 // contender.batch


LIBRARIES = {
    "keras_spm": _keras_spm,
    "keras_hub": _keras_hub,
    "zeromodels": _zeromodels,
    "textbook": _textbook,
    "transformers": _transformers,
    "timm": _timm,
    "matrix product": _matrix_product,
}


# === The process ===


def _memory():
    """Returns (resident bytes, highest since the last reset) of this process, on Linux."""
    rows = dict(
        line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines()
    )
    return tuple(int(rows[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))


def serve(contender, requests, answer):
    """Answers requests until there are none."""
    if contender.dtype == "bfloat16" and contender.library != "matrix product":
        import keras

        keras.config.set_dtype_policy("mixed_bfloat16")
    steps, multiply_adds = LIBRARIES[contender.library](contender)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets the highest size.
    resident, _ = _memory()
    answer({"multiply_adds": multiply_adds})
    for request in requests:
        request = request.strip()
        if request == "memory":
            answer(_memory()[1] - resident)
            continue
        started = time.perf_counter()
        getattr(steps, request)()
        answer(time.perf_counter() - started)


def main():
    # What libraries print must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(
        Contender(**json.loads(sys.argv[1])),
        sys.stdin,
        lambda value: print(json.dumps(value), file=answers, flush=True),
    )


if __name__ == "__main__":
    main()
