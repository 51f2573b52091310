"""Interrupted and failing trainings, and resuming them."""

import hashlib
import os
import pathlib
import resource

import keras
import numpy as np
import pytest

from keras_spm import trainer
from keras_spm.cli import main
from keras_spm.trainer import dense
from keras_spm.trainer.checkpoints import Checkpoints, non_finite_names
from keras_spm.trainer.run_folder import RunFolder
from tests.trainer import small_training
from tests.trainer.small_training import (
    FEATURES,
    STEPS,
    Recipe,
    batches,
    read_run,
    small_model,
    train_small,
)


class At(keras.callbacks.Callback):
    """Calls a function before a step (from 0) of a `fit`."""

    def __init__(self, step, function):
        super().__init__()
        self._remaining = step
        self._function = function

    def on_train_batch_begin(self, batch, logs=None):
        self._remaining -= 1
        if self._remaining == -1:
            self._function()


def _interrupt():
    raise KeyboardInterrupt


def _interrupted(output, step):
    with pytest.raises(KeyboardInterrupt):
        train_small(output, callbacks=[At(step, _interrupt)])


def _checkpoints(output):
    return sorted(output.with_name(f"{output.name}-UNFINISHED").glob("checkpoints/*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results of a run that was not interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    train_small(output)
    return read_run(output)


def test_an_interrupted_run_resumes_bit_exactly(whole, tmp_path):
    output = tmp_path / "run"
    reached = []
    for step in (1, 5, 10, 3):  # Before any checkpoint, in an epoch, after one, in its part.
        _interrupted(output, step)
        reached.append([path.name[-2:] for path in _checkpoints(output)])
    assert reached == [["00"], ["00", "03"], ["09", "12"], ["09", "12"]]
    train_small(output)
    assert read_run(output) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not list(output.glob("checkpoints"))


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path):
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)


DAMAGES = [
    (_truncate, "state.safetensors", "the checksum of state.safetensors differs"),
    (_flip, "state.safetensors", "the checksum of state.safetensors differs"),
    (_flip, "best.keras", "the checksum of best.keras differs"),
    (pathlib.Path.unlink, "best.keras", "SHA256SUMS lists best.keras"),
    (pathlib.Path.unlink, "progress.json", "it contains best.keras, state.safetensors"),
    (_flip, "SHA256SUMS", "SHA256SUMS"),
    (pathlib.Path.unlink, "SHA256SUMS", "SHA256SUMS is missing"),
]


@pytest.mark.only("torch")  # Files are the same on every backend.
@pytest.mark.parametrize(("damage", "file", "message"), DAMAGES)
def test_a_damaged_checkpoint_is_skipped(whole, tmp_path, damage, file, message):
    output = tmp_path / "run"
    _interrupted(output, 13)
    newest = _checkpoints(output)[-1] / file
    contents = newest.read_bytes()
    newest.unlink()  # The best model of both checkpoints is the same file.
    newest.write_bytes(contents)
    damage(newest)
    with pytest.warns(UserWarning, match=f"step-000000012 is damaged .*{message}.*step-000000009"):
        train_small(output)
    assert read_run(output) == whole


@pytest.mark.only("torch")
def test_no_valid_checkpoint_is_an_error(tmp_path):
    output = tmp_path / "run"
    _interrupted(output, 13)
    for path in _checkpoints(output):
        _truncate(path / "progress.json")
    with pytest.raises(trainer.TrainingError, match="000009 is damaged .*Delete .*UNFINISHED to"):
        train_small(output)
    assert len(_checkpoints(output)) == 2


@pytest.mark.only("torch")
def test_unfinished_files_of_a_killed_process_are_removed(whole, tmp_path):
    output = tmp_path / "run"
    _interrupted(output, 5)
    folder = _checkpoints(output)[-1].parent
    (folder / "unfinished").mkdir()
    (folder / "unfinished/state.safetensors").write_bytes(b"half")
    (folder.parent / ".unfinished-best.keras").write_bytes(b"half")
    train_small(output)
    assert read_run(output) == whole and not list(output.glob(".*"))


@pytest.mark.only("torch")
def test_a_full_disk_is_reported_and_the_run_resumes(whole, tmp_path):
    output = tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = At(5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1])))
    try:
        with pytest.raises(trainer.TrainingError) as caught:
            train_small(output, callbacks=[full])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for part in ("step 6", str(output), "File too large", "step-000000003 is valid"):
        assert part in str(caught.value)
    assert [path.name[-2:] for path in _checkpoints(output)] == ["00", "03"]
    train_small(output)
    assert read_run(output) == whole


@pytest.mark.only("torch")
def test_other_files_between_checkpoints_are_kept(whole, tmp_path):
    output = tmp_path / "run"
    _interrupted(output, 5)
    folder = _checkpoints(output)[-1].parent
    stray = ("notes/mine.txt", "step-notes/mine.txt", ".DS_Store", ".nfs0001", "step-3.txt")
    for name in stray:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "step-000000003/.DS_Store").write_text("")
    train_small(output)
    assert read_run(output) == whole
    found = {
        str(path.relative_to(output / "checkpoints"))
        for path in (output / "checkpoints").rglob("*")
        if path.is_file()
    }
    assert found == set(stray)


