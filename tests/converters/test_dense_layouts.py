"""Whole dense models in the layouts of mmdetection, mmsegmentation and transformers."""

import functools
import re

import keras
import numpy as np
import pytest
import torch

from keras_spm import (
    ImageClassifier,
    InstanceSegmenter,
    MiT,
    ObjectDetector,
    PVTv2,
    SemanticSegmenter,
    Swin,
    heads,
    list_layouts,
    load_torch_weights,
    to_torch_state_dict,
)
from keras_spm.layers import PatchMerging
from keras_spm.weights import MismatchError
from keras_spm.weights.transforms import CONVOLUTION, UNFOLDED, UNFOLDED_LINEAR, flattened_dense
from tests import golden
from tests.helpers import conv_backbone, difference, random_array, randomize, to_numpy

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.

DENSE = {
    "mmseg_semantic_fpn_pvt_v2": (SemanticSegmenter, heads.SemanticFPN),
    "mmdet_retinanet_pvt_v2": (ObjectDetector, heads.RetinaNet),
    "mmdet_mask_rcnn_pvt_v2": (InstanceSegmenter, heads.MaskRCNN),
}
_ARGUMENTS = ("embed_dims", "num_heads", "mlp_ratios", "depths", "sr_ratios")


def _golden_task(name, **arguments):
    """The model of a golden with initial weights."""
    _, config = golden.read(name)
    task, head = DENSE[name]
    if head is heads.MaskRCNN:
        names = {name: name for name in ("rpn_channels", "box_head_channels", "mask_head_channels")}
    else:
        names = {"channels": "head_channels"}
    if head is heads.RetinaNet:
        names["num_convs"] = "head_depth"
    names["pyramid_channels"] = "pyramid_channels"
    sizes = {argument: config[name] for argument, name in names.items()}
    backbone = PVTv2(**{key: config[key] for key in _ARGUMENTS}, **arguments)
    return task(backbone, config["num_classes"], head(**sizes))


def _values(model):
    return {variable.path: to_numpy(variable) for variable in model.weights}


def _same(left, right):
    return left.keys() == right.keys() and all((left[key] == right[key]).all() for key in left)


@pytest.mark.parametrize("name", DENSE)
def test_goldens_load_and_go_out_again(name):
    """Their numbers are compared in tests/heads/test_dense_goldens.py."""
    state = golden.state(name)
    model = randomize(_golden_task(name))
    report = load_torch_weights(model, {"state_dict": state, "meta": {}})
    assert report.layout == "official" and not report.missing_keys and not report.unexpected_keys
    weights = [path for path in _values(model) if "seed_generator" not in path]
    assert report.loaded.keys() == set(weights)
    written = to_torch_state_dict(model, "official")
    assert written.keys() == state.keys()
    assert all((written[key] == state[key]).all() for key in state if "num_batches" not in key)


# Small models in every layout


def _pyramid(backbone):
    return SemanticSegmenter(backbone, 5, heads.SemanticFPN(pyramid_channels=8, channels=6))


def _retinanet(backbone):
    head = heads.RetinaNet(pyramid_channels=8, channels=6, num_convs=2)
    return ObjectDetector(backbone, 5, head)


def _mask_rcnn(backbone):
    channels = {"rpn_channels": 6, "box_head_channels": 10, "mask_head_channels": 4}
    return InstanceSegmenter(backbone, 5, heads.MaskRCNN(pyramid_channels=8, **channels))


def _upernet(backbone, **arguments):
    head = heads.UPerNet(channels=8, pool_scales=(1, 2), auxiliary_channels=6, **arguments)
    return SemanticSegmenter(backbone, 5, head)


def _segformer(backbone):
    return SemanticSegmenter(backbone, 5, heads.SegFormerHead(channels=8))


def _pvt(**arguments):
    return golden.short_backbone("pvt", class_token=False, **arguments)


def _pvt_v2(**arguments):
    return golden.short_backbone("pvt_v2", **arguments)


def _swin():
    return golden.short_backbone("timm_swin", pyramid_norms=True)


def _mit():
    sizes = {"embed_dims": (8, 16, 20, 24), "num_heads": (1, 2, 2, 2), "mlp_ratios": (4,) * 4}
    return MiT(depths=(1, 1, 2, 1), sr_ratios=(4, 2, 2, 1), **sizes)


