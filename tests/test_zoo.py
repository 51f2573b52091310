"""Cards, `zoo/port.py` and `zoo/verify.py`."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

import keras_spm
from keras_spm.cards import Card, card_path, read_card, read_card_file, read_class_names, write_card
from keras_spm.registry import BACKBONES
from keras_spm.weights import FormatError
from keras_spm.weights.formats import sha256_of
from tests import golden
from tests.helpers import randomize, to_numpy
from zoo import port, verify

pytestmark = pytest.mark.only("torch")  # Independent of the backend.

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


# Cards


# Without the presets of other tests' own families.
PRESETS = [
    f"{cls.preset_prefix}{name}"
    for cls in BACKBONES.values()
    if cls.__module__.startswith("keras_spm.")
    for name in cls.presets
]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_card(preset):
    card = read_card(preset)
    assert json.loads(card_path(preset).read_text()) == dataclasses.asdict(card)
    if card.address is not None:
        assert card.license and card.published_by and card.published_top1 > 70
        preprocessing = keras_spm.data.ImagePreprocessing(**card.classifier["preprocessing"])
        assert preprocessing.image_size == (224, 224)
        assert len(card.classifier["class_names"]) == 1000
    # A measured accuracy belongs to weights of a known sha256.
    assert card.measured_top1 is None or card.sha256 is not None


def test_class_names_are_in_label_order():
    names = read_class_names("imagenet-1k")
    assert len(set(names)) == 1000
    known = {0: "tench", 1: "goldfish", 281: "tabby", 285: "Egyptian cat", 388: "giant panda"}
    known |= {134: "crane (134)", 517: "crane (517)", 817: "sports car", 999: "toilet tissue"}
    assert {index: names[index].partition(",")[0] for index in known} == known


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "has a list"),
        ({"source": "x"}, "unknown field 'source'"),
        ({"repository": "../x"}, r"repository cannot be '\.\./x'"),
        ({"repository": "/etc/passwd"}, "repository cannot be"),
        ({"repository": "owner/na\0me"}, "repository cannot be"),
        ({"revision": "main"}, "revision cannot be"),
        ({"sha256": "f" * 63}, "sha256 cannot be"),
        ({"classes": "../../secret"}, "classes cannot be"),
        ({"preprocessing": {"image_size": 224}}, "preprocessing cannot be"),
        ({"transplant": {"images": 8}}, "transplant cannot be"),
        ({"measured_top1": "high"}, "measured_top1 cannot be"),
        ({"first_logits": [0, None]}, "first_logits cannot be"),
    ],
)
def test_invalid_cards(tmp_path, fields, message):
    (tmp_path / "card.json").write_text(json.dumps(fields))
    with pytest.raises(FormatError, match=message):
        read_card_file(tmp_path / "card.json")


# Porting


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of PVT v2 mini for three classes, in the official layout."""
    backbone = keras_spm.PVTv2.from_preset("mini", load_weights=False)
    state = keras_spm.to_torch_state_dict(randomize(keras_spm.ImageClassifier(backbone, 3)))
    save_file(state, tmp_path / "mini.safetensors")
    (tmp_path / "classes.txt").write_text("heron\ncrane\nibis\n")
    return tmp_path / "mini.safetensors"


def test_port_a_file(tmp_path, checkpoint, capsys):
    classes = ["--classes", str(tmp_path / "classes.txt")]
    assert (
        port.main(["pvt_v2_mini", f"{tmp_path}/mini", "--source", str(checkpoint), *classes]) == 0
    )
    model = keras_spm.ImageClassifier.from_preset(tmp_path / "mini")
    assert model.class_names == ["heron", "crane", "ibis"]
    state = keras_spm.to_torch_state_dict(model)
    assert all((state[name] == array).all() for name, array in load_file(checkpoint).items())
    card = read_card_file(tmp_path / "mini/card.json")
    # Other fields are unknown for a file of the user.
    assert card == Card(sha256=sha256_of(checkpoint))


