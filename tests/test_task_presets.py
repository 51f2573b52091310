"""Presets of trained dense models: cards, the hub, and files that the user downloads."""

import pathlib
import warnings

import keras
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

import keras_spm
from keras_spm import heads
from keras_spm.cards import read_class_names
from keras_spm.cards.task_card import read_task_card, task_presets
from keras_spm.data.ade20k import ADE20K_CLASS_NAMES
from keras_spm.data.mask_folders import CITYSCAPES_CLASS_NAMES
from keras_spm.registry import HEADS, TASKS
from keras_spm.weights import FormatError
from tests.helpers import difference, randomize, to_numpy
from tests.hub_server import Hub

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.


@pytest.mark.parametrize("preset", task_presets())
def test_every_card_is_complete(preset):
    assert preset in keras_spm.list_presets()
    card = read_task_card(preset)
    assert card.license and (card.address is None) == (card.page is not None)
    assert card.is_non_commercial == preset.startswith("segformer_")
    assert (card.published is None) == (card.published_by is None)
    assert TASKS[card.task].head_argument is not None
    head = HEADS[card.head](**card.head_config["config"])
    assert head.num_classes == {"ade20k": 150, "cityscapes": 19, "coco": 80}[card.classes]
    keras_spm.data.ImageBatching(**card.batching)
    assert card.backbone in keras_spm.list_presets()


def test_the_license_of_nvidia_comes_first():
    folder = pathlib.Path(keras_spm.cards.__file__).parent
    for path in folder.glob("**/*.json"):
        if "non-commercial" in (text := path.read_text()):
            assert text.splitlines()[1].startswith('  "license": "NVIDIA')


def test_names_of_presets():
    names = {
        *(f"upernet_swin_{size}_ade20k" for size in ("tiny", "small", "base")),
        *(f"segformer_b{n}_{data}" for n in range(6) for data in ("ade20k", "cityscapes")),
        *(f"retinanet_pvt_v2_b{number}_coco" for number in range(6)),
    }
    assert names <= {*task_presets()} <= {*keras_spm.list_presets()}
    with pytest.raises(ValueError, match="Did you mean 'upernet_swin_tiny_ade20k'"):
        keras_spm.SemanticSegmenter.from_preset("upernet_swin_tiny_ade")


def test_class_names():
    assert tuple(read_class_names("ade20k")) == ADE20K_CLASS_NAMES
    assert tuple(read_class_names("cityscapes")) == CITYSCAPES_CLASS_NAMES
    coco = read_class_names("coco")
    assert len(set(coco)) == 80 and (coco[0], coco[17], coco[79]) == (
        "person",
        "horse",
        "toothbrush",
    )


def _same(left, right):
    pairs = zip(left.weights, right.weights, strict=True)
    return all(difference(*pair) == 0 for pair in pairs)


def _logits(reference):
    """Returns pixels, and the logits of transformers' model for them."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3)).astype("float32")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = torch.tensor(((pixels / 255 - mean) / std).astype("float32"))
    with torch.no_grad():
        logits = reference(images.permute(0, 3, 1, 2)).logits
    return pixels, logits.permute(0, 2, 3, 1)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running hub and an empty cache."""
    hub = Hub()
    with hub.running():
        for name, value in hub.settings(tmp_path / "caches").items():
            monkeypatch.setattr(constants, name, value)
        yield hub


@pytest.fixture
def segformer(hub, tmp_path):
    """The repository of segformer_b0_ade20k, with random weights."""
    torch.manual_seed(0)
    configuration = transformers.SegformerConfig(num_labels=150)
    model = transformers.SegformerForSemanticSegmentation(configuration).eval()
    model.save_pretrained(tmp_path / "segformer")
    processor = transformers.SegformerImageProcessor(size={"height": 512, "width": 512})
    processor.save_pretrained(tmp_path / "segformer")
    hub.repositories["nvidia/segformer-b0-finetuned-ade-512-512"] = tmp_path / "segformer"
    return model


def test_a_segmenter_from_the_hub(hub, segformer):
    with pytest.warns(UserWarning, match="NVIDIA Source Code License .*, non-commercial use only"):
        model = keras_spm.SemanticSegmenter.from_preset("segformer_b0_ade20k")
    assert type(model.decoder) is heads.SegFormerHead and type(model.backbone) is keras_spm.MiT
    assert model.class_names[:2] == ["wall", "building"] and not model.load_report.missing_keys
    assert len(model.class_colors) == 150 and model.class_colors[4] == [4, 200, 3]
    assert (model.batching.min_size, model.batching.max_size) == (512, 2048)
    decoder = keras.Model(model.input, model.get_layer("decoder").output)
    pixels, expected = _logits(segformer)
    assert difference(decoder(pixels), expected) <= 1e-5
    with warnings.catch_warnings(action="ignore"):
        again = keras_spm.SemanticSegmenter.from_preset("segformer_b0_ade20k", num_classes=3)
        backbone = keras_spm.MiT.from_preset("segformer_b0_ade20k")
    assert sorted(again.load_report.missing_keys) == [
        *("decoder/classifier/bias", "decoder/classifier/kernel")
    ]
    assert _same(backbone, model.backbone)
    assert again.class_names is None and again.class_colors is None


