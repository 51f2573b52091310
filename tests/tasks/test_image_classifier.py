"""Training, evaluation and prediction with the image classifier."""

import grain
import keras
import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image

from keras_spm import ImageClassifier
from keras_spm.data import ImagePreprocessing
from tests import golden
from tests.helpers import difference, random_array, randomize, to_numpy

CLASS_NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]


def _classifier(data_format=None, **arguments):
    backbone = golden.two_stage_backbone("pvt_v2", data_format=data_format)
    return ImageClassifier(backbone, 7, class_names=CLASS_NAMES, **arguments)


def _examples(count=8):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 32, 32, 3), dtype="uint8")
    return images, (np.arange(count) % 7).astype("int32")


@pytest.fixture(scope="module")
def trained():
    """One model, compiled by default and fitted once: later fits need no compilation."""
    model = _classifier()
    model.fit(*_examples(), batch_size=4, verbose=0)
    return model


def _py_dataset(images, labels):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return len(labels) // 4

        def __getitem__(self, index):
            rows = slice(4 * index, 4 * index + 4)
            return images[rows], labels[rows]

    return Batches()


def _tf_dataset(images, labels):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)


def _grain_dataset(images, labels):
    examples = grain.MapDataset.source(list(zip(images, labels, strict=True)))
    return examples.batch(4).to_iter_dataset()


def _torch_loader(images, labels):
    examples = torch.utils.data.TensorDataset(torch.tensor(images), torch.tensor(labels))
    return torch.utils.data.DataLoader(examples, batch_size=4)


