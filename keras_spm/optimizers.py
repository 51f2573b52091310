"""Optimizers and learning-rate schedules of the training recipes."""

import math
import re
from collections.abc import Sequence
from typing import Any

import keras

from keras_spm.arguments import check_integer, check_number
from keras_spm.types import Tensor

# On PyTorch, Keras replaces `keras.optimizers.AdamW` by a class that updates all variables at
# once, but it does not replace subclasses. This is the replacement.
_KerasAdamW = type(keras.optimizers.AdamW.__new__(keras.optimizers.AdamW))

# Learning rate of gates over that of all other variables. At the common rate they stay near zero.
GATE_MULTIPLIER = 30.0

# Names end in ":0" for TensorFlow's own variables.
_NO_WEIGHT_DECAY = r"(bias|bias_table|gamma|beta|class_token|gate)(:\d+)?$"
_GATE = re.compile(r"(.*/)?merging/gate")  # Of `keras_spm.layers.GatedMerging`.


@keras.saving.register_keras_serializable("keras_spm")
class AdamW(_KerasAdamW):
    """`keras.optimizers.AdamW` with weight decay on kernels and position embeddings only.

    Scales and shifts of normalizations, biases, bias tables and class tokens are not decayed,
    as in the official code of PVT and Swin. Keras would not save such an exclusion list.

    Args:
        gate_multiplier: float, the learning rate of the gates of `merging="default+spm"`, as a
            multiple of that of all other variables. Gates are not decayed.
        *args, **kwargs: as in `keras.optimizers.AdamW`.
    """

    def __init__(self, *args: Any, gate_multiplier: float = GATE_MULTIPLIER, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.gate_multiplier = check_number("gate_multiplier", gate_multiplier)
        self.exclude_from_weight_decay(var_names=[_NO_WEIGHT_DECAY])

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        # Keras's step takes one learning rate, on PyTorch for all variables at once.
        pairs = list(zip(grads, trainable_variables, strict=True))
        for is_gate, rate in ((False, learning_rate), (True, learning_rate * self.gate_multiplier)):
            chosen = [pair for pair in pairs if _is_gate(pair[1]) == is_gate]
            if chosen:
                super()._backend_update_step(*map(list, zip(*chosen, strict=True)), rate)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gate_multiplier": self.gate_multiplier}


def _path(variable):
    # On TensorFlow, the variable may be the `tf.Variable` inside the Keras variable.
    return getattr(variable, "path", None) or variable.name.partition(":")[0]


def _is_gate(variable):
    return _GATE.fullmatch(_path(variable)) is not None


def build_optimizer(optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]) -> None:
    """Builds an optimizer, or checks that it was built for these variables.

    If layers were frozen in between, TensorFlow would go on to train them, and Keras would
    assign the averages of `use_ema` to other variables.

    Raises:
        ValueError: if it was built for other variables.
    """
    if not optimizer.built:
        optimizer.build(variables)
        return
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # Of loss scaling.
    if {id(each) for each in inner._trainable_variables} != {id(each) for each in variables}:
        raise ValueError(
            "Layers were frozen or unfrozen since the optimizer was built. Call `compile` again, "
            "or freeze them by the task's `freeze`, which does so."
        )


