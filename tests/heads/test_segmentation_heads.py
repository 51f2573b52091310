"""SegFormerHead and UPerNet against transformers' heads, and the auxiliary loss of UPerNet."""

import functools

import keras
import numpy as np
import pytest
import torch
import transformers
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead
from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

import keras_spm
from keras_spm import fuse, to_torch_state_dict
from keras_spm.heads import SegFormerHead, UPerNet
from keras_spm.layers import macs
from tests.helpers import (
    compiled,
    conv_backbone,
    difference,
    random_array,
    randomize,
    tiny_backbone,
    to_numpy,
)

CHANNELS = (3, 4, 5, 6)
# The last one as of odd images: every level is rounded up.
SIZES = [(16, 24), (13, 9)]


def _maps(height, width):
    maps = {}
    for seed, (level, count) in enumerate(zip(("P2", "P3", "P4", "P5"), CHANNELS, strict=True)):
        maps[level] = random_array(2, height, width, count, seed=seed)
        height, width = -(-height // 2), -(-width // 2)
    return maps


def _built(head, maps):
    head.build({level: each.shape for level, each in maps.items()})
    return randomize(head)


def _segformer():
    configuration = transformers.SegformerConfig(
        hidden_sizes=CHANNELS, decoder_hidden_size=8, num_labels=7, classifier_dropout_prob=0.0
    )
    head = SegFormerHead(7, channels=8, dropout=0.0, name="head")
    return head, {"decode_head": SegformerDecodeHead(configuration)}


def _upernet():
    configuration = transformers.UperNetConfig(
        backbone_config=transformers.SwinConfig(),
        hidden_size=8,
        pool_scales=(1, 2, 3),
        auxiliary_channels=6,
        num_labels=7,
    )
    head = UPerNet(7, 8, (1, 2, 3), auxiliary_channels=6, dropout=0.0, name="head")
    return head, {
        "decode_head": UperNetHead(configuration, CHANNELS),
        "auxiliary_head": UperNetFCNHead(configuration, CHANNELS),
    }


HEADS = {"SegFormerHead": _segformer, "UPerNet": _upernet}


def _load(modules, head):
    """Copies our weights to transformers' modules, each of whose tensors gets one."""
    state = to_torch_state_dict(head, "transformers")
    for prefix, module in modules.items():
        own = {
            name.removeprefix(f"{prefix}.").replace("linear_c.", "linear_projections."): value
            for name, value in state.items()
            if name.startswith(f"{prefix}.")
        }
        module.load_state_dict({name: torch.tensor(value) for name, value in own.items()})


def _reference(module, maps):
    outputs = module([torch.tensor(each).permute(0, 3, 1, 2) for each in maps.values()])
    return outputs.detach().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", SIZES if keras.config.backend() == "torch" else SIZES[1:])
@pytest.mark.parametrize("training", [False, True])
def test_logits_equal_those_of_transformers(name, size, training):
    maps = _maps(*size)
    head, modules = HEADS[name]()
    _load(modules, _built(head, maps))
    for key, module in modules.items():
        layer = head if key == "decode_head" else head.auxiliary_head
        expected = _reference(module.train(training), maps)
        outputs = compiled(functools.partial(layer, training=training))(maps)
        shapes = {level: each.shape for level, each in maps.items()}
        assert tuple(outputs.shape) == expected.shape == layer.compute_output_shape(shapes)
        # A grid of one cell in a batch of two has two values to normalize.
        tolerance = 1e-4 if training else 1e-5
        assert difference(outputs, expected) <= tolerance * max(np.abs(expected).max(), 1)


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", HEADS)
def test_macs_agree_with_a_count_of_what_runs(name):
    from torch.utils.flop_counter import FlopCounterMode

    maps = _maps(16, 24)
    head, modules = HEADS[name]()
    _built(head, maps)
    with FlopCounterMode(display=False) as counter:
        _reference(modules["decode_head"].eval(), maps)
    # The counter counts both images.
    assert macs(head, {level: each.shape for level, each in maps.items()}) == (
        counter.get_total_flops() / 4
    )


def _segmenter(decoder, backbone=conv_backbone):
    return keras_spm.SemanticSegmenter(backbone(), 3, decoder)


def _small_upernet(**arguments):
    return UPerNet(**{"channels": 8, "auxiliary_channels": 4, "dropout": 0.0, **arguments})


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 3, (2, 64, 64))


