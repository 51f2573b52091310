"""Tasks and backbones with Keras's own tools: saving, cloning, parts of the graph, compile."""

import json
import zipfile

import keras
import numpy as np
import pytest

import keras_spm
from keras_spm import heads
from keras_spm.layers import ImageNormalization
from tests.helpers import (
    check_equal,
    check_round_trips,
    difference,
    random_array,
    randomize,
    to_numpy,
)

TINY = {
    "embed_dims": (8, 16, 24, 32),
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 3, 4),
    "mlp_ratios": (2, 2, 2, 2),
    "sr_ratios": (4, 2, 1, 1),
}


def _backbone(**arguments):
    return keras_spm.PVTv2(**TINY, **arguments)


def _decoder():
    return heads.SemanticFPN(pyramid_channels=8, channels=8)


def _detector():
    return heads.RetinaNet(pyramid_channels=8, channels=8, num_convs=1, max_detections=5)


class MyClassifier(keras_spm.ImageClassifier):
    """A subclass with an argument of its own, as users write it."""

    def __init__(self, backbone, num_classes, temperature=1.0, **kwargs):
        super().__init__(backbone, num_classes, **kwargs)
        self.temperature = temperature

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}


class MySegmenter(keras_spm.SemanticSegmenter):
    """A subclass with another default."""

    def compile(self, optimizer="sgd", **kwargs):
        super().compile(optimizer=optimizer, **kwargs)


class MyDetector(keras_spm.ObjectDetector):
    """A subclass that changes nothing."""


# name → function (backbone, task class) → task
TASKS = {
    "ImageClassifier": lambda backbone, cls=keras_spm.ImageClassifier: cls(backbone, 3),
    "SemanticSegmenter": lambda backbone, cls=keras_spm.SemanticSegmenter: cls(
        backbone, 3, _decoder()
    ),
    "ObjectDetector": lambda backbone, cls=keras_spm.ObjectDetector: cls(backbone, 3, _detector()),
}
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")

ON_TORCH = keras.config.backend() == "torch"

tasks = pytest.mark.parametrize("name", TASKS)


@pytest.fixture(scope="module", params=TASKS)
def model(request):
    """One model of each task; tests compile and freeze it as they need it."""
    return randomize(TASKS[request.param](_backbone()))


@pytest.fixture(scope="module")
def backbone():
    return randomize(_backbone())


def _optimizer(model):
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


# Serialization


def test_round_trips(model, tmp_path):
    check_round_trips(model, IMAGES, tmp_path)
    assert type(keras.saving.load_model(tmp_path / "model.keras")) is type(model)


@pytest.mark.parametrize(
    "model", TASKS if ON_TORCH else ["ImageClassifier"], indirect=True, scope="module"
)
def test_models_with_inner_outputs(model, tmp_path):
    """The stages are layers of the task's graph."""
    outputs = [model.get_layer("stage4").output, model.output]
    check_round_trips(keras.Model(model.input, outputs), IMAGES, tmp_path)


_OUTPUTS = {
    "pooled": lambda backbone: keras.layers.Dense(3, name="head")(backbone.pooled_output),
    "pyramid": lambda backbone: backbone.pyramid_outputs,
    "stage": lambda backbone: backbone.get_layer("stage2").output,
    "nested": lambda backbone: keras.layers.Dense(3, name="head")(backbone(backbone.input)),
}


# The graph is Keras's: one model on every backend, all on one.
@pytest.mark.parametrize("kind", [*_OUTPUTS] if ON_TORCH else ["pooled"])
def test_models_on_a_backbone(backbone, kind, tmp_path):
    check_round_trips(keras.Model(backbone.input, _OUTPUTS[kind](backbone)), IMAGES, tmp_path)


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    ("name", "cls"), zip(TASKS, [MyClassifier, MySegmenter, MyDetector], strict=True)
)
def test_subclasses_of_tasks(name, cls, tmp_path):
    model = TASKS[name](_backbone(), cls)
    if cls is MyClassifier:
        model.temperature = 2.0
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    check_equal(model, again, IMAGES)
    assert type(again) is cls and again.get_config() == model.get_config()
    assert type(_optimizer(again)) is type(_optimizer(model))


# Grad-CAM


def _gradient_of_maps(model, images):
    """Returns the fourth stage's map and the gradient of the sum of the outputs by it."""
    maps = model.get_layer("stage4").output
    backend = keras.config.backend()
    if backend == "jax":
        import jax

        first = keras.Model(model.input, maps)
        second = keras.Model([model.input, maps], model.output)
        values = first(images)
        return values, jax.grad(lambda each: _total(second([images, each])))(values)
    both = keras.Model(model.input, [maps, model.output])
    if backend == "torch":
        values, outputs = both(images)
        values.retain_grad()
        _total(outputs).backward()
        return values.detach(), values.grad
    import tensorflow as tf

    with tf.GradientTape() as tape:
        values, outputs = both(images)
        total = _total(outputs)
    return values, tape.gradient(total, values)