def test_port_with_transplanted_mergings(tmp_path, checkpoint, monkeypatch, capsys):
    generator = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(8):
        pixels = generator.integers(0, 256, (40, 40, 3), "uint8")
        Image.fromarray(pixels).save(tmp_path / f"photos/{number}.png")
    monkeypatch.setitem(
        keras_spm.presets.loading.load_preset.__globals__,
        "transplant",
        lambda model, images, teacher: keras_spm.transplant(
            model, images, teacher, steps=1, image_size=32, verbose=False
        ),
    )
    options = ["--source", str(checkpoint), "--classes", str(tmp_path / "classes.txt")]
    folder, photos = tmp_path / "spm", str(tmp_path / "photos")
    arguments = ["pvt_v2_spm_mini", str(folder), "--transplant", photos, *options]
    assert port.main(arguments) == 0
    card = read_card_file(folder / "card.json")
    assert card.sha256 == sha256_of(checkpoint) and card.transplant["images"] == 6
    assert set(card.transplant["explained_variance"]) == {"stage2", "stage3", "stage4"}
    model = keras_spm.ImageClassifier.from_preset(folder)
    assert model.backbone.merging == "spm" and model.class_names == ["heron", "crane", "ibis"]
    state = load_file(checkpoint)
    np.testing.assert_array_equal(to_numpy(model.get_layer("head").bias), state["head.bias"])
    # Nothing is replaced in the original family.
    arguments = ["pvt_v2_mini", str(tmp_path / "same"), "--transplant", photos, *options]
    assert port.main(arguments) == 2
    assert "must have other mergings" in capsys.readouterr().err


def test_incomplete_checkpoints_are_not_ported(tmp_path, checkpoint, capsys):
    folder, source = str(tmp_path / "mini"), ["--source", str(checkpoint)]
    (tmp_path / "classes.txt").write_text("heron\ncrane\n")
    classes = ["--classes", str(tmp_path / "classes.txt")]
    assert port.main(["pvt_v2_mini", folder, *source, *classes]) == 2
    assert "lacks the weights of head/" in capsys.readouterr().err
    assert port.main(["pvt_v2_mini", folder, *source]) == 2
    assert "`num_classes` must be given" in capsys.readouterr().err
    assert port.main(["pvt_v2_spm_mini", folder]) == 2
    assert "No weights are published" in capsys.readouterr().err
    assert not (tmp_path / "mini").exists()


def test_the_folder_of_a_port_is_checked_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(port, "port_published", None)
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file"):
        assert port.main(["pvt_v2_mini", str(folder)]) == 2
        assert "must be a new or an empty folder" in capsys.readouterr().err


# From a file to class names


def test_readme_example(tmp_path, monkeypatch, capsys):
    (lines,) = re.findall(r"```python\n(import keras_spm\n\nmodel = .*?)```", README, re.DOTALL)
    assert sum(bool(line) for line in lines.splitlines()) == 5
    monkeypatch.chdir(tmp_path)
    model = randomize(keras_spm.ImageClassifier.from_preset("pvt_v2_b1", load_weights=False))
    state = keras_spm.to_torch_state_dict(model)
    torch.save({name: torch.tensor(array) for name, array in state.items()}, "pvt_v2_b1.pth")
    photograph = sklearn.datasets.load_sample_image("flower.jpg")
    Image.fromarray(photograph).save("heron.jpg", quality=100, subsampling=0)
    expected = model.predict(model.preprocessing(["heron.jpg"]), verbose=0)[0]
    exec(lines, {})
    printed = capsys.readouterr().out.splitlines()
    names = [model.class_names[index] for index in np.argsort(-expected, kind="stable")[:5]]
    assert [line.split("%  ")[1] for line in printed] == names


# Verification


@pytest.fixture
def ported(tmp_path):
    """A preset folder with the weights of a reference vector, and its outputs in a file."""
    model = golden.classifier("pvt_v2_spm")
    keras_spm.load_torch_weights(model, golden.state("pvt_v2_spm"))
    model.save_to_preset(tmp_path / "ported")
    arrays, _ = golden.read("pvt_v2_spm")
    reference = {"images": arrays["input0"], "logits": arrays["logits0"]}
    reference |= {f"P{index + 2}": arrays[f"stage0.{index + 1}"] for index in range(4)}
    save_file(reference, tmp_path / "reference.safetensors")
    return tmp_path / "ported"