_MM = {"embedding_norm_epsilon": 1e-6}  # In mmdetection's code.
# (name, layout) → function that builds the model
MODELS = {
    ("fpn pvt", "official"): lambda: _pyramid(_pvt()),
    ("fpn pvt", "mmseg"): lambda: _pyramid(_pvt(**_MM)),
    ("fpn pvt_v2", "mmseg"): lambda: _pyramid(_pvt_v2(**_MM)),
    ("retinanet pvt", "mmdet"): lambda: _retinanet(_pvt(**_MM)),
    ("retinanet pvt_v2", "official"): lambda: _retinanet(_pvt_v2()),
    ("retinanet pvt_v2", "mmdet"): lambda: _retinanet(_pvt_v2(**_MM)),
    ("retinanet swin", "mmdet"): lambda: _retinanet(_swin()),
    ("mask_rcnn pvt_v2", "official"): lambda: _mask_rcnn(_pvt_v2()),
    ("mask_rcnn swin", "mmdet"): lambda: _mask_rcnn(_swin()),
    ("upernet swin", "official"): lambda: _upernet(_swin()),
    ("upernet swin", "mmseg"): lambda: _upernet(_swin()),
    ("upernet swin", "transformers"): lambda: _upernet(_swin()),
    ("upernet pvt_v2", "official"): lambda: _upernet(_pvt_v2()),
    ("segformer mit", "transformers"): lambda: _segformer(_mit()),
    ("classifier mit", "transformers"): lambda: ImageClassifier(_mit(), 5),
}
every_model = pytest.mark.parametrize("case", MODELS, ids=" ".join)


@functools.cache
def _model(case):
    return randomize(MODELS[case]())


def _state(case):
    return to_torch_state_dict(_model(case), case[1])


@every_model
def test_export_and_load_is_the_identity(case):
    model, state = _model(case), _state(case)
    before = _values(model)
    randomize(model, seed=1)
    report = load_torch_weights(model, state)
    randomize_unused = [path for path in before if path in report.missing_keys]
    # mmdetection has no norm for a level that no head reads.
    assert randomize_unused == (
        ["norm_P2/gamma", "norm_P2/beta"] if case[0] == "retinanet swin" else []
    )
    assert report.layout == case[1] and not report.unexpected_keys
    after = _values(model)
    loaded = before.keys() - set(randomize_unused)
    assert all((after[path] == before[path]).all() for path in loaded if "seed" not in path)
    randomize(model)


_IN_HEAD = re.compile(r"(neck|.*_head|classifier)\b.*weight")


def _dropped(state):
    key = next(filter(_IN_HEAD.fullmatch, state))
    del state[key]
    return f"missing: {re.escape(key)}"


def _dropped_from_the_backbone(state):
    key = next(key for key in state if key.endswith("bias") and "norm" in key)
    del state[key]
    return f"missing: {re.escape(key)}"


def _half_of_the_classes_dropped(state):
    key = next(
        key for key in state if re.search(r"(conv_seg|retina_cls|fc_cls|classifier)\.bias", key)
    )
    del state[key]
    return f"missing: {re.escape(key)}"


def _added(state):
    state["decode_head.extra.weight"] = np.zeros(3, "f")
    return "unexpected: decode_head.extra.weight"


def _renamed(state):
    key = next(filter(_IN_HEAD.fullmatch, state))
    state[f"{key}s"] = state.pop(key)
    return f"missing: {re.escape(key)}\nunexpected: {re.escape(key)}s"


def _transposed(state):
    key = next(
        key
        for key, value in state.items()
        if value.ndim > 1 and value.shape[0] != value.shape[1] and _IN_HEAD.fullmatch(key)
    )
    state[key] = np.ascontiguousarray(state[key].swapaxes(0, 1))
    return f"shape: {re.escape(key)} is"


def _block(state):
    """The start of the names of a block's tensors."""
    key = next(key for key in state if ".att" in key)
    return key[: key.index(".att") + 1]


def _without_a_block(state):
    prefix = _block(state)
    for key in [key for key in state if key.startswith(prefix)]:
        del state[key]
    return f"missing: .*{re.escape(prefix)}"


def _with_another_block(state):
    prefix = _block(state)
    other = re.sub(r"\d+\.$", "17.", prefix)
    copies = {
        other + key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)
    }
    state.update(copies)
    return f"unexpected: .*{re.escape(other)}"


MUTATIONS = (
    *(_without_a_block, _with_another_block),
    *(_dropped, _dropped_from_the_backbone, _half_of_the_classes_dropped),
    *(_added, _renamed, _transposed),
)