def _total(outputs):
    """The sum of the outputs that depend on the images."""
    if isinstance(outputs, dict):
        outputs = list(outputs["logits"].values())
    return sum(keras.ops.sum(each) for each in keras.tree.flatten(outputs))


@pytest.mark.only("torch")
def test_gradients_of_inner_maps(model):
    """Against a numerical derivative in a random direction."""
    images = keras.ops.convert_to_tensor(IMAGES)
    maps, gradient = _gradient_of_maps(model, images)
    gradient = to_numpy(gradient)
    assert gradient.shape == tuple(maps.shape) == (2, 2, 2, 32)
    rest = keras.Model([model.input, model.get_layer("stage4").output], model.output)
    direction = random_array(2, 2, 2, 32, seed=1)
    step = 1e-2 * direction
    step = keras.ops.convert_to_tensor(step)
    upper, lower = (
        to_numpy(_total(rest([images, maps + sign * step]))).astype("float64") for sign in (1, -1)
    )
    expected = (upper - lower) / 2e-2
    scale = np.abs(gradient * direction).sum()
    assert abs((gradient * direction).sum() - expected) <= 2e-2 * scale and scale > 0


# Mixed precision


@tasks
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_policy_and_optimizer(name, policy):
    model = TASKS[name](_backbone(dtype=policy))
    assert model.dtype_policy.name == policy
    is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (policy == "mixed_float16")


@pytest.mark.only("torch")
@tasks
def test_images_are_normalized_in_float32(name):
    """Half precision would round pixels to multiples of 1 / 8."""
    model = randomize(TASKS[name](_backbone(dtype="mixed_float16")))
    images = keras.ops.convert_to_tensor(IMAGES)
    exact = keras.ops.cast(ImageNormalization(dtype="float32")(images), "float16")
    normalized = model.get_layer("normalization").output
    assert difference(keras.Model(model.input, normalized)(images), exact) == 0
    rest = keras.Model([model.input, normalized], model.output)
    results = (keras.tree.flatten(each) for each in (model(images), rest([images, exact])))
    assert all(difference(*pair) == 0 for pair in zip(*results, strict=True))


# Compiling and freezing


def _my_loss(targets, outputs):
    return keras.ops.mean(keras.ops.square(outputs), axis=-1)


def _my_metric(annotations, detections):
    return {"images": len(annotations)}


@pytest.mark.only("torch")
def test_freezing_keeps_compile_arguments(model):
    """Also functions that are not registered for serialization."""
    if isinstance(model, keras_spm.ObjectDetector):
        model.compile(metrics=[_my_metric], run_eagerly=True)
        model.freeze(2)
        targets = {"boxes": np.float32([[[8, 8, 40, 50]]] * 2), "labels": np.zeros((2, 1), "int32")}
        logs = model.evaluate(IMAGES, targets, verbose=0, return_dict=True)
        assert logs["images"] == 2
    else:
        model.compile(loss=_my_loss, metrics=[], run_eagerly=True)
        model.freeze(2)
        outputs = model(IMAGES)
        loss = model.compute_loss(y=np.zeros(outputs.shape[:-1]), y_pred=outputs)
        expected = np.square(to_numpy(outputs)).mean()
        assert to_numpy(loss) == pytest.approx(expected, rel=1e-5)
    assert model.run_eagerly and model.backbone.frozen_stages == 2
    model.freeze(0)


@pytest.mark.parametrize("optimizer", ["sgd", lambda: keras.optimizers.SGD(0.1, momentum=0.9)])
def test_freezing_renews_the_optimizer(model, optimizer):
    """It keeps the learning rate, and has slots for the trainable variables only."""
    model.compile(optimizer=optimizer if isinstance(optimizer, str) else optimizer())
    before = model.optimizer
    before.build(model.trainable_variables)
    before.learning_rate = 0.5
    model.freeze(2)
    assert model.optimizer is not before and not model.optimizer.built
    assert float(to_numpy(model.optimizer.learning_rate)) == 0.5
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert model.optimizer.momentum == before.momentum
    model.freeze(0)


@pytest.mark.only("torch")
def test_models_without_optimizer(model, tmp_path):
    model.compile(optimizer=None)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer is None
    check_equal(model, again, IMAGES)
    model.freeze(2)
    assert model.optimizer is None
    model.freeze(0)


@pytest.mark.parametrize("jit_compile", [None, False])
def test_saved_jit_compile(model, jit_compile, tmp_path):
    """A file works on another backend unless the user chose a compiler."""
    model.compile(**({} if jit_compile is None else {"jit_compile": jit_compile}))
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        config = json.loads(file.read("config.json"))["compile_config"]
    assert config["jit_compile"] == ("auto" if jit_compile is None else jit_compile)
    model.compile()


def test_compile_config_by_name(model):
    model.compile(optimizer="sgd")
    again = type(model).from_config(model.get_config())
    again.compile_from_config(json.loads(json.dumps(model.get_compile_config())))
    assert isinstance(again.optimizer, keras.optimizers.SGD)
    model.compile()
