"""Training, evaluation and prediction with the semantic segmenter."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_spm import SemanticSegmenter, heads
from keras_spm.data import ImageBatching
from tests import golden
from tests.helpers import conv_backbone, difference, randomize, to_numpy


def _examples(count=4):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 32, 32, 3), dtype="uint8")
    labels = (images[..., 0] > 127).astype("int32")
    labels[:, :4] = 255
    return images, labels


@pytest.fixture(scope="module")
def trained():
    model = golden.segmenter()
    model.fit(*_examples(), batch_size=2, verbose=0)
    return model


@pytest.mark.graph
def test_fit_and_evaluate_with_defaults(trained):
    metrics = trained.evaluate(*_examples(), verbose=0, return_dict=True)
    assert set(metrics) == {"loss", "mean_iou", "pixel_accuracy"}
    assert all(np.isfinite(value) for value in metrics.values())


def test_the_loss_is_the_mean_over_counted_pixels(trained):
    images, labels = _examples()
    logits = trained.predict(images, verbose=0).astype("float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counted = labels != 255
    expected = -np.take_along_axis(log_probabilities, (labels * counted)[..., None], -1)[counted]
    metrics = trained.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True)
    assert metrics["loss"] == pytest.approx(expected.mean(), rel=1e-5)
    predictions = logits.argmax(-1)
    assert metrics["pixel_accuracy"] == pytest.approx((predictions == labels)[counted].mean())


def test_ignored_pixels_have_no_gradient(trained):
    images, labels = _examples()
    model = golden.segmenter()
    model.set_weights(trained.get_weights())
    model.compile(keras.optimizers.SGD(0.1))
    before = [np.array(each) for each in model.get_weights()]
    paths = [each.path for each in model.weights]
    history = model.fit(images, np.full_like(labels, 255), batch_size=4, verbose=0).history
    assert history["loss"] == [0]
    for path, old, new in zip(paths, before, model.get_weights(), strict=True):
        if "moving" not in path and "seed" not in path:
            assert difference(old, new) == 0, path


def test_segment_returns_maps_of_the_images_own_sizes(trained, tmp_path):
    images, _ = _examples()
    large = np.random.default_rng(1).integers(0, 256, (70, 45, 3), dtype="uint8")
    Image.fromarray(large).save(tmp_path / "large.png")
    maps = trained.segment([images[0], tmp_path / "large.png", images[1][:, :20]])
    assert [each.shape for each in maps] == [(32, 32), (70, 45), (32, 20)]
    # Without padding, the result is that of `predict`.
    alone = trained.segment([images[0]])[0]
    expected = trained.predict(images[:1], verbose=0)[0].argmax(-1)
    np.testing.assert_array_equal(alone, expected)


@pytest.mark.only("torch")
def test_segment_upsamples_logits_of_reduced_images():
    model = randomize(golden.segmenter(batching=ImageBatching(min_size=32, max_size=64)))
    image = np.random.default_rng(1).integers(0, 256, (96, 120, 3), dtype="uint8")
    reduced = np.asarray(Image.fromarray(image).resize((40, 32), Image.Resampling.BILINEAR))
    batch, _ = ImageBatching()([reduced])
    logits = model.predict(batch, verbose=0)[:, :32, :40]
    enlarged = keras.ops.image.resize(logits, (96, 120), data_format="channels_last")
    expected = keras.ops.convert_to_numpy(keras.ops.argmax(enlarged, axis=-1))[0]
    np.testing.assert_array_equal(model.segment([image])[0], expected)


@pytest.mark.only("torch")
def test_images_of_several_sizes_in_a_batch():
    images = [np.full((height, width, 3), 7, "uint8") for height, width in ((30, 100), (64, 20))]
    batch, geometries = ImageBatching()(images)
    assert batch.shape == (2, 64, 128, 3)
    assert [geometry.resized for geometry in geometries] == [(30, 100), (64, 20)]
    assert (batch[0, :30, :100] == 7).all() and (batch[0, 30:] == (124, 116, 104)).all()
    _, geometries = ImageBatching(min_size=60, max_size=100)(images)
    assert [geometry.resized for geometry in geometries] == [(30, 100), (100, 31)]
    assert geometries[1].original == (64, 20)


@pytest.mark.only("torch")
def test_only_the_classifier_depends_on_the_number_of_classes(trained, tmp_path):
    trained.save_to_preset(tmp_path / "folder")
    again = SemanticSegmenter.from_preset(tmp_path / "folder")
    other = SemanticSegmenter.from_preset(tmp_path / "folder", num_classes=5)
    ours = {variable.path: to_numpy(variable) for variable in trained.weights}
    missing = {"decoder/classifier/kernel", "decoder/classifier/bias"}
    assert not again.load_report.missing_keys
    assert set(other.load_report.missing_keys) == missing
    for model, paths in ((again, ours), (other, ours.keys() - missing)):
        values = {variable.path: to_numpy(variable) for variable in model.weights}
        for path in paths:
            assert "seed" in path or (values[path] == ours[path]).all(), path


@pytest.mark.only("torch")  # The detector is trained in float16 on every backend.
def test_mixed_precision_stays_finite():
    decoder = heads.SemanticFPN(pyramid_channels=8, channels=8)
    model = SemanticSegmenter(golden.short_backbone("pvt_v2", dtype="mixed_float16"), 3, decoder)
    images, labels = _examples()
    assert np.isfinite(model.fit(images, labels, verbose=0).history["loss"]).all()
    assert all(np.isfinite(weights).all() for weights in model.get_weights())
    assert to_numpy(model(images)).dtype == "float32"


@pytest.mark.only("torch")
@pytest.mark.parametrize("names", [["a", "b"], ["a"] * 3])
def test_class_names_must_match_the_number_of_classes(names):
    with pytest.raises(ValueError, match="3 distinct names"):
        golden.segmenter(class_names=names)


@pytest.mark.only("torch")
def test_a_decoder_of_ones_own(tmp_path):
    """Any layer from maps to logits, of any stride."""

    class Decoder(heads.Head):
        levels = ("P5",)

        def build(self, input_shape):
            self.classifier = keras.layers.Dense(self.num_classes, name="classifier")
            self.classifier.build(input_shape["P5"])

        def call(self, inputs):
            return self.classifier(inputs["P5"])

    model = SemanticSegmenter(golden.short_backbone("pvt_v2"), 3, Decoder())
    images, labels = _examples()
    assert np.isfinite(model.fit(images, labels, verbose=0).history["loss"]).all()
    assert model.predict(images, verbose=0).shape == (4, 32, 32, 3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert difference(again.predict(images, verbose=0), model.predict(images, verbose=0)) == 0
    fewer = heads.SemanticFPN(pyramid_channels=8, channels=8)
    fewer.levels = ("P2", "P3", "P4", "P6")
    with pytest.raises(ValueError, match="must have P2, P3, P4, P6 in its `pyramid_outputs`"):
        SemanticSegmenter(golden.short_backbone("pvt_v2"), 3, fewer)


@pytest.mark.only("torch")
def test_a_decoder_must_output_the_number_of_classes():
    class WrongDecoder(heads.Head):
        def call(self, inputs):
            return inputs["P2"]

    with pytest.raises(ValueError, match="`decoder` must output 3 channels"):
        SemanticSegmenter(golden.short_backbone("pvt_v2"), 3, WrongDecoder())


@pytest.fixture(scope="module")
def small():
    """One that compiles fast, without a source of randomness, and examples with logits."""
    decoder = heads.SemanticFPN(pyramid_channels=8, channels=8, dropout=0.0)
    model = randomize(SemanticSegmenter(conv_backbone(), 3, decoder))
    for layer in model.decoder._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    model.compile(keras.optimizers.SGD(0.0))
    images, labels = _examples(2)
    labels[1] = 2
    logits = model.predict(images, verbose=0).astype("float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counted = labels != 255
    losses = -np.take_along_axis(log_probabilities, (labels * counted)[..., None], -1)[..., 0]
    return model, images, labels, losses * counted, counted.sum()


def test_weights_of_images_and_of_pixels(small):
    model, images, labels, losses, count = small
    weights = np.float32([2, 0.5])
    expected = (losses * weights[:, None, None]).sum() / count
    for given in (weights, np.broadcast_to(weights[:, None, None], labels.shape).copy()):
        arguments = {"sample_weight": given, "verbose": 0}
        found = model.evaluate(images, labels, return_dict=True, **arguments)["loss"]
        assert found == pytest.approx(expected, rel=1e-5)
        history = model.fit(images, labels, **arguments).history
        assert history["loss"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.only("torch")
def test_weights_of_classes(small):
    """In the loss of the training alone; other calls of `fit` have none."""
    model, images, labels, losses, count = small
    factors = np.array([1.0, 3.0, 0.5, *[0] * 253])[labels]
    for weights, expected in (
        ({1: 3.0, 2: 0.5}, (losses * factors).sum() / count),
        (None, losses.sum() / count),
    ):
        validation = {"validation_data": (images, labels), "verbose": 0}
        history = model.fit(images, labels, class_weight=weights, **validation).history
        assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
        assert history["val_loss"][0] == pytest.approx(losses.sum() / count, rel=1e-5)
    with pytest.raises(ValueError, match="`class_weight` must be an integer from 0 to 2"):
        model.fit(images, labels, class_weight={3: 1.0})


@pytest.mark.only("torch")
def test_maps_with_a_channel(small):
    model, images, labels, *_ = small
    expected = model.evaluate(images, labels, verbose=0)
    assert model.evaluate(images, labels[..., None], verbose=0) == pytest.approx(expected, rel=1e-6)


@pytest.mark.only("torch")
def test_a_map_of_many_classes(tmp_path):
    model = SemanticSegmenter(conv_backbone(), 300, ignore_class=None)
    prediction = np.arange(300).reshape(10, 30)
    model.predict_record(prediction, None, output=tmp_path / "map.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "map.png")), prediction)
