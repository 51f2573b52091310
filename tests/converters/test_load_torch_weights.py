"""Loading PyTorch weights in every layout, all or nothing."""

import functools
import json
import pathlib
import re
import struct

import keras
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from keras_spm import list_layouts, load_torch_weights, to_torch_state_dict
from keras_spm.layers import GuidedLocalEnhancement, MultiScaleAggregation
from keras_spm.weights import FormatError, MismatchError
from keras_spm.weights.transforms import POSITIONS
from tests import golden
from tests.helpers import difference, to_numpy

NAME = "pvt_v2_spm"  # For tests that need only one layout.

ON_TORCH = keras.config.backend() == "torch"
every_layout = pytest.mark.parametrize("name", golden.BACKBONES)
# Tensors are converted by NumPy: one layout on every backend, all on one.
layouts = every_layout if ON_TORCH else pytest.mark.parametrize("name", ["pvt_v2_spm"])


@functools.cache
def _classifier(name):
    """One model per golden, whose weights every test loads itself."""
    return golden.classifier(name)


def _values(model):
    return {variable.path: to_numpy(variable) for variable in model.weights}


def _same(left, right):
    return left.keys() == right.keys() and all((left[key] == right[key]).all() for key in left)


def _zero(model):
    for variable in model.weights:
        variable.assign(keras.ops.zeros(variable.shape))


# Sources


def _as_bin(state, path):
    torch.save({key: torch.tensor(array) for key, array in state.items()}, path)


def _as_shards(state, path):
    """Writes three shards and their index, like transformers."""
    path.mkdir()
    names = sorted(state)
    weight_map = {}
    for number in range(3):
        shard = f"model-0000{number + 1}-of-00003.safetensors"
        part = names[number::3]
        save_file({name: state[name] for name in part}, path / shard)
        weight_map |= dict.fromkeys(part, shard)
    (path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map})
    )


def _as_folder(state, path):
    path.mkdir()
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text("{}")


def _as_old_folder(state, path):
    path.mkdir()
    _as_bin(state, path / "pytorch_model.bin")


def _as_checkpoint(state, path):
    """Writes a checkpoint of training code, of a model in a parallel wrapper."""
    tensors = {f"module.{key}": torch.tensor(array) for key, array in state.items()}
    torch.save({"epoch": 3, "optimizer": {"state": {}}, "model": {"state_dict": tensors}}, path)


SOURCES = {
    "weights.safetensors": save_file,
    "weights.pth": _as_bin,
    "weights.pt": _as_bin,
    "weights.bin": _as_bin,
    "checkpoint.pth": _as_checkpoint,
    "shards": _as_shards,
    "folder": _as_folder,
    "old folder": _as_old_folder,
}


@pytest.mark.only("torch")
@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_of_source(tmp_path, source):
    model = _classifier(NAME)
    load_torch_weights(model, golden.state(NAME))
    expected = _values(model)
    _zero(model)
    SOURCES[source](golden.state(NAME), tmp_path / source)
    report = load_torch_weights(model, tmp_path / source, layout="official")
    assert len(report.loaded) == len(model.weights)
    assert str(tmp_path / source) in str(report)
    assert _same(_values(model), expected)


@pytest.mark.only("torch")
def test_report_names_the_wrappers(tmp_path):
    _as_checkpoint(golden.state(NAME), tmp_path / "checkpoint.pth")
    report = load_torch_weights(_classifier(NAME), tmp_path / "checkpoint.pth")
    assert report.source.endswith(
        "checkpoint.pth['model']['state_dict'] without the prefix 'module.'"
    )
    nested = {"state_dict": golden.state(NAME)}
    assert load_torch_weights(_classifier(NAME), nested).source == "the mapping['state_dict']"


# Loaded values


@layouts
def test_every_tensor_is_assigned_once(name):
    """Each variable has the values of the tensors in the report; no tensor is used twice."""
    model = _classifier(name)
    state = golden.state(name)
    report = load_torch_weights(model, state)
    assert report.loaded.keys() == {variable.path for variable in model.weights}
    sources = {}
    for path, names in report.loaded.items():
        sources.setdefault(names, []).append(path)
    used = [tensor for names in sources for tensor in names]
    assert sorted(used) == sorted(key for key in state if "num_batches_tracked" not in key)
    values = _values(model)
    for names, paths in sources.items():
        arrived = np.concatenate([values[path].ravel() for path in paths])
        sent = np.concatenate([state[tensor].ravel() for tensor in names])
        assert sorted(arrived) == sorted(sent), paths


