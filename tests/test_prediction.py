"""`keras-spm predict` with a model that does no work: names, outputs and errors."""

import io
import json
import os
import pathlib
import sys
import types

import numpy as np
import pytest
from PIL import Image

from keras_spm import cli
from keras_spm.data.folders import image_paths
from keras_spm.data.images import read_image

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.


class Brightness:
    """Predicts the mean of an image, and writes it as the picture."""

    default_output = None
    backbone = types.SimpleNamespace(input=np.zeros((1, 8, 8, 3)), data_format="channels_last")
    class_name = "bright"

    def predict_images(self, images):
        return [float(np.mean(image)) for image in images]

    def predict_record(self, prediction, image, top, score_threshold, output):
        if output is not None:
            output.write_text(f"{prediction}")
        return {"value": prediction}, f"{self.class_name} {prediction:g} → {output}"


@pytest.fixture
def model(tmp_path, monkeypatch):
    model = Brightness()
    monkeypatch.setattr(cli.trainer, "load_task", lambda name: model)
    monkeypatch.chdir(tmp_path)
    return model


def _write(path, value=0):
    path = os.fsdecode(path)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    Image.new("L", (8, 8), value).save(path, "PNG")
    return path


def _output(monkeypatch, encoding, *arguments):
    """Runs `predict` with a strict standard output; returns (exit status, its bytes)."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        status = cli.main(["predict", "model", *arguments])
    stream.flush()
    return status, stream.buffer.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_names_that_the_output_cannot_encode(model, monkeypatch, encoding):
    names = [_write(b"\xff.png", 1), _write("鷺é.png", 2), _write("ok.png", 3)]
    status, content = _output(monkeypatch, encoding, *names)
    assert status == 0 and len(content.splitlines()) == 3
    assert rb"\udcff.png  bright 1" in content and b"ok.png  bright 3" in content
    status, content = _output(monkeypatch, encoding, "--json", *names)
    found = [json.loads(line) for line in content.decode(encoding).splitlines()]
    assert status == 0 and [each["image"] for each in found] == names


def test_names_cannot_control_the_terminal(model, capsys):
    model.class_name = "\x1b[2Jheron\nok.png  heron"
    names = [_write("a\nb\x1b.png"), "none\n\x1b.png"]
    assert cli.main(["predict", "model", *names]) == 1
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert printed.out.splitlines() == [r"a\nb\x1b.png  \x1b[2Jheron\nok.png  heron 0 → None"]
    assert printed.err.splitlines()[1:] == [r"none\n\x1b.png does not exist"]


def test_pictures_keep_the_folders_of_images(model):
    for name, value in (("a/x.png", 1), ("b/x.png", 2), ("x.png", 3), ("x.jpg", 4)):
        _write(name, value)
    assert cli.main(["predict", "model", "a", "b", "x.png", "x.jpg", "--output", "out/new"]) == 0
    written = {path.as_posix(): float(path.read_text()) for path in _files("out")}
    assert written == {
        "out/new/a/x.png.png": 1,
        "out/new/b/x.png.png": 2,
        "out/new/x.png.png": 3,
        "out/new/x.jpg.png": 4,
    }


def _files(folder):
    return [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]


def test_two_pictures_at_one_place_are_refused(model, tmp_path, monkeypatch, capsys):
    for name in ("a/x.png", "in/a/x.png", "in/y.png", "in/y.png.png"):
        _write(name)
    monkeypatch.chdir(tmp_path / "in")
    for names, output, message in (
        (["a/x.png", "../a/x.png"], "out", "out/a/x.png.png would be the file of a/x.png and"),
        (["y.png", "y.png.png"], ".", "y.png.png, the file of y.png, would replace an image"),
    ):
        assert cli.main(["predict", "model", *names, "--output", output]) == 2
        printed = capsys.readouterr()
        assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not _files("out")
    assert read_image("y.png.png").size == (8, 8)


def test_an_image_that_is_given_twice_is_predicted_once(model, capsys):
    for name in ("in/x.png", "in/y.png"):
        _write(name)
    assert [str(path) for path in image_paths(["in/y.png", "in", "./in/x.png"])] == [
        *("in/y.png", "in/x.png")
    ]
    assert cli.main(["predict", "model", "in", "in/x.png", "--output", "out"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_output_folder_is_checked_before_the_prediction(model, capsys, monkeypatch):
    _write("x.png")
    monkeypatch.setattr(model, "predict_images", None, raising=False)
    assert cli.main(["predict", "model", "x.png", "--output", "x.png"]) == 2
    assert "x.png" in capsys.readouterr().err
