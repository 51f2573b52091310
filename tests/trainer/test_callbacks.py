"""Files of a run: TensorBoard's curves and samples; the revision; the plan's memory."""

import pathlib
import subprocess
import types

import keras
import numpy as np
import pytest
from matplotlib.figure import Figure

from keras_spm import environment, layers
from keras_spm.backend import bytes_kept_for_gradient
from keras_spm.trainer import Setup
from keras_spm.trainer.callbacks import DrawSamples, TensorBoard
from keras_spm.trainer.dry_run import step_bytes


def _logged(folder):
    """Logs three epochs, in a training and a resumed one."""
    optimizer = types.SimpleNamespace(learning_rate=keras.ops.convert_to_tensor(0.25))
    for epochs in ((0, 1), (2,)):
        log = TensorBoard(folder)
        log.set_model(types.SimpleNamespace(optimizer=optimizer))
        for epoch in epochs:
            log.on_epoch_end(epoch, {"loss": 300.5 / (epoch + 1), "val_loss": np.float32(epoch)})
        log.on_train_end()


@pytest.mark.only("tensorflow")  # It has a reader of its own.
def test_tensorflow_reads_the_log(tmp_path):
    import tensorflow as tf

    _logged(tmp_path)
    read = {}
    for path in sorted(tmp_path.rglob("*tfevents*")):
        (version, *events) = tf.compat.v1.train.summary_iterator(str(path))
        assert version.file_version == "brain.Event:2"
        for event in events:
            assert abs(event.wall_time - path.stat().st_mtime) < 60
            for value in event.summary.value:
                key = (path.parent.name, value.tag, event.step)
                assert key not in read
                read[key] = value.simple_value
    steps = (1, 2, 3)
    expected = {("training", "loss", step): np.float32(300.5 / step) for step in steps}
    expected |= {("validation", "loss", step): step - 1 for step in steps}
    expected |= {("training", "learning_rate", step): 0.25 for step in steps}
    assert read == expected


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    figures = []

    def save(figure, path, **_):
        path.touch()
        figures.append(figure)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Figure, "savefig", save)
    return figures


def _draw(model, images, targets):
    pathlib.Path("samples.png").unlink(missing_ok=True)
    DrawSamples(Setup(model, [(images, targets)], 1), pathlib.Path("samples.png")).on_train_begin()


@pytest.mark.only("torch")
def test_samples_of_tasks(drawn):
    from keras_spm.tasks import ImageClassifier, ObjectDetector, SemanticSegmenter

    def task(cls):
        model = cls.__new__(cls)
        object.__setattr__(model, "class_names", ["cat", "dog", "cow"])
        return model

    images = np.random.default_rng(0).integers(0, 256, (10, 8, 12, 3), dtype="uint8")
    labels = np.zeros((10, 3), "float32")
    labels[0, 1], labels[1, [0, 2]], labels[2] = 1, 1, (0.25, 0, 0.75)
    _draw(task(ImageClassifier), images.astype("float32"), labels)
    titles = [axis.get_title() for axis in drawn[0].axes]
    assert titles == ["dog", "cat, cow", "cow 0.75, cat 0.25", *["none"] * 5]
    shown = [np.asarray(axis.get_images()[0].get_array()) for axis in drawn[0].axes]
    np.testing.assert_array_equal(shown, images[:8])
    _draw(task(ImageClassifier), images[:3], np.array([2, 0, 1]))
    assert [axis.get_title() for axis in drawn[1].axes] == ["cow", "cat", "dog"]
    _draw(task(SemanticSegmenter), images[:2], np.zeros((2, 8, 12), int))
    assert [axis.get_title() for axis in drawn[2].axes[:2]] == ["image", "truth"]
    targets = {"boxes": np.ones((1, 2, 4)), "labels": np.array([[1, -1]])}
    _draw(task(ObjectDetector), images[:1], targets)
    assert [text.get_text() for text in drawn[3].axes[0].texts] == ["dog"]


@pytest.mark.only("torch")
def test_the_revision_of_the_package(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", tmp_path, *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    installed = tmp_path / "environment.py"
    installed.write_text("")
    monkeypatch.setattr(environment, "__file__", str(installed))
    assert environment.git_revision() is None
    git("init")
    (tmp_path / "other").write_text("")
    git("add", "other")
    git("commit", "-m", "a project around an installed package")
    assert environment.git_revision() is None
    git("add", "environment.py")
    git("commit", "-m", "the package")
    assert environment.git_revision() == git("rev-parse", "HEAD")
    installed.write_text("# changed")
    assert environment.git_revision() == git("rev-parse", "HEAD") + "+changes"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.git_revision() is None


@pytest.mark.parametrize("norms", [0, 1])
def test_memory_of_a_step(norms):
    """Each layer keeps its inputs, and tanh its outputs: 5 and 700 floats."""
    model = keras.Sequential(
        [
            keras.Input((5,)),
            *(layers.BatchNormalization() for _ in range(norms)),
            keras.layers.Dense(700, activation="tanh"),
            keras.layers.Dense(700, activation="tanh"),
        ]
    )
    model.compile("adam", "mse")
    images, targets = np.ones((3, 5), "float32"), np.ones((3, 700), "float32")
    kept = [bytes_kept_for_gradient(model, images[:n], targets[:n]) for n in (1, 3)]
    # The loss keeps its 700 differences, and possibly the squares.
    minimum = 4 * (5 * (1 + norms) + 700 + 700 + 700)
    assert minimum <= (kept[1] - kept[0]) / 2 <= minimum + 4 * 2 * 700
    model_bytes, image_bytes = step_bytes(model, images, targets)
    weights = 2 * 5 * norms + 5 * 700 + 700 + 700 * 700 + 700
    # Weights, gradients and both moments; a few counters, and the statistics of the norm.
    assert 0 <= model_bytes - 4 * 4 * weights <= 100
    assert image_bytes == pytest.approx((kept[1] - kept[0]) / 2, rel=0.01)