@pytest.mark.only("torch")
@every_layout
def test_backbone_ignores_the_head(name):
    backbone = golden.backbone(name)
    report = load_torch_weights(backbone, golden.state(name))
    layout = golden.BACKBONES[name][1]
    head = {"transformers": "classifier"}.get(layout, "head")
    if "swin" in name and layout == "timm":
        head = "head.fc"
    assert sorted(report.unexpected_keys) == [f"{head}.bias", f"{head}.weight"]
    assert not report.missing_keys and f"unexpected keys: {head}" in str(report)


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", ["transformers_pvt", "transformers_pvt_v2", "transformers_swin"])
def test_names_without_classifier(name):
    """The names of transformers' models without a classifier have no prefix."""
    prefixes = {"transformers_pvt": "pvt.", "transformers_pvt_v2": "pvt_v2."}
    prefix = prefixes.get(name, "swin.")
    bare = {
        key.removeprefix(prefix): value
        for key, value in golden.state(name).items()
        if key.startswith(prefix)
    }
    model = _classifier(name)
    load_torch_weights(model, golden.state(name))
    expected = _values(model)
    _zero(model.backbone)
    report = load_torch_weights(model, bare)
    assert sorted(report.missing_keys) == ["head/bias", "head/kernel"]
    assert _same(_values(model), expected)
    assert to_torch_state_dict(model.backbone, "transformers").keys() == bare.keys()


def test_head_for_other_classes():
    state = dict(golden.state(NAME))
    state["head.weight"], state["head.bias"] = np.ones((3, 64), "f"), np.ones(3, "f")
    model = _classifier(NAME)
    before = to_numpy(model.get_layer("head").kernel)
    report = load_torch_weights(model, state)
    assert sorted(report.missing_keys) == ["head/bias", "head/kernel"]
    assert sorted(report.unexpected_keys) == ["head.bias", "head.weight"]
    assert "missing keys: head" in str(report)
    assert difference(model.get_layer("head").kernel, before) == 0


@pytest.mark.only("torch")
def test_file_without_head():
    state = {key: array for key, array in golden.state(NAME).items() if "head" not in key}
    report = load_torch_weights(_classifier(NAME), state)
    assert sorted(report.missing_keys) == ["head/bias", "head/kernel"]


@pytest.mark.only("torch")
@every_layout
@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
def test_half_precision_is_upcast(tmp_path, name, dtype):
    state = {
        key: array.astype(dtype) if array.dtype == "float32" else array
        for key, array in golden.state(name).items()
    }
    model = _classifier(name)
    save_file(state, tmp_path / "half.safetensors")
    report = load_torch_weights(model, tmp_path / "half.safetensors")
    tensors = {tensor for names in report.loaded.values() for tensor in names}
    assert set(report.upcast) == tensors
    assert "upcast from half precision" in str(report)
    by_file = _values(model)
    load_torch_weights(model, {key: array.astype("float32") for key, array in state.items()})
    assert _same(_values(model), by_file)


@pytest.mark.only("torch")
def test_bfloat16_of_pytorch_is_upcast(tmp_path):
    state = {key: torch.tensor(array) for key, array in golden.state(NAME).items()}
    torch.save({key: value.bfloat16() for key, value in state.items()}, tmp_path / "half.pth")
    report = load_torch_weights(_classifier(NAME), tmp_path / "half.pth")
    assert len(report.upcast) == len(report.loaded)


