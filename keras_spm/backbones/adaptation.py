"""Quantization and low-rank adaptation of models."""

import gc
from typing import Any, ClassVar

import keras

from keras_spm import backend
from keras_spm.arguments import argument_error
from keras_spm.layers.adaptation import (
    ADAPTED_LAYERS,
    QUANTIZATIONS,
    Filters,
    adapt,
    adapted_layers,
    check_lora_alpha,
    check_lora_rank,
    freeze_all_but_lora,
    lora_layers,
    merge_lora,
    select_for_lora,
    select_for_quantization,
)
from keras_spm.registry import PRESET_FUNCTIONS
from keras_spm.types import PathLike


class AdaptableModel:
    """A mixin for backbones and tasks: `quantize`, and LoRA of the backbone.

    Both change the model in place. They are saved with it, and `load_model`, `from_preset` and
    `clone_model` restore them.
    """

    # The layers that LoRA adapts by default, see `enable_lora`.
    lora_filters: ClassVar[Filters] = r"(^|/)(query|key_value|qkv|fc1|fc2)$"

    # === Quantization ===

    def quantize(
        self,
        mode: str | None = None,
        config: Any = None,
        filters: Filters = None,
        type_check: bool = True,
    ) -> None:
        """Quantizes dense layers, convolutions and Guided Local Enhancement in place.

        Depthwise convolutions and norms keep their dtype. Except in dense layers, kernels alone
        are quantized, to int8, in the modes `"int8"` and `"int4"`. A compiled task is compiled
        again with the same arguments. A quantized kernel is not trained any more, but LoRA can
        adapt that of a dense layer. `fuse` and `quantize` can be combined in any order.

        Args:
            mode: `"int8"`, `"int4"` (kernels alone, in blocks of 128 inputs), or `"float8"`, which
                keeps float kernels and is meant for training on hardware with float8.
            config: optional `keras.quantizers.Int8QuantizationConfig` or the like. With
                `activation_quantizer=None`, only kernels are quantized.
            filters: as in Keras, but searched in the paths of layers: a regular expression such as
                `"/mlp/"` or `"^(?!head)"` (all but the head), a list of them, or a function
                of a layer. By default all layers are quantized that are not yet.
            type_check: of Keras; not used.

        Raises:
            ValueError: for an unknown mode, invalid filters or filters without a match, a layer
                that is quantized already, or a model with LoRA.

        Example:

        >>> model = keras_spm.ImageClassifier(
        ...     keras_spm.PVTv2.from_preset("mini", load_weights=False), num_classes=10
        ... )
        >>> model.quantize("int8", filters="^(?!head)")
        """
        if mode not in QUANTIZATIONS:
            raise argument_error("mode", f"one of {', '.join(QUANTIZATIONS)}", mode)
        if lora_layers(self):
            raise ValueError(f"{self.name!r} has LoRA: call `merge_lora` before `quantize`.")
        selected = select_for_quantization(self, filters, mode)
        changed = {path: each for path, each in selected.items() if not each.quantization_mode}
        if not changed or (filters is not None and len(changed) < len(selected)):
            path = next(path for path in selected if path not in changed)
            raise ValueError(
                f"The layers must not be quantized yet. Received: {path!r} with "
                f"{selected[path].quantization_mode}"
            )
        # Keras collects garbage after each layer. Frozen, existing objects are not visited.
        gc.freeze()
        try:
            for layer in changed.values():
                layer.quantize(mode, config=config)
        finally:
            gc.unfreeze()
        self._update_after_adaptation()

    # === LoRA ===

    def enable_lora(
        self, rank: int, lora_alpha: float | None = None, filters: Filters = None
    ) -> None:
        """Adapts dense layers by low-rank matrices, and freezes everything else in the backbone.

        A kernel W is replaced by `W + A B * lora_alpha / rank`, with A (inputs, rank) and B
        (rank, outputs). B starts at zero, so the outputs do not change. Batch normalization uses
        its averages. In a task, LoRA and the task's own layers, such as the head, are trained; a
        compiled task is compiled again.

        Saved models keep LoRA, and can be trained further. `save_lora_weights` saves it alone,
        and `merge_lora` adds it to the kernels.

        Args:
            rank: int.
            lora_alpha: float, by default `rank`.
            filters: see `quantize`; by default the queries, keys and values of attention and
                both layers of MLPs.

        Raises:
            ValueError: for invalid arguments, filters without a match, a model that has LoRA
                already, or with layers of random weights, which would be frozen.

        Example:

        >>> backbone = keras_spm.PVTv2.from_preset("mini", load_weights=False)
        >>> backbone.enable_lora(rank=4, filters="/attention/")

        Reference:
            Hu et al., LoRA, arXiv 2106.09685.
        """
        rank, lora_alpha = check_lora_rank(rank), check_lora_alpha(lora_alpha)
        backbone = getattr(self, "backbone", self)
        if lora_layers(backbone):
            raise ValueError(f"{self.name!r} has LoRA already: call `merge_lora` first.")
        filters = backbone.lora_filters if filters is None else filters
        selected = select_for_lora(backbone, filters)
        paths = {variable.path for variable in backbone.weights}
        missing = getattr(getattr(backbone, "load_report", None), "missing_keys", ())
        if fresh := [path for path in missing if path in paths]:
            raise ValueError(
                f"LoRA would freeze layers of {self.name!r} that have random weights, such as "
                f"{fresh[0]}. Train the whole model first, and load it from its file."
            )
        if any(dense.quantization_mode == "float8" for dense in selected.values()):
            raise ValueError("`filters` must not match layers in float8, which has no LoRA.")
        for dense in selected.values():
            dense.enable_lora(rank, lora_alpha)
        self._refreeze()
        self._update_after_adaptation()

    def merge_lora(self) -> None:
        """Adds LoRA to the kernels and removes it; the outputs change by rounding only.

        Quantized kernels are quantized again. Layers are trainable as before `enable_lora`.

        Raises:
            ValueError: for a model without LoRA.
        """
        self._check_has_lora()
        for dense in lora_layers(self).values():
            merge_lora(dense)
        self._refreeze()
        self._update_after_adaptation()

    def save_lora_weights(self, path: PathLike) -> None:
        """Writes LoRA to a small `.safetensors` file, in a task with the task's own layers.

        An existing file is replaced, also if two processes write it at the same time; none is
        left incomplete.

        Args:
            path: of the file, which ends in `.safetensors`.

        Raises:
            ValueError: for a model without LoRA.
        """
        self._check_has_lora()
        PRESET_FUNCTIONS["save_lora"](self, path)

    def load_lora_weights(self, path: PathLike) -> None:
        """Reads a file of `save_lora_weights` into a model of the same kind.

        LoRA is enabled as in the file, unless the model has it. The file is checked as a whole
        first: if it does not fit, the model does not change. There is a warning if the backbone
        has other weights than the one that LoRA was trained on.

        Args:
            path: of the file.

        Raises:
            FileNotFoundError: if there is no such file.
            keras_spm.weights.WeightsError: if it is not such a file, or does not fit.
        """
        PRESET_FUNCTIONS["load_lora"](self, path)

    def _check_has_lora(self):
        if not lora_layers(self):
            raise ValueError(f"{self.name!r} has no LoRA: call `enable_lora` first.")

    # === Serialization ===

    def adapt(self, groups: list[dict[str, Any]]) -> None:
        """Quantizes layers and enables LoRA as `adapted_layers` in a configuration says."""
        adapt(self, groups)
        if lora_layers(self):
            self._refreeze()
        self._update_after_adaptation()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> keras.Model:
        config = dict(config)
        groups = config.pop(ADAPTED_LAYERS, None)
        model = cls(**config)
        if groups:
            model.adapt(groups)
        return model

    def _adaptation_config(self, without=()):
        """Returns the part of the configuration that is not a constructor argument."""
        groups = adapted_layers(self, without)
        return {ADAPTED_LAYERS: groups} if groups else {}

    def _update_after_adaptation(self) -> None:
        """Updates what depends on the variables and on which of them are trained."""
        backend.track_again(self)
        for model in {self, getattr(self, "backbone", self)}:
            model.train_function = model.test_function = model.predict_function = None

    def _refreeze(self) -> None:
        """Freezes the layers as the model's arguments say."""
        raise NotImplementedError(f"{type(self).__name__} must implement `_refreeze`.")


def freeze_for_lora(backbone: keras.Model) -> None:
    """Freezes a backbone but for LoRA, if it has LoRA."""
    if lora_layers(backbone):
        freeze_all_but_lora(backbone)