@every_model
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_invalid_tensor_changes_nothing(case, mutate):
    state, model = _state(case), _model(case)
    message, before = mutate(state), _values(model)
    with pytest.raises(MismatchError, match=message):
        load_torch_weights(model, state)
    assert _same(_values(model), before)


@every_model
def test_another_number_of_classes(case):
    """The class predictors stay as they are; everything else is loaded."""
    state, model = _state(case), _model(case)
    predictors = {v.path for layer in model.class_predictors() for v in layer.weights}
    other = type(model).from_config({**model.get_config(), **_for_classes(model, 8)})
    report = load_torch_weights(other, state)
    assert predictors <= set(report.missing_keys)
    loaded = _values(model).keys() - set(report.missing_keys)
    assert all(
        difference(v, _values(model)[v.path]) == 0 for v in other.weights if v.path in loaded
    )


def _for_classes(model, count):
    if model.head_argument is None:
        return {"num_classes": count}
    head = model.get_config()[model.head_argument]
    head["config"]["num_classes"] = count
    return {"num_classes": count, model.head_argument: head}


def test_layouts_are_listed():
    assert list_layouts(_model(("fpn pvt_v2", "mmseg"))) == ["official", "mmseg"]
    assert list_layouts(_model(("retinanet pvt", "mmdet"))) == ["official", "mmdet"]
    names = ["official", "mmseg", "transformers"]
    assert list_layouts(_model(("upernet swin", "mmseg"))) == names
    assert list_layouts(_model(("segformer mit", "transformers"))) == ["transformers"]
    with pytest.raises(TypeError, match="for Functional with SemanticFPN"):
        list_layouts(_pyramid(conv_backbone()))
    with pytest.raises(TypeError, match="for MiT with RetinaNet"):
        list_layouts(_retinanet(_mit()))


def test_other_code_bases_are_named():
    model = _model(("fpn pvt_v2", "mmseg"))
    with pytest.raises(MismatchError, match="embedding_norm_epsilon=1e-05"):
        to_torch_state_dict(model, "official")
    plain = _upernet(golden.short_backbone("timm_swin"))
    with pytest.raises(MismatchError, match="Build the model with pyramid_norms=True"):
        load_torch_weights(plain, _state(("upernet swin", "mmseg")))


def test_a_model_without_auxiliary_head_ignores_that_of_a_file():
    state = _state(("upernet swin", "mmseg"))
    model = _upernet(_swin(), auxiliary_weight=0)
    report = load_torch_weights(model, state)
    names = {key for key in state if key.startswith("auxiliary_head.") and "num_batches" not in key}
    assert set(report.unexpected_keys) == names and not report.missing_keys


# Backbones of mmdetection, from the official names as its own conversion does


def _mmdet_pvt(state, has_positions):
    """Returns an official state dict of PVT or PVT v2 in mmdetection's names."""
    converted = {}
    for key, value in state.items():
        if key.startswith(("head", "norm.", "cls_token")):
            continue
        if match := re.fullmatch(r"pos_embed(\d)", key):
            stage = int(match[1])
            value = value[:, 1:] if stage == 4 else value
            key = f"layers.{stage - 1}.1.0.pos_embed"
        elif match := re.fullmatch(r"patch_embed(\d)\.(proj|norm)\.(\w+)", key):
            name = {"proj": "projection", "norm": "norm"}[match[2]]
            key = f"layers.{int(match[1]) - 1}.0.{name}.{match[3]}"
        elif match := re.fullmatch(r"norm(\d)\.(\w+)", key):
            key = f"layers.{int(match[1]) - 1}.2.{match[2]}"
        elif match := re.fullmatch(r"block(\d)\.(\d+)\.(.*)", key):
            inner = match[3]
            if inner.startswith("attn.kv"):
                continue
            if match_q := re.fullmatch(r"attn\.q\.(\w+)", inner):
                value = np.concatenate([value, state[key.replace("attn.q", "attn.kv")]])
                inner = f"attn.attn.in_proj_{match_q[1]}"
            inner = inner.replace("attn.proj", "attn.attn.out_proj")
            inner = inner.replace("mlp.dwconv.dwconv", "ffn.layers.1")
            for layer, number in ("fc1", "0"), ("fc2", "3" if has_positions else "4"):
                if inner == f"mlp.{layer}.weight":
                    value = value[:, :, None, None]
                inner = inner.replace(f"mlp.{layer}", f"ffn.layers.{number}")
            block = int(match[2]) + has_positions
            key = f"layers.{int(match[1]) - 1}.1.{block}.{inner}"
        converted[key] = value
    return converted