@pytest.mark.parametrize("layer", [MultiScaleAggregation(32), GuidedLocalEnhancement()])
def test_layers_of_spm(layer):
    arrays, _ = golden.read("spm_layer_16_32")
    prefix = {"MultiScaleAggregation": "msa.", "GuidedLocalEnhancement": "gle."}[
        type(layer).__name__
    ]
    inputs = arrays["input"] if prefix == "msa." else arrays["msa"]
    layer.build(inputs.shape)
    state = golden.state("spm_layer_16_32")
    load_torch_weights(
        layer, {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
    )
    expected = arrays["msa"] if prefix == "msa." else arrays["output"]
    assert difference(layer(inputs), expected) <= 1e-5


# Other resolutions


def _interpolated(grid, size, mode):
    """Resizes (rows, columns, channels) with PyTorch in float64."""
    maps = torch.tensor(grid, dtype=torch.float64).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(maps, size=size, mode=mode)
    return resized[0].permute(1, 2, 0).numpy()


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", ["pvt", "transformers_pvt"])
@pytest.mark.parametrize("size", [(128, 128), (96, 160), (40, 40)])
def test_position_embeddings_are_resized(name, size):
    state = golden.state(name)
    model = golden.classifier(name, pretrain_image_size=size)
    report = load_torch_weights(model, state)
    positions = [key for key in state if "pos" in key.split(".")[-1]]
    assert len(positions) == 4
    if size != (40, 40):  # There stage 4 keeps its 2 x 2.
        assert sorted(report.resized) == sorted(positions)
    assert "resized: " in str(report)
    for number, (stage, key) in enumerate(zip(model.backbone.stages, positions, strict=True)):
        rows = state[key][0]
        if number == 3:
            assert difference(stage.class_position, rows[0]) == 0
            rows = rows[1:]
        side = round(len(rows) ** 0.5)
        grid = tuple(-(-length // (4 * 2**number)) for length in size)
        expected = _interpolated(rows.reshape(side, side, -1), grid, "bilinear")
        assert difference(stage.position_embedding.embedding, expected) <= 1e-6


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", ["official_swin", "timm_swin", "transformers_swin", "swin_spm"])
@pytest.mark.parametrize("window_size", [3, 7])
def test_bias_tables_are_resized(name, window_size):
    state = golden.state(name)
    backbone = golden.backbone(name, window_size=window_size)
    report = load_torch_weights(backbone, state)
    tables = [key for key in state if key.endswith("relative_position_bias_table")]
    assert sorted(report.resized) == sorted(tables)
    assert "(49, 1) → " in str(report)
    side = 2 * window_size - 1
    expected = _interpolated(state[tables[0]].reshape(7, 7, -1), (side, side), "bicubic")
    table = backbone.stages[0].blocks[0].attention.relative_position_bias_table
    assert difference(table, expected.reshape(side * side, -1)) <= 1e-6


@pytest.mark.only("torch")
def test_ambiguous_grid():
    model = golden.classifier("pvt", pretrain_image_size=(32, 128))  # As many as 64 x 64 has.
    before = _values(model)
    with pytest.raises(MismatchError, match="pos_embed1: 256 rows may be a square grid or"):
        load_torch_weights(model, golden.state("pvt"))
    assert _same(_values(model), before)


@pytest.mark.only("torch")
def test_rectangular_grid_round_trip():
    model = golden.classifier("pvt", pretrain_image_size=(64, 96))
    before = _values(model)
    state = to_torch_state_dict(model)
    _zero(model)
    assert not load_torch_weights(model, state).resized
    assert _same(_values(model), before)
    with pytest.raises(MismatchError, match="pos_embed1: 384 rows are not a square grid"):
        load_torch_weights(_classifier("pvt"), state)


@pytest.mark.only("torch")
def test_empty_grid():
    with pytest.raises(ValueError, match="0 rows"):
        POSITIONS.to_keras([np.zeros((1, 0, 3), "f")], [(2, 2, 3)])


# Errors


def _vector(state):
    """Name of a tensor with one axis, outside the head."""
    return next(key for key, v in state.items() if v.ndim == 1 and "norm" in key and len(v) > 1)


def _matrix(state):
    """Name of a non-square matrix, outside the head."""
    return next(
        key
        for key, array in state.items()
        if array.ndim == 2 and "head" not in key and "class" not in key and "table" not in key
        if array.shape[0] != array.shape[1]
    )


def _dropped(state):
    key = _vector(state)
    del state[key]
    return f"missing: {key}"


def _half_a_head_dropped(state):
    key = next(key for key in state if key.endswith("bias") and ("head" in key or "class" in key))
    del state[key]
    return f"missing: {key}"


def _added(state):
    state["extra.weight"] = np.zeros(3, "f")
    return "unexpected: extra.weight"


def _renamed(state):
    key = _vector(state)
    state[f"{key}s"] = state.pop(key)
    return f"missing: {key}\nunexpected: {key}s"


def _transposed(state):
    key = _matrix(state)
    state[key] = np.ascontiguousarray(state[key].T)
    return rf"shape: {key} is \({state[key].shape[0]}, {state[key].shape[1]}\), "


def _integers(state):
    key = _vector(state)
    state[key] = state[key].astype("int32")
    return f"dtype: {key} is int32, not a float"


def _not_a_number(state):
    key = _matrix(state)
    state[key] = state[key].copy()
    state[key][1, 1] = np.nan
    return f"values: {key} has NaN"


def _too_large_for_float32(state):
    key = _vector(state)
    state[key] = state[key].astype("float64") * 1e300
    return f"values: {key} has NaN or infinity"


MUTATIONS = (
    *(_dropped, _half_a_head_dropped, _added, _renamed, _transposed),
    *(_integers, _not_a_number, _too_large_for_float32),
)


def _is_refused(model, source, error, message):
    before = _values(model)
    with pytest.raises(error, match=message):
        load_torch_weights(model, source)
    assert _same(_values(model), before)


@pytest.mark.only("torch")
@every_layout
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_invalid_tensor_changes_nothing(tmp_path, name, mutate):
    state = dict(golden.state(name))
    message = mutate(state)
    save_file(state, tmp_path / "wrong.safetensors")
    _is_refused(_classifier(name), tmp_path / "wrong.safetensors", MismatchError, message)


@every_layout
@pytest.mark.only("torch")
def test_every_tensor_is_required(name):
    """Drops a tensor of each kind in turn; the code does not depend on the backend."""
    model, state = _classifier(name), golden.state(name)
    # Blocks and stages have the same rules.
    for key in {re.sub(r"\.\d+(?=\.)", "", key): key for key in state}.values():
        if not key.endswith("num_batches_tracked"):
            with pytest.raises(MismatchError, match=f"missing: {key}"):
                load_torch_weights(model, {other: state[other] for other in state if other != key})


@pytest.mark.only("torch")
@every_layout
@pytest.mark.parametrize("blocks", [-1, 1])
def test_another_variant(name, blocks):
    model = _classifier(name)
    depths = list(model.backbone.depths)
    depths[2] += blocks
    other = golden.classifier(name, depths=depths)
    state = to_torch_state_dict(other, golden.BACKBONES[name][1])
    message = r"unexpected: .*\b2\b" if blocks > 0 else r"missing: .*\b[13]\b"
    _is_refused(model, state, MismatchError, message)


@pytest.mark.only("torch")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0.999, 0.5, 0.0])
def test_truncated_file(tmp_path, suffix, kept):
    path = tmp_path / f"cut{suffix}"
    SOURCES[f"weights{suffix}"](golden.state("pvt_v2_spm"), path)
    contents = path.read_bytes()
    path.write_bytes(contents[: int(len(contents) * kept)])
    _is_refused(_classifier("pvt_v2_spm"), path, FormatError, f"cut{suffix}")


def _double_in_header(path, key):
    """Duplicates the entry of `key` in the header, which the library accepts."""
    contents = path.read_bytes()
    length = struct.unpack("<Q", contents[:8])[0]
    header, data = contents[8 : 8 + length].decode(), contents[8 + length :]
    entry = json.dumps(json.loads(header)[key], separators=(",", ":"))
    header = header.rstrip()[:-1] + f',"{key}":{entry}}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + data)


@pytest.mark.only("torch")
@every_layout
def test_duplicate_key_in_a_header(tmp_path, name):
    path = tmp_path / "twice.safetensors"
    save_file(golden.state(name), path)
    key = _vector(golden.state(name))
    _double_in_header(path, key)
    _is_refused(_classifier(name), path, FormatError, rf"duplicate keys \['{key}'\]")


@pytest.mark.only("torch")
@every_layout
def test_duplicate_key_in_two_shards(tmp_path, name):
    _as_shards(golden.state(name), tmp_path / "shards")
    key = sorted(golden.state(name))[0]  # It is in the first shard.
    second = tmp_path / "shards" / "model-00002-of-00003.safetensors"
    state = golden.state(name)
    save_file({other: state[other] for other in [key, *sorted(state)[1::3]]}, second)
    _is_refused(_classifier(name), tmp_path / "shards", FormatError, rf"\['{key}'\] are in")


def _index(path, text):
    path.mkdir()
    (path / "model.safetensors.index.json").write_text(text)


def _unlisted(path):
    _as_shards(golden.state(NAME), path)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    del index["weight_map"]["norm1.weight"]
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def _listed_in_vain(path):
    _as_shards(golden.state(NAME), path)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"]["norm9.weight"] = "model-00001-of-00003.safetensors"
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def _pickle_of_code(path):
    torch.save({"a": pathlib.PurePosixPath("a")}, path)


def _header(text):
    return lambda path: path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + b"\0" * 4)