def _cross_entropy(logits, labels):
    logits = to_numpy(logits).astype("float64")
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(logs, labels[..., None], axis=-1)[..., 0]


def test_the_auxiliary_loss_is_added_in_training():
    """Weights of images, and labels that are ignored, count in both losses."""
    model = randomize(_segmenter(_small_upernet(auxiliary_weight=0.5)))
    outputs = model(IMAGES, training=True)
    randomize(model)  # The running statistics changed.
    labels = LABELS.copy()
    labels[:, :16] = 255
    weights, expected = np.array([1.0, 3.0]), 0
    for name, factor in (("logits", 1), ("auxiliary_logits", 0.5)):
        losses = _cross_entropy(outputs[name][:, 16:], labels[:, 16:])
        expected += factor * (losses * weights[:, None, None]).mean()
    kernel = model.decoder.auxiliary_head.convolution.convolution.kernel
    before = to_numpy(kernel).copy()
    loss = model.train_on_batch(IMAGES, labels, weights, return_dict=True)["loss"]
    assert loss == pytest.approx(expected, rel=1e-4)
    assert difference(kernel, before) > 0


@pytest.mark.only("torch")
def test_elsewhere_there_are_only_logits():
    model = randomize(_segmenter(_small_upernet()))
    assert tuple(model(IMAGES).shape) == (2, 64, 64, 3)
    assert model.predict(IMAGES, verbose=0).shape == (2, 64, 64, 3)
    expected = _cross_entropy(model(IMAGES), LABELS).mean()
    assert model.evaluate(IMAGES, LABELS, verbose=0)[0] == pytest.approx(expected, rel=1e-4)
    without = _segmenter(_small_upernet(auxiliary_weight=0))
    assert without.decoder.auxiliary_head is None
    assert tuple(without(IMAGES, training=True).shape) == (2, 64, 64, 3)


def _squares(y, logits):
    return keras.ops.mean(keras.ops.square(logits), axis=-1)


@pytest.mark.only("torch")
def test_another_loss_and_saving(tmp_path):
    model = _segmenter(_small_upernet(), tiny_backbone)
    model.compile(loss=_squares)
    outputs = model(IMAGES, training=True)
    main, auxiliary = (
        np.square(to_numpy(outputs[name])).mean() for name in ("logits", "auxiliary_logits")
    )
    history = model.fit(IMAGES, LABELS, verbose=0).history
    assert history["loss"][0] == pytest.approx(main + 0.4 * auxiliary, rel=1e-4)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", {"_squares": _squares})
    assert difference(again(IMAGES), model(IMAGES)) == 0
    found, expected = (each(IMAGES, training=True)["auxiliary_logits"] for each in (again, model))
    assert difference(found, expected) == 0


@pytest.mark.only("torch")
@pytest.mark.parametrize("head", [SegFormerHead, UPerNet])
def test_mixed_precision(head):
    """Logits are float32, and differ by no more than the rounding of half precision."""
    maps = _maps(16, 24)
    expected = to_numpy(_built(head(7, channels=8), maps)(maps))
    outputs = _built(head(7, channels=8, dtype="mixed_bfloat16"), maps)(maps)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
    assert difference(outputs, expected) <= 0.03 * np.abs(expected).max()


@pytest.mark.only("torch")
@pytest.mark.parametrize("decoder", [SegFormerHead(channels=8), _small_upernet()])
def test_fusion(decoder):
    model = randomize(_segmenter(decoder, tiny_backbone))
    fused = fuse(model)
    assert difference(fused(IMAGES), model(IMAGES)) <= 1e-4
    with pytest.raises(ValueError, match="cannot be trained"):
        fused.fit(IMAGES, LABELS, verbose=0)
