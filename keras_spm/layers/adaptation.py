"""Quantization and low-rank adaptation (LoRA) of the layers inside a layer or model.

Keras changes dense layers one by one, after they are built. A layer that creates its dense
layers itself therefore lists the changes in its configuration, and makes them again when it is
built from it. So it is with layers that have an `Int8Kernel`, but no LoRA.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras

from keras_spm import backend
from keras_spm.arguments import argument_error, check_integer, check_number
from keras_spm.layers import int8_kernel
from keras_spm.layers.dense import Dense
from keras_spm.layers.int8_kernel import Int8Kernel

# A regular expression or several, searched in the paths of layers; or a function of a layer.
Filters: TypeAlias = str | Sequence[str] | Callable[[keras.layers.Layer], bool] | None

# Layers that can be quantized.
AdaptedLayer: TypeAlias = keras.layers.Dense | Int8Kernel

# {mode: default configuration}
QUANTIZATIONS = {
    "int8": keras.quantizers.Int8QuantizationConfig,
    "int4": keras.quantizers.Int4QuantizationConfig,
    "float8": keras.quantizers.Float8QuantizationConfig,
}
# Key of configurations, and the keys of its entries.
ADAPTED_LAYERS = "adapted_layers"
SETTINGS = ("quantization", "quantization_config", "lora_rank", "lora_alpha")


def dense_sublayers(layer: keras.layers.Layer) -> dict[str, keras.layers.Dense]:
    """Returns {path relative to the layer: dense layer}.

    Subclasses of `Dense` may compute something else, so they are left out.
    """
    return _sublayers(layer, _is_dense)


def quantizable_sublayers(layer: keras.layers.Layer) -> dict[str, AdaptedLayer]:
    """Returns {path relative to the layer: layer that can be quantized}."""
    return _sublayers(layer, lambda each: _is_dense(each) or isinstance(each, Int8Kernel))


def _is_dense(layer):
    return type(layer) in (Dense, keras.layers.Dense)


def _sublayers(layer, is_wanted):
    prefix = "" if isinstance(layer, keras.Model) else f"{layer.path}/"
    return {
        sublayer.path.removeprefix(prefix): sublayer
        for sublayer in layer._flatten_layers(include_self=False)
        if is_wanted(sublayer) and sublayer.built
    }


def select_for_lora(layer: keras.layers.Layer, filters: Filters) -> dict[str, Dense]:
    """Returns the dense layers of this package that match; Keras's own would save LoRA merged.

    Raises:
        ValueError: if `filters` is invalid or matches none.
    """
    dense = dense_sublayers(layer)
    return _select(
        layer, {path: each for path, each in dense.items() if type(each) is Dense}, filters
    )


def select_for_quantization(
    layer: keras.layers.Layer, filters: Filters, mode: str
) -> dict[str, AdaptedLayer]:
    """Returns the layers that match and that a mode quantizes.

    Raises:
        ValueError: if `filters` is invalid or matches none.
    """
    sublayers = quantizable_sublayers if mode in int8_kernel.MODES else dense_sublayers
    return _select(layer, sublayers(layer), filters)


def _select(layer, candidates, filters):
    if not candidates:
        raise ValueError(f"{layer.name!r} must have dense layers of keras_spm. Received: none")
    matches = _matcher(filters)
    selected = {path: each for path, each in candidates.items() if matches(path, each)}
    if not selected:
        examples = ", ".join(list(candidates)[:3])
        raise argument_error("filters", f"for layers such as {examples}", filters)
    return selected


def _matcher(filters):
    if filters is None:
        return lambda path, layer: True
    if callable(filters):
        return lambda path, layer: filters(layer)
    patterns = [filters] if isinstance(filters, str) else filters
    allowed = "a regular expression, a list of them, or a function of a layer"
    if not isinstance(patterns, (list, tuple)) or not patterns:
        raise argument_error("filters", allowed, filters)
    try:
        compiled = [re.compile(pattern) for pattern in patterns]
    except (TypeError, re.error):
        raise argument_error("filters", allowed, filters) from None
    return lambda path, layer: any(pattern.search(path) for pattern in compiled)


def lora_layers(layer: keras.layers.Layer) -> dict[str, keras.layers.Dense]:
    """Returns the `dense_sublayers` with LoRA."""
    return {path: dense for path, dense in dense_sublayers(layer).items() if dense.lora_enabled}


# === Configuration ===


def adapted_layers(
    layer: keras.layers.Layer, without: Sequence[keras.layers.Layer] = ()
) -> list[dict[str, Any]]:
    """Returns the changes of the layers inside a layer, as plain values.

    Each entry has the paths `layers` and what they have in common: `quantization` (a mode),
    `quantization_config` unless it is the mode's default, `lora_rank` and `lora_alpha`.

    Args:
        layer: built layer or model.
        without: layers to leave out.
    """
    left_out = {id(each) for each in without}
    groups: dict[str, list[str]] = {}
    for path, each in quantizable_sublayers(layer).items():
        settings = _settings(each)
        if settings and id(each) not in left_out:
            groups.setdefault(json.dumps(settings), []).append(path)
    return [{**json.loads(settings), "layers": paths} for settings, paths in groups.items()]


def _settings(layer):
    settings = {}
    mode = layer.quantization_mode
    if mode is not None:
        settings["quantization"] = mode
        config = getattr(layer, "quantization_config", None)
        if config is not None and config.get_config() != QUANTIZATIONS[mode]().get_config():
            settings["quantization_config"] = keras.saving.serialize_keras_object(config)
    if isinstance(layer, keras.layers.Dense) and layer.lora_enabled:
        settings |= {"lora_rank": layer.lora_rank, "lora_alpha": layer.lora_alpha}
    return settings


def adapt(layer: keras.layers.Layer, groups: Sequence[dict[str, Any]]) -> None:
    """Changes the layers inside a layer as `adapted_layers` describes.

    Quantized kernels are only allocated. Layers that already have the change are left as they are.

    Raises:
        ValueError: for a path without such a layer, or invalid settings.
    """
    sublayers = quantizable_sublayers(layer)
    for group in groups:
        settings = {name: value for name, value in group.items() if name != "layers"}
        if unknown := settings.keys() - set(SETTINGS):
            raise argument_error(ADAPTED_LAYERS, f"of {', '.join(SETTINGS)}", sorted(unknown))
        for path in group["layers"]:
            if path not in sublayers:
                raise ValueError(
                    f"`{ADAPTED_LAYERS}` must name dense layers, convolutions or Guided Local "
                    f"Enhancement of {layer.name!r}. "
                    f"Received: {path!r}"
                )
            if isinstance(sublayers[path], Int8Kernel):
                _adapt_kernel(sublayers[path], **settings)
            else:
                _adapt_dense(sublayers[path], **settings)
    backend.track_again(layer)


def _adapt_kernel(layer, **settings):
    if settings != {"quantization": "int8"}:
        raise argument_error(ADAPTED_LAYERS, f"int8 alone for {layer.path}", settings)
    if layer.quantization_mode is None:
        layer.allocate_int8()


def _adapt_dense(
    dense, quantization=None, quantization_config=None, lora_rank=None, lora_alpha=None
):
    if quantization is not None and dense.quantization_mode is None:
        if quantization not in QUANTIZATIONS:
            raise argument_error("quantization", f"one of {list(QUANTIZATIONS)}", quantization)
        config = keras.saving.deserialize_keras_object(quantization_config)
        _allocate_quantized(dense, quantization, config or QUANTIZATIONS[quantization]())
    if lora_rank is not None and not dense.lora_enabled:
        dense.enable_lora(check_lora_rank(lora_rank), check_lora_alpha(lora_alpha))


def _allocate_quantized(dense, mode, config):
    """Does what `Dense.quantize` does, but for the values, which a file will give.

    The values may not exist: presets are built without memory first.
    """
    kernel_shape = tuple(dense._kernel.shape)
    if mode != "float8":
        dense._untrack_variable(dense._kernel)
    dense._tracker.unlock()
    dense.quantization_config = config
    dense.quantized_build(kernel_shape, mode, config)
    dense._tracker.lock()
    if mode == "int4":
        mode = f"int4/{config.block_size or -1}"
    dense.dtype_policy = f"{mode}_from_{dense.dtype_policy.name}"


class AdaptedSublayers:
    """A mixin for layers that create such layers: their changes are part of the config."""

    _to_adapt: Sequence[dict[str, Any]] = ()

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        groups = adapted_layers(self) if self.built else self._to_adapt
        return {**config, ADAPTED_LAYERS: groups} if groups else config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> keras.layers.Layer:
        config = dict(config)
        groups = config.pop(ADAPTED_LAYERS, ())
        layer = super().from_config(config)
        layer._to_adapt = groups
        return layer

    def _post_build(self) -> None:
        super()._post_build()
        if self._to_adapt:
            adapt(self, self._to_adapt)


# === LoRA ===


def check_lora_rank(rank: Any) -> int:
    """Returns `rank` as an int of at least 1."""
    return check_integer("rank", rank)


def check_lora_alpha(alpha: Any) -> float | None:
    """Returns `lora_alpha` as a number above 0, or `None`."""
    return None if alpha is None else check_number("lora_alpha", alpha, allow_minimum=False)


def freeze_all_but_lora(layer: keras.layers.Layer) -> None:
    """Freezes all variables inside a layer but LoRA's; batch normalization uses its averages."""
    for sublayer in layer._flatten_layers():
        if getattr(sublayer, "lora_enabled", False):
            adapted = {id(sublayer.lora_kernel_a), id(sublayer.lora_kernel_b)}
            variables = [each for each in sublayer._trainable_variables if id(each) not in adapted]
        elif len(list(sublayer._flatten_layers())) == 1:
            sublayer.trainable = False
            continue
        else:
            # Only its own variables: `trainable` would also freeze its sublayers.
            variables = sublayer._trainable_variables
        for variable in variables:
            variable.trainable = False


def merge_lora(dense: keras.layers.Dense) -> None:
    """Adds LoRA's product to the kernel and removes it; a quantized kernel is quantized again."""
    if dense.quantization_mode is None:
        kernel, a, b = (
            keras.ops.convert_to_numpy(variable).astype("float64")
            for variable in (dense._kernel, dense.lora_kernel_a, dense.lora_kernel_b)
        )
        dense._kernel.assign(kernel + dense.lora_alpha / dense.lora_rank * (a @ b))
        dense._kernel.trainable = dense.trainable
    else:
        values = dense._get_kernel_with_merged_lora()
        variables = (dense._kernel, dense.kernel_scale, getattr(dense, "kernel_zero", None))
        for variable, value in zip(variables, values, strict=True):
            if variable is not None:
                variable.assign(keras.ops.convert_to_numpy(value))
    for name in ("lora_kernel_a", "lora_kernel_b"):
        dense._untrack_variable(getattr(dense, name))
        setattr(dense, name, None)
    dense.lora_enabled, dense.lora_rank, dense.lora_alpha = False, None, None
    if dense.use_bias:
        dense.bias.trainable = dense.trainable