def _verify(folder):
    return verify.main([str(folder), "--reference", str(folder.parent / "reference.safetensors")])


def _rewrite(folder, change):
    """Changes the arrays of a preset folder and updates their sha256."""
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["weights"]["sha256"] = sha256_of(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def test_equal_outputs_are_verified(ported, capsys):
    assert _verify(ported) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "verified"


def _swap(first, second):
    def change(arrays):
        arrays[first], arrays[second] = arrays[second], arrays[first]

    return change


def _transpose(name):
    def change(arrays):
        assert arrays[name].shape[0] == arrays[name].shape[1]
        arrays[name] = np.ascontiguousarray(arrays[name].T)

    return change


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        (_swap("stage3/block1/mlp/fc1/kernel", "stage3/block2/mlp/fc1/kernel"), "P4"),
        (_swap("stage1/block1/attention_norm/gamma", "stage1/block1/mlp_norm/gamma"), "P2"),
        (_transpose("stage2/block1/attention/query/kernel"), "P3"),
        (_transpose("stage4/block1/attention/projection/kernel"), "P5"),
    ],
)
def test_swapped_and_transposed_tensors_are_detected(ported, capsys, change, stage):
    _rewrite(ported, change)
    keras_spm.ImageClassifier.from_preset(ported)  # Names and shapes are valid.
    assert _verify(ported) == 1
    *_, mismatch, result = capsys.readouterr().out.splitlines()
    assert mismatch.endswith(stage) and result.startswith("FAILED")


def test_first_logits(ported, tmp_path, capsys):
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype="uint8")
    Image.fromarray(picture).save(tmp_path / "picture.png")
    model = keras_spm.ImageClassifier.from_preset(ported)
    preprocessing = keras_spm.data.ImagePreprocessing((224, 224), interpolation="bilinear")
    logits = model.predict(preprocessing(picture)[None], verbose=0)[0, :3]
    for added, status in ((0.0, 0), (0.001, 1)):
        write_card(Card(first_logits=(logits + added).tolist()), ported / "card.json")
        assert verify.main([str(ported), "--image", str(tmp_path / "picture.png")]) == status
    write_card(Card(), ported / "card.json")
    assert verify.main([str(ported), "--image", str(tmp_path / "picture.png")]) == 2
    assert "no `first_logits`" in capsys.readouterr().err


def test_top1(tmp_path, capsys):
    backbone = golden.backbone("pvt_v2")
    preprocessing = keras_spm.data.ImagePreprocessing((32, 32))
    model = randomize(keras_spm.ImageClassifier(backbone, 3, preprocessing=preprocessing))
    model.save_to_preset(tmp_path / "model")
    pictures = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype="uint8")
    labels = model.predict(pictures, verbose=0).argmax(-1)
    labels[:2] = (labels[:2] + 1) % 3  # Two of eight are in the wrong folder.
    for label in range(3):
        (tmp_path / f"images/{label}").mkdir(parents=True)
    for index, (label, picture) in enumerate(zip(labels, pictures, strict=True)):
        Image.fromarray(picture).save(tmp_path / f"images/{label}/{index}.png")
    arguments = [str(tmp_path / "model"), "--imagenet", str(tmp_path / "images")]
    for published, status in ((None, 0), (75.05, 0), (80.0, 1)):
        card = Card(published_top1=published, published_by="us")
        write_card(card, tmp_path / "model/card.json")
        assert verify.main(arguments) == status
        assert "top-1 75.000 %" in capsys.readouterr().out
    (tmp_path / "images/0").rename(tmp_path / "elsewhere")
    assert verify.main(arguments) == 2
    assert "must have 3 folders, one per class. Received: 2" in capsys.readouterr().err