@keras.saving.register_keras_serializable("keras_spm")
class LayerwiseAdamW(keras.optimizers.Adam):
    """`AdamW` with layer-wise learning-rate decay.

    Variables of the last group in `layer_groups` are trained at `layer_decay` times the
    learning rate, those of the group before it at `layer_decay**2` times, and so on; all others
    (the head, and layers without loaded weights) at the full learning rate, and the gates of
    `merging="default+spm"` at `gate_multiplier` times that. Weight decay is scaled likewise.
    On PyTorch, variables are updated one by one, which is slower than `AdamW`.

    Args:
        learning_rate: float or schedule, the learning rate of the head.
        layer_decay: float in (0, 1], the factor between neighboring groups.
        layer_groups: sequence of sequences of variable paths, from the input to the output.
        weight_decay: float.
        gate_multiplier: float, see `AdamW`.
        **kwargs: passed to `keras.optimizers.Adam`.

    Raises:
        ValueError: if an argument is out of range; on `build`, if no variable is in a group.

    Example:

    >>> backbone = keras_spm.PVTv2.from_preset("mini", load_weights=False)
    >>> model = keras_spm.ImageClassifier(backbone, num_classes=10)
    >>> model.compile(LayerwiseAdamW.from_backbone(backbone, 1e-3, layer_decay=0.75))

    Reference:
        Bao et al., "BEiT" (arXiv 2106.08254), and Swin's fine-tuning code.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        layer_decay: float,
        layer_groups: Sequence[Sequence[str]],
        weight_decay: float = 0.05,
        gate_multiplier: float = GATE_MULTIPLIER,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        self.gate_multiplier = check_number("gate_multiplier", gate_multiplier)
        self.layer_decay = check_number("layer_decay", layer_decay, 0, 1, allow_minimum=False)
        self.layer_groups = [list(paths) for paths in layer_groups]
        # {path: number of groups from this one to the head}
        self._distances = {
            path: len(self.layer_groups) - depth
            for depth, paths in enumerate(self.layer_groups)
            for path in paths
        }
        # Keras would apply an attribute `weight_decay` at the full learning rate.
        self.scaled_weight_decay = check_number("weight_decay", weight_decay)

    @classmethod
    def from_backbone(
        cls,
        backbone: keras.Model,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        layer_decay: float = 0.75,
        weight_decay: float = 0.05,
        **kwargs: Any,
    ) -> "LayerwiseAdamW":
        """Creates the optimizer for a backbone, or for a task on it.

        `backbone.layer_groups` is a list of lists of layers or variables, from the input to the
        output: the stem, then one group per block. Variables that were not loaded with the
        others (`backbone.load_report.missing_keys`), such as mergings without published
        weights, are in no group, and neither are gates. See the class for the other arguments.
        """
        report = getattr(backbone, "load_report", None)
        missing = set() if report is None else set(report.missing_keys)
        groups = []
        for group in backbone.layer_groups:
            lists = [getattr(layer, "trainable_variables", [layer]) for layer in group]
            paths = [variable.path for variables in lists for variable in variables]
            groups.append(
                [path for path in paths if path not in missing and not _GATE.fullmatch(path)]
            )
        return cls(learning_rate, layer_decay, groups, weight_decay, **kwargs)

    def build(self, variables: list[keras.Variable]) -> None:
        paths = [variable.path for variable in variables]
        if not self._distances.keys() & set(paths):
            raise ValueError(
                "`layer_groups` must contain variables of the model. Received: none of "
                f"{', '.join(paths[:3])}, …"
            )
        super().build(variables)

    def update_step(self, gradient: Tensor, variable: Tensor, learning_rate: Tensor) -> None:
        path = _path(variable)
        scale = self.layer_decay ** self._distances.get(path, 0)
        if _is_gate(variable):
            scale *= self.gate_multiplier
        scaled_rate = keras.ops.cast(learning_rate, variable.dtype) * scale
        if self.scaled_weight_decay and not re.search(_NO_WEIGHT_DECAY, path):
            decay = keras.ops.multiply(variable, scaled_rate * self.scaled_weight_decay)
            self.assign_sub(variable, decay)
        super().update_step(gradient, variable, scaled_rate)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "layer_decay": self.layer_decay,
            "layer_groups": self.layer_groups,
            "weight_decay": self.scaled_weight_decay,
            "gate_multiplier": self.gate_multiplier,
        }


@keras.saving.register_keras_serializable("keras_spm")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warmup, then cosine decay, updated every `update_every` steps.

    With t the step rounded down to a multiple of `update_every`, the learning rate is
    `warmup_learning_rate + (learning_rate - warmup_learning_rate) * t / warmup_steps` while
    t < warmup_steps, and then `min_learning_rate + (learning_rate - min_learning_rate) *
    (1 + cos(pi * t / steps)) / 2`.

    Args:
        learning_rate: float, the peak.
        steps: int, the total number of steps.
        warmup_steps: int.
        warmup_learning_rate: float, the learning rate at step 0.
        min_learning_rate: float, the learning rate at the last step.
        update_every: int, the steps of an epoch for a learning rate that changes once an epoch.
        warmup_prefix: bool, whether t in the cosine counts from the end of the warmup. Otherwise
            the cosine has already decayed when the warmup ends.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        timm's `CosineLRScheduler`: per epoch for PVT, per step and with `warmup_prefix` for Swin.
        PVT's code updates the learning rate after each epoch, with the number of the finished
        epoch, so its learning rates are one epoch late.
    """

    def __init__(
        self,
        learning_rate: float,
        steps: int,
        warmup_steps: int = 0,
        warmup_learning_rate: float = 0.0,
        min_learning_rate: float = 0.0,
        update_every: int = 1,
        warmup_prefix: bool = False,
    ):
        super().__init__()
        self.learning_rate = check_number("learning_rate", learning_rate)
        self.steps = check_integer("steps", steps)
        self.warmup_steps = check_integer("warmup_steps", warmup_steps, 0, self.steps - 1)
        self.warmup_learning_rate = check_number("warmup_learning_rate", warmup_learning_rate)
        self.min_learning_rate = check_number("min_learning_rate", min_learning_rate)
        self.update_every = check_integer("update_every", update_every)
        self.warmup_prefix = warmup_prefix

    def __call__(self, step: Tensor) -> Tensor:
        # Integer division: a quotient of floats could be rounded up to the next epoch.
        step = keras.ops.cast(step // self.update_every * self.update_every, "float32")
        warmup = self.warmup_learning_rate + (self.learning_rate - self.warmup_learning_rate) * (
            step / max(self.warmup_steps, 1)
        )
        start = self.warmup_steps if self.warmup_prefix else 0
        progress = keras.ops.minimum((step - start) / (self.steps - start), 1.0)
        decay = self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * (
            0.5 * (1.0 + keras.ops.cos(math.pi * progress))
        )
        return keras.ops.where(step < self.warmup_steps, warmup, decay)

    def get_config(self) -> dict[str, Any]:
        names = (
            *("learning_rate", "steps", "warmup_steps", "warmup_learning_rate"),
            *("min_learning_rate", "update_every", "warmup_prefix"),
        )
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("keras_spm")
class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Multiplies a schedule by a factor that increases linearly to 1 over the first `steps` steps.

    Args:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`.
        steps: int. The factor of the first step is 1 / steps.

    Raises:
        ValueError: if `steps` is negative.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, steps: int):
        super().__init__()
        self.schedule = schedule
        self.steps = check_integer("steps", steps, 0)

    def __call__(self, step: Tensor) -> Tensor:
        factor = (keras.ops.cast(step, "float32") + 1) / max(self.steps, 1)
        return self.schedule(step) * keras.ops.minimum(factor, 1.0)

    def get_config(self) -> dict[str, Any]:
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LinearWarmup":
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**{**config, "schedule": schedule})
