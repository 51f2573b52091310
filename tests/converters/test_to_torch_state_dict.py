"""Exporting weights: PyTorch code loads them, and round trips are exact."""

import functools

import keras
import numpy as np
import pytest
import torch
import transformers

from keras_spm import load_torch_weights, to_torch_state_dict
from keras_spm.layers import StepwisePatchMerging
from keras_spm.weights import MismatchError
from tests import golden
from tests.helpers import difference, randomize, to_numpy

ON_TORCH = keras.config.backend() == "torch"
every_layout = pytest.mark.parametrize("name", golden.BACKBONES)
# Tensors are converted by NumPy: one layout on every backend, all on one.
layouts = every_layout if ON_TORCH else pytest.mark.parametrize("name", ["pvt_v2_spm"])


@functools.cache
def _classifier(name):
    return golden.classifier(name)


def _values(model):
    return {variable.path: to_numpy(variable) for variable in model.weights}


def _is_buffer(key):
    return key.endswith(("num_batches_tracked", "relative_position_index", "attn_mask"))


@layouts
def test_load_and_export_is_the_identity(name):
    """Every parameter and running statistic is exported with the same name, shape and bits."""
    state = golden.state(name)
    load_torch_weights(_classifier(name), state)
    written = to_torch_state_dict(_classifier(name), golden.BACKBONES[name][1])
    kept = {key for key in written if not _is_buffer(key)}
    assert kept == {key for key in state if not _is_buffer(key)}
    for key in kept:
        assert written[key].dtype == "float32" and written[key].flags.c_contiguous
        assert written[key].shape == state[key].shape
        assert (written[key] == state[key]).all(), key


def _layouts(name):
    """Returns the layouts in which a golden's model can be exported."""
    if "spm" in name:
        return {"swin_spm": ["official", "timm"]}.get(name, ["official"])
    if name.startswith("transformers_pvt"):
        return ["transformers"]
    if "swin" in name:
        return ["official", "timm", "transformers", "transformers_5"]
    return ["official", "timm"] if "v2" in name else ["official"]


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    ("name", "layout"), [(name, each) for name in golden.BACKBONES for each in _layouts(name)]
)
@pytest.mark.parametrize("part", ["classifier", "backbone"])
def test_export_and_load_is_the_identity(name, layout, part):
    model = _classifier(name)
    model = randomize(model if part == "classifier" else model.backbone)
    before = _values(model)
    state = to_torch_state_dict(model, layout)
    randomize(model, seed=1)
    report = load_torch_weights(model, state)
    assert report.layout == layout and not report.missing_keys and not report.unexpected_keys
    after = _values(model)
    assert all((after[path] == before[path]).all() for path in before)


def test_exported_arrays_do_not_share_memory():
    model = randomize(_classifier("timm_pvt_v2"))
    before = _values(model)
    for array in to_torch_state_dict(model, "timm").values():
        array[...] = 7
    assert all((value == before[path]).all() for path, value in _values(model).items())


def _skeleton(state):
    """Returns a PyTorch module with parameters and buffers like `state`."""
    root = torch.nn.Module()
    for key, array in state.items():
        *path, last = key.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        tensor = torch.zeros(array.shape, dtype=torch.tensor(array).dtype)
        if _is_buffer(key) or "running" in last:
            module.register_buffer(last, tensor)
        else:
            module.register_parameter(last, torch.nn.Parameter(tensor))
    return root


def _tensors(state):
    return {key: torch.tensor(array) for key, array in state.items()}


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", [name for name in golden.BACKBONES if name != "official_swin"])
def test_pytorch_loads_it_strictly(name):
    """The goldens' states were saved by the reference modules."""
    module = _skeleton(golden.state(name))
    state = to_torch_state_dict(_classifier(name), golden.BACKBONES[name][1])
    module.load_state_dict(_tensors(state), strict=True)