@pytest.fixture
def upernet(hub, tmp_path, monkeypatch):
    """The repository of upernet_swin_tiny_ade20k, of a small model, as transformers 4 saves it."""
    sizes = {"embed_dim": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 2)}
    monkeypatch.setitem(keras_spm.Swin.presets, "tiny", sizes)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    configuration = transformers.UperNetConfig(
        backbone_config=transformers.SwinConfig(out_features=stages, **sizes),
        num_labels=150,
        hidden_size=8,
        auxiliary_channels=6,
    )
    torch.manual_seed(0)
    model = transformers.UperNetForSemanticSegmentation(configuration).eval()
    model.save_pretrained(folder := tmp_path / "upernet")
    state = load_file(folder / "model.safetensors")
    state = {name: value for name, value in state.items() if ".swin.layernorm." not in name}
    index = "backbone.encoder.layers.0.blocks.0.attention.self.relative_position_index"
    state[index] = np.zeros((49, 49), "int64")
    save_file(state, folder / "model.safetensors")
    hub.repositories["openmmlab/upernet-swin-tiny"] = folder
    return model


def test_upernet_from_the_hub(upernet):
    model = keras_spm.SemanticSegmenter.from_preset("upernet_swin_tiny_ade20k")
    assert model.class_names[149] == "flag" and model.decoder.auxiliary_weight == 0.4
    assert not model.load_report.missing_keys and model.backbone.pyramid_norms
    pixels, expected = _logits(upernet)
    assert difference(model(pixels), expected) <= 1e-5
    backbone = keras_spm.Swin.from_preset("upernet_swin_tiny_ade20k")
    assert _same(backbone, model.backbone)
    segmentation_map = model.segment(pixels[0].astype("uint8"))
    assert segmentation_map.shape == (64, 96)


def test_another_model_at_the_address(hub, segformer):
    repositories = hub.repositories
    repositories["nvidia/segformer-b1-finetuned-ade-512-512"] = next(iter(repositories.values()))
    with pytest.raises(FormatError, match="another variant than 'segformer_b1_ade20k': embed_dims"):
        keras_spm.SemanticSegmenter.from_preset("segformer_b1_ade20k")


def test_an_encoder_from_the_hub(hub, tmp_path):
    configuration = transformers.SegformerConfig(num_labels=1000)
    model = transformers.SegformerForImageClassification(configuration)
    model.save_pretrained(tmp_path / "mit")
    hub.repositories["nvidia/mit-b0"] = tmp_path / "mit"
    with pytest.warns(UserWarning, match="non-commercial use only"):
        classifier = keras_spm.ImageClassifier.from_preset("mit_b0")
    assert classifier.class_names[0].startswith("tench")
    kernel = model.classifier.weight.detach().numpy().T
    assert difference(classifier.get_layer("head").kernel, kernel) == 0


@pytest.mark.parametrize(
    ("name", "task", "file", "layout"),
    [
        (
            "retinanet_pvt_v2_b0_coco",
            keras_spm.ObjectDetector,
            "retinanet_pvtv2-b0_fpn_1x_coco_20210831_103157-13e9aabe.pth",
            "mmdet",
        ),
        ("mask_rcnn_pvt_v2_b0_coco", keras_spm.InstanceSegmenter, "them", "official"),
    ],
)
def test_a_detector_from_a_downloaded_file(tmp_path, name, task, file, layout):
    with pytest.warns(UserWarning, match=f"random weights.*{file} from https://github.com/"):
        model = randomize(task.from_preset(name))
    assert model.class_names[:2] == ["person", "bicycle"] and model.batching.min_size == 800
    epsilon = {"mmdet": 1e-6, "official": 1e-5}[layout]
    assert model.backbone.embedding_norm_epsilon == epsilon
    state = keras_spm.to_torch_state_dict(model, layout)
    tensors = {key: torch.tensor(value) for key, value in state.items()}
    torch.save({"meta": {"CLASSES": ["person"]}, "state_dict": tensors}, tmp_path / "file.pth")
    with warnings.catch_warnings(action="error"):
        again = task.from_preset(name, weights=tmp_path / "file.pth")
    assert again.load_report.layout == layout and not again.load_report.missing_keys
    assert _same(again, model)


def test_pretrained_swin_with_norms_of_pyramid_levels(tmp_path):
    """The norms are new; they replace the final one."""
    sizes = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
    randomize(keras_spm.Swin(**sizes)).save_to_preset(tmp_path / "swin")
    plain = keras_spm.Swin.from_preset(tmp_path / "swin")
    backbone = keras_spm.Swin.from_preset(tmp_path / "swin", pyramid_norms=True)
    missing = set(backbone.load_report.missing_keys)
    assert missing == {f"norm_P{n}/{key}" for n in range(2, 6) for key in ("gamma", "beta")}
    values = {variable.path: to_numpy(variable) for variable in plain.weights}
    assert all(
        difference(variable, values[variable.path]) == 0
        for variable in backbone.weights
        if variable.path not in missing
    )