# Keras warns about every finite Grain data set.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize(
    "source",
    [_tf_dataset, _grain_dataset, _py_dataset, _torch_loader]
    if keras.config.backend() == "torch"
    else [_tf_dataset, _grain_dataset],
)
def test_fit_and_evaluate_accept_all_kinds_of_data_sets(trained, source):
    images, labels = _examples()
    expected = trained.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True)
    data = source(images, labels)
    result = trained.evaluate(data, verbose=0, return_dict=True)
    assert result == pytest.approx(expected, rel=1e-5)
    before = to_numpy(trained.get_layer("head").kernel)
    history = trained.fit(source(images, labels), shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert difference(trained.get_layer("head").kernel, before) > 0


@pytest.mark.graph
@pytest.mark.only("tensorflow")
def test_the_training_step_is_traced_once(monkeypatch):
    """TensorFlow traces a step that creates variables twice, which takes long."""
    traces = []
    step = ImageClassifier.train_step

    def counted(self, data):
        traces.append(self)
        return step(self, data)

    monkeypatch.setattr(ImageClassifier, "train_step", counted)
    _classifier().fit(*_examples(4), verbose=0)
    assert len(traces) == 1


@pytest.mark.graph
def test_training_lowers_the_loss(trained):
    images, labels = _examples()
    before = trained.evaluate(images, labels, batch_size=4, verbose=0)[0]
    trained.optimizer.learning_rate = 1e-3
    trained.fit(images, labels, batch_size=4, epochs=15, verbose=0)
    after, accuracy = trained.evaluate(images, labels, batch_size=4, verbose=0)
    assert after < before / 2 and accuracy > 0.8


def test_pixels_of_any_dtype(trained):
    images, _ = _examples(4)
    expected = trained.predict(images, verbose=0)
    for dtype in ("float32", "float64"):
        assert difference(trained.predict(images.astype(dtype), verbose=0), expected) <= 1e-5


def test_classify_returns_the_most_probable_classes(trained):
    images, _ = _examples(4)
    logits = trained.predict(images, verbose=0).astype("float64")
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    results = trained.classify(images, top=3)
    for row, result in zip(probabilities, results, strict=True):
        order = np.argsort(-row)[:3]
        assert [name for name, _ in result] == [CLASS_NAMES[index] for index in order]
        assert [value for _, value in result] == pytest.approx(row[order], abs=1e-6)
    single = trained.classify(images[0], top=100)
    assert len(single) == 7 and sum(value for _, value in single) == pytest.approx(1)
    assert single[:3] == [(name, pytest.approx(value, abs=1e-6)) for name, value in results[0]]


def test_saved_models_keep_names_optimizer_and_frozen_stages(trained, tmp_path):
    images, labels = _examples()
    trained.freeze(1)
    frozen = to_numpy(trained.backbone.get_layer("stage1").norm.gamma)
    trained.fit(images, labels, batch_size=4, verbose=0)
    assert difference(trained.backbone.stages[0].norm.gamma, frozen) == 0
    trained.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.class_names == CLASS_NAMES
    assert again.backbone.frozen_stages == 1
    assert difference(again.optimizer.iterations, trained.optimizer.iterations) == 0
    assert again.optimizer.weight_decay == trained.optimizer.weight_decay
    assert difference(again.predict(images, verbose=0), trained.predict(images, verbose=0)) == 0
    trained.freeze(0)


def test_freezing_after_fit(trained):
    images, labels = _examples()
    before = {variable.path: to_numpy(variable) for variable in trained.weights}
    trained.freeze(2)
    trained.fit(images, labels, batch_size=4, verbose=0)
    changed = {v.path for v in trained.weights if difference(v, before[v.path])}
    assert changed == {"head/kernel", "head/bias"}
    trained.freeze(0)


@pytest.mark.only("torch")
def test_classify_files_of_any_size(tmp_path):
    model = randomize(_classifier(preprocessing=ImagePreprocessing((32, 32), 0.875)))
    photographs = [
        sklearn.datasets.load_sample_image(f"{name}.jpg") for name in ("china", "flower")
    ]
    paths = [tmp_path / f"{index}.png" for index in range(2)]
    for path, photograph in zip(paths, photographs, strict=True):
        Image.fromarray(photograph).save(path)
    expected = model.predict(model.preprocessing(photographs), verbose=0)
    expected_names = [CLASS_NAMES[index] for index in expected.argmax(-1)]
    assert [name for ((name, _),) in model.classify(paths, top=1)] == expected_names
    assert model.classify(str(paths[1]), top=1)[0][0] == expected_names[1]
    assert model.classify(Image.open(paths[0]), top=1)[0][0] == expected_names[0]
    again = ImageClassifier.from_config(model.get_config())
    assert again.preprocessing.get_config() == model.preprocessing.get_config()


@pytest.mark.only("torch")
def test_classify_without_preprocessing(tmp_path):
    model = randomize(_classifier())
    images, _ = _examples(2)
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    assert model.classify(tmp_path / "image.png") == model.classify(images[0])
    with pytest.raises(ValueError, match="Images of several sizes need `preprocessing`"):
        model.classify([images[0], images[1][:, :16]])


@pytest.mark.only("torch")
def test_classify_with_channels_first():
    images, _ = _examples(2)
    model, other = _classifier(), _classifier(data_format="channels_first")
    randomize(model), randomize(other)
    assert [name for name, _ in other.classify(images[0])] == [
        name for name, _ in model.classify(images[0])
    ]


@pytest.mark.only("torch")
def test_softmax_activation():
    model = randomize(_classifier(activation="softmax"))
    outputs = model.predict(_examples(2)[0], verbose=0)
    assert outputs.sum(-1) == pytest.approx(1)
    assert model.classify(_examples(1)[0][0], top=1)[0][1] == pytest.approx(outputs[0].max())
    assert model.loss.get_config()["from_logits"] is False


@pytest.mark.only("torch")
@pytest.mark.parametrize("names", [["a", "b"], ["a"] * 7])
def test_class_names_must_match_the_number_of_classes(names):
    backbone = golden.short_backbone("pvt_v2_spm")
    with pytest.raises(ValueError, match="7 distinct names"):
        ImageClassifier(backbone, 7, class_names=names)


def test_a_layer_in_a_user_model():
    """Trained and rebuilt like any other layer."""
    from keras_spm.layers import StepwisePatchMerging

    images = keras.Input((None, None, 8))
    pooled = keras.layers.GlobalAveragePooling2D()(StepwisePatchMerging(16)(images))
    model = keras.Model(images, keras.layers.Dense(1)(pooled))
    model.compile("sgd", "mse")
    model.fit(random_array(4, 9, 6, 8), np.ones((4, 1)), verbose=0)
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    maps = random_array(2, 5, 8, 8)
    assert difference(again.predict(maps, verbose=0), model.predict(maps, verbose=0)) == 0


@pytest.mark.only("torch")
def test_multi_label_classification(tmp_path):
    model = _classifier(multi_label=True)
    images, _ = _examples()
    labels = (np.random.default_rng(1).random((8, 7)) < 0.4).astype("float32")
    labels[0] = 0
    result = model.evaluate(images, labels, verbose=0, return_dict=True)
    logits = model.predict(images, verbose=0).astype("float64")
    expected = np.mean(np.log1p(np.exp(logits)) - labels * logits)
    assert result["loss"] == pytest.approx(expected, rel=1e-5)
    assert result["accuracy"] == pytest.approx(np.mean((logits > 0) == labels), abs=1e-6)
    assert 0 <= result["average_precision"] <= 1
    (named,) = model.classify(images[:1], top=7)
    sigmoid = 1 / (1 + np.exp(-logits[0]))
    found = dict(named)
    assert [found[name] for name in CLASS_NAMES] == pytest.approx(sigmoid, abs=1e-6)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.multi_label and isinstance(again.loss, keras.losses.BinaryCrossentropy)
    model.save_to_preset(tmp_path / "preset")
    preset = ImageClassifier.from_preset(str(tmp_path / "preset"))
    assert preset.multi_label
    assert difference(preset.predict(images, verbose=0), model.predict(images, verbose=0)) == 0


@pytest.mark.only("torch")  # Keras applies them in the same way on all backends.
def test_class_weights():
    images, labels = _examples()
    weights = {label: 1.0 + label for label in range(7)}
    losses = []
    for arguments in (
        {"class_weight": weights},
        {"sample_weight": np.array([weights[label] for label in labels])},
        {},
    ):
        keras.utils.set_random_seed(0)
        model = _classifier()
        losses.append(model.fit(images, labels, verbose=0, **arguments).history["loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) != losses[2]