BROKEN = {
    "text.safetensors": (_header("hello"), "not JSON"),
    "code.pth": (_pickle_of_code, "not a PyTorch file of plain tensors"),
    "list.pth": (lambda path: torch.save([torch.zeros(1)], path), "has a list"),
    "nested.pth": (lambda path: torch.save({"a": {"b": torch.zeros(1)}}, path), "'a' is a dict"),
    "weights.h5": (lambda path: path.write_bytes(b"x"), "Received: '.h5'"),
    "unlisted": (_unlisted, r"has \['norm1.weight'\], which .*index.json does not list"),
    "listed in vain": (_listed_in_vain, r"\['norm9.weight'\] are in none of its shards"),
    "no map": (lambda path: _index(path, "{}"), "`weight_map` must map tensors to files"),
    "outside": (
        lambda path: _index(path, '{"weight_map": {"a": "../a.safetensors"}}'),
        "files in the same folder",
    ),
    "twice": (
        lambda path: _index(path, '{"weight_map": {"a": "b", "a": "c"}}'),
        r"index has duplicate keys \['a'\]",
    ),
}


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", BROKEN)
def test_broken_source(tmp_path, name):
    write, message = BROKEN[name]
    write(tmp_path / name)
    _is_refused(_classifier(NAME), tmp_path / name, FormatError, message)