@pytest.mark.only("torch")
def test_file_systems_without_locks_or_folder_flushes(whole, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(95, "Operation not supported")

    fsync = os.fsync

    def fsync_of_files(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            refuse()
        fsync(descriptor)

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    monkeypatch.setattr(os, "fsync", fsync_of_files)
    with pytest.warns(UserWarning, match="cannot be locked .*Operation not supported") as caught:
        train_small(tmp_path / "run")
    assert sum("cannot be locked" in str(each.message) for each in caught) == 1
    assert read_run(tmp_path / "run") == whole


@pytest.mark.only("torch")
def test_another_recipe_or_process_is_refused(tmp_path):
    output = tmp_path / "run"
    _interrupted(output, 5)

    def contents():
        return {
            path: (path.stat().st_mtime_ns, hashlib.md5(path.read_bytes()).digest())
            for path in tmp_path.rglob("*")
            if path.is_file()
        }

    before = contents()
    with pytest.raises(
        FileExistsError, match="another recipe .epochs: 3 in the folder, 4 now.*--output"
    ):
        train_small(output, Recipe(epochs=4))
    assert contents() == before
    environment = tmp_path / "run-UNFINISHED" / "environment.json"
    written = environment.read_text()
    environment.write_text(written.replace('"torch"', '"jax"'))
    with pytest.raises(FileExistsError, match="backend: 'jax' in the folder, 'torch' now"):
        train_small(output)
    environment.write_text(written)
    other = RunFolder(output)
    other.start(Recipe())
    with pytest.raises(FileExistsError, match="UNFINISHED is in use by another process"):
        train_small(output)
    other.release()


def _features(index):
    features = FEATURES.copy()
    features[index, 2] = np.nan
    return {"data": batches(features=features)}


def _targets():
    def soft(batch):
        images, labels = batch
        targets = np.eye(3, dtype="float32")[labels]
        targets[1, 0] = np.nan if images[0, 0] > 1 else targets[1, 0]
        return images, targets

    model = small_model(0)
    model.compile(model.optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    return {"data": batches().map(soft), "model": model}


def _loss():
    def loss(y_true, y_pred):
        return keras.ops.log(keras.ops.sum(y_pred, axis=-1) * 0 - 1)

    model = small_model(0)
    model.compile(model.optimizer, loss)
    return {"model": model}


class _ZeroScale(keras.layers.Layer):
    """Zero, with a gradient of zero times infinity."""

    def build(self, input_shape):
        self.scale = self.add_weight((), "zeros", name="scale")

    def call(self, inputs):
        return inputs * (1 + keras.ops.sqrt(keras.ops.square(self.scale)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: _features(7), r"at step \d the images of its batch are not finite \(number \d of"),
        (_targets, r"the targets of its batch are not finite \(number 2 of 5\)"),
        (_loss, r"After step \d, .*: at step 1 loss is not finite, but the model's outputs and"),
        (
            lambda: {"model": small_model(0, _ZeroScale(name="zero"))},
            "at step 1 the gradient of .*zero/scale is not finite, but the loss is",
        ),
    ],
    ids=["image", "label", "loss", "gradient"],
)
def test_the_cause_of_non_finite_values_is_reported(tmp_path, arguments, message):
    output = tmp_path / "run"
    with pytest.raises(trainer.TrainingError, match=message) as caught:
        train_small(output, **arguments())
    assert "is valid: the same command resumes from it" in str(caught.value)
    for path in _checkpoints(output):
        checkpoint = small_training.read_checkpoint(path)
        assert checkpoint and not non_finite_names(checkpoint)


def test_a_missing_file_is_reported(tmp_path):
    paths = [tmp_path / f"{index}.raw" for index in range(len(FEATURES))]
    for path, row in zip(paths, FEATURES, strict=True):
        row.tofile(path)

    class Stored:
        def __getitem__(self, index):
            # Not `np.load`: it parses a header as Python, which fails now and then in threads
            # of CPython 3.11 (python/cpython#106905).
            return np.fromfile(paths[index], FEATURES.dtype)

    # In the second epoch, all files are read again.
    remove = At(STEPS, lambda: paths[7].unlink())
    with pytest.raises(trainer.TrainingError, match=r"batch \d+ cannot be read: .*/7.raw.* valid"):
        train_small(tmp_path / "run", data=batches(features=Stored()), callbacks=[remove])


@pytest.mark.only("torch")
def test_the_command_reports_the_cause(tmp_path, capsys):
    output = tmp_path / "run"
    overrides = ("learning_rate=1e38", "warmup_epochs=0", "epochs=1")
    settings = [part for each in overrides for part in ("--set", each)]
    arguments = ["train", "classification_digits", "--output", str(output), *settings]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: After step ") and message.count("\n") == 1
    assert "step-000000000 is valid" in message
    assert main([*arguments, "--set", "epochs=2"]) == 2
    assert "epochs: 1 in the folder, 2 now" in capsys.readouterr().err


@pytest.mark.only("torch")  # Its steps are not compiled.
def test_a_dense_training_resumes_too(tmp_path, monkeypatch, capsys):
    for name in ("VALIDATION_SCENES", "TEST_SCENES"):
        monkeypatch.setattr(dense, name, 4)
    settings = (
        *("epochs=1", "steps_per_epoch=3", "warmup_steps=1", "batch_size=2", "checkpoint_steps=2"),
        *("pyramid_channels=8", "head_channels=8", "num_convs=1", "min_size=64", "max_size=64"),
    )

    def run(name):
        arguments = ["train", "detection_digit_scenes", "--output", str(tmp_path / name)]
        return main(arguments + [f"--set={each}" for each in settings])

    assert run("whole") == 0
    save = Checkpoints.save

    def save_and_interrupt(self, step, *arguments):
        save(self, step, *arguments)
        if step == 2:
            _interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_interrupt)
        assert run("other") == 130
        assert "run the same command again to resume" in capsys.readouterr().err
    assert run("other") == 0
    assert read_run(tmp_path / "other") == read_run(tmp_path / "whole")