def _reference_mask(height, width, window, shift):
    """Returns the mask of the official code: nine numbered regions, compared in windows."""
    regions = torch.zeros(height, width)
    slices = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for row, rows in enumerate(slices):
        for column, columns in enumerate(slices):
            regions[rows, columns] = 3 * row + column
    windows = regions.reshape(height // window, window, width // window, window)
    windows = windows.permute(0, 2, 1, 3).reshape(-1, window * window)
    return ((windows[:, None] != windows[:, :, None]).float() * -100).numpy()


@pytest.mark.only("torch")
@pytest.mark.parametrize(
    ("image_shape", "sizes"), [(None, (128, 128)), ((256, 384, 3), (256, 384))]
)
def test_derived_buffers_of_official_swin(image_shape, sizes):
    """All blocks have an index; shifted blocks with several windows have `attn_mask`."""
    window = 4
    model = golden.classifier("official_swin", image_shape=image_shape)
    state = to_torch_state_dict(model, "official")
    expected = dict(golden.state("official_swin"))
    for stage in range(4):
        height, width = (size // 4 // 2**stage for size in sizes)
        for block in range(2):
            name = f"layers.{stage}.blocks.{block}"
            expected[f"{name}.attn.relative_position_index"] = np.zeros((16, 16), "int64")
            if block % 2 and min(height, width) > window:
                mask = _reference_mask(height, width, window, window // 2)
                expected[f"{name}.attn_mask"] = mask
                assert difference(state[f"{name}.attn_mask"], mask) == 0
    _skeleton(expected).load_state_dict(_tensors(state), strict=True)
    index = state["layers.0.blocks.0.attn.relative_position_index"]
    # From the window's first position to its last, and back.
    assert (index[0, 0], index[0, -1], index[-1, 0]) == (24, 0, 48)
    assert len(np.unique(index)) == 49


def test_num_batches_tracked_is_zero():
    state = to_torch_state_dict(_classifier("pvt_spm"))
    counters = {key: value for key, value in state.items() if "num_batches_tracked" in key}
    assert len(counters) == 6
    assert all(value == 0 and value.dtype == "int64" for value in counters.values())


def test_pvt_without_class_token():
    """The official form for dense tasks has an unused first row in `pos_embed4`."""
    state = golden.state("pvt")
    backbone = golden.backbone("pvt", class_token=False)
    load_torch_weights(backbone, state)
    written = to_torch_state_dict(backbone, "official")
    without = ("cls_token", "norm.weight", "norm.bias", "head.weight", "head.bias")
    assert written.keys() == state.keys() - set(without)
    assert (written["pos_embed4"][:, 1:] == state["pos_embed4"][:, 1:]).all()
    assert (written["pos_embed4"][:, 0] == 0).all()
    dense = golden.backbone("pvt", class_token=False, embedding_norm_epsilon=1e-6)
    with pytest.raises(MismatchError, match="cannot represent this model: encoder.patch_emb"):
        to_torch_state_dict(dense, "transformers")


def test_layer():
    layer = StepwisePatchMerging(32)
    layer.build((1, 12, 8, 16))
    load_torch_weights(layer, golden.state("spm_layer_16_32"))
    written = to_torch_state_dict(layer)
    state = golden.state("spm_layer_16_32")
    assert written.keys() == state.keys()
    assert all((written[key] == state[key]).all() for key in state if not _is_buffer(key))


@pytest.mark.only("torch")
def test_unsupported_exports():
    with pytest.raises(MismatchError, match="stage2/merging/multi_scale_aggregation"):
        to_torch_state_dict(golden.backbone("swin_spm"), "transformers")
    with pytest.raises(ValueError, match="layout='tim'"):
        to_torch_state_dict(_classifier("pvt"), "tim")
    with pytest.raises(ValueError, match="cannot be 'auto'"):
        to_torch_state_dict(_classifier("pvt"), "auto")


# The transformers library


def _transformers(name):
    """Returns transformers' classifier for a golden's configuration."""
    _, config = golden.read(name)
    common = {"depths": config["depths"], "num_labels": config["num_classes"]}
    if "swin" in name:
        return transformers.SwinForImageClassification(
            transformers.SwinConfig(
                image_size=config["img_size"],
                embed_dim=config["embed_dim"],
                num_heads=config["num_heads"],
                window_size=config["window_size"],
                **common,
            )
        ).eval()
    common |= {
        "image_size": config["image_size"],
        "hidden_sizes": config["embed_dims"],
        "num_attention_heads": config["num_heads"],
        "mlp_ratios": config["mlp_ratios"],
    }
    if "v2" in name:
        return transformers.PvtV2ForImageClassification(transformers.PvtV2Config(**common)).eval()
    return transformers.PvtForImageClassification(
        transformers.PvtConfig(sequence_reduction_ratios=config["sr_ratios"], **common)
    ).eval()


@pytest.mark.filterwarnings("ignore:The first images have negative pixels")
@pytest.mark.only("torch")
@pytest.mark.parametrize("name", ["transformers_pvt", "transformers_pvt_v2", "transformers_swin"])
def test_transformers_loads_it_strictly_and_agrees(name):
    model = randomize(_classifier(name), seed=2)
    in_memory = "transformers_5" if "swin" in name else "transformers"
    arrays, _ = golden.read(name)
    for ours, theirs in (
        (model, _transformers(name)),
        (model.backbone, _transformers(name).base_model),
    ):
        state = _tensors(to_torch_state_dict(ours, in_memory))
        theirs.load_state_dict(state, strict=True)
        if ours is model:
            with torch.no_grad():
                images = torch.tensor(arrays["input0"]).permute(0, 3, 1, 2)
                expected = theirs(images).logits
            outputs = ours.predict(arrays["input0"] * 255, verbose=0)
            assert difference(outputs, expected) <= 1e-5 * float(expected.abs().max())
        if in_memory == "transformers_5":  # Its state dict can be loaded, too.
            before = _values(ours)
            report = load_torch_weights(randomize(ours, seed=3), theirs.state_dict())
            assert report.layout == "transformers_5"
            assert all((value == before[path]).all() for path, value in _values(ours).items())
            randomize(model, seed=2)