@pytest.mark.parametrize("name", ["pvt", "pvt_v2"])
def test_pvt_of_mmdetection(name):
    arguments = {"class_token": False} if name == "pvt" else {}
    official = golden.backbone(name, **arguments)
    load_torch_weights(official, golden.state(name))
    backbone = golden.backbone(name, embedding_norm_epsilon=1e-6, **arguments)
    state = _mmdet_pvt(golden.state(name), name == "pvt")
    report = load_torch_weights(backbone, {f"backbone.{key}": state[key] for key in state})
    assert report.layout == "mmdet" and not report.missing_keys and not report.unexpected_keys
    assert _same(_values(backbone), _values(official))


def test_swin_of_mmdetection():
    names = {"attn.": "attn.w_msa.", "mlp.fc1": "ffn.layers.0.0", "mlp.fc2": "ffn.layers.1"}
    backbone = golden.backbone("official_swin", pyramid_norms=True)
    state = golden.state("official_swin")
    official = {key: state[key] for key in state if not key.startswith(("head", "norm."))}
    official |= {
        f"norm{i}.{key}": random_array(backbone.embed_dim * 2**i, seed=i)
        for i in range(4)
        for key in ("weight", "bias")
    }
    load_torch_weights(backbone, official)
    before = _values(backbone)
    converted = to_torch_state_dict(backbone, "mmdet")
    for key, value in official.items():
        if "attn_mask" in key or "downsample" in key:
            continue
        key = key.replace("layers.", "stages.").replace(
            "patch_embed.proj", "patch_embed.projection"
        )
        for old, new in names.items():
            key = key.replace(old, new)
        assert (converted.pop(key) == value).all(), key
    assert all("downsample" in key or "position_index" in key for key in converted)
    randomize(backbone)
    load_torch_weights(backbone, to_torch_state_dict(backbone, "mmdet"))
    load_torch_weights(backbone, official)
    assert _same(_values(backbone), before)


def test_merging_of_mmdetection_unfolds_windows():
    layer, maps = PatchMerging(6), random_array(2, 8, 12, 5)
    layer.build(maps.shape)
    randomize(layer)
    (weight,) = UNFOLDED_LINEAR.to_torch([to_numpy(layer.reduction.kernel)])
    gamma, beta = (
        torch.tensor(UNFOLDED.to_torch([to_numpy(each)])[0].copy())
        for each in (layer.norm.gamma, layer.norm.beta)
    )
    windows = torch.nn.Unfold(2, stride=2)(torch.tensor(maps).permute(0, 3, 1, 2))
    merged = torch.nn.functional.layer_norm(windows.transpose(1, 2), (20,), gamma, beta, 1e-5)
    expected = (merged @ torch.tensor(weight.copy()).T).reshape(2, 4, 6, 6)
    assert difference(layer(maps), expected) <= 1e-5


def test_dense_layer_after_flattening():
    maps, kernel = random_array(2, 7, 7, 3), random_array(147, 4)
    (weight,) = flattened_dense(7).to_torch([kernel])
    channels_first = maps.transpose(0, 3, 1, 2).reshape(2, -1)
    assert difference(channels_first @ weight.T, maps.reshape(2, -1) @ kernel) <= 1e-4
    (again,) = flattened_dense(7).to_keras([weight], [kernel.shape])
    assert (again == kernel).all()


def test_transposed_convolution():
    layer, maps = keras.layers.Conv2DTranspose(4, 2, 2, use_bias=False), random_array(1, 3, 5, 6)
    layer.build(maps.shape)
    (weight,) = CONVOLUTION.to_torch([to_numpy(layer.kernel)])
    images = torch.tensor(maps).permute(0, 3, 1, 2)
    expected = torch.nn.functional.conv_transpose2d(images, torch.tensor(weight.copy()), stride=2)
    assert difference(layer(maps), expected.permute(0, 2, 3, 1)) <= 1e-5


def test_classifiers_start_a_backbone_with_norms():
    """As in the official code, the final norm is ignored, and those of the levels are new."""
    backbone = Swin(**golden.backbone_arguments("official_swin"), pyramid_norms=True)
    report = load_torch_weights(backbone, golden.state("official_swin"))
    norms = [f"norm_P{level}/{name}" for level in range(2, 6) for name in ("beta", "gamma")]
    assert sorted(report.missing_keys) == norms
    assert sorted(report.unexpected_keys) == [
        *("head.bias", "head.weight", "norm.bias", "norm.weight")
    ]