@pytest.mark.only("torch")
def test_missing_file_and_invalid_path(tmp_path):
    model = _classifier(NAME)
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_torch_weights(model, tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match="has none of model.safetensors"):
        load_torch_weights(model, tmp_path)
    with pytest.raises(FormatError, match="int"):
        load_torch_weights(model, 3)


@pytest.mark.only("torch")
def test_mismatched_model():
    model = _classifier(NAME)
    with pytest.raises(MismatchError, match="missing"):
        load_torch_weights(model, golden.state("pvt_v2"))
    with pytest.raises(MismatchError, match="in no known layout"):
        load_torch_weights(model, {"encoder.weight": np.zeros(3, "f")})
    with pytest.raises(MismatchError, match="in no known layout"):
        load_torch_weights(model, {})
    with pytest.raises(ValueError, match="layout='tim'"):
        load_torch_weights(model, golden.state(NAME), layout="tim")
    with pytest.raises(TypeError, match="Dense"):
        dense = keras.layers.Dense(2)
        dense.build((None, 2))
        load_torch_weights(dense, golden.state(NAME))
    with pytest.raises(ValueError, match="build"):
        load_torch_weights(MultiScaleAggregation(8), {})


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", ["transformers_pvt", "transformers_pvt_v2", "pvt", "timm_pvt_v2"])
def test_another_epsilon(name):
    right = _classifier(name).backbone.embedding_norm_epsilon
    wrong = 1e-5 if right == 1e-6 else 1e-6
    model = golden.classifier(name, embedding_norm_epsilon=wrong)
    message = f"embedding_norm_epsilon={right}, the model has embedding_norm_epsilon={wrong}"
    _is_refused(model, golden.state(name), MismatchError, message)
    with pytest.raises(MismatchError, match=message):
        to_torch_state_dict(model, golden.BACKBONES[name][1])


@pytest.mark.only("torch")
def test_layouts_are_listed():
    assert list_layouts(_classifier("pvt")) == ["official", "transformers"]
    assert list_layouts(_classifier("pvt_v2")) == ["official", "timm", "transformers"]
    assert list_layouts(golden.backbone("timm_swin")) == [
        *("official", "timm", "transformers", "transformers_5", "mmdet")
    ]
