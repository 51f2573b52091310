"""The optimizers and learning rates of the families' training recipes."""

import math
import re

import keras

# Under PyTorch Keras makes an AdamW of a class that updates all variables at once, but not
# of a subclass of the name it exports; so the base is the class that it would make.
_KerasAdamW = type(keras.optimizers.AdamW.__new__(keras.optimizers.AdamW))

# TensorFlow's own variables are called by their path, and "bias:0" at its end.
_UNDECAYED = r"(bias|bias_table|gamma|beta|class_token)(:\d+)?$"


@keras.saving.register_keras_serializable("keras_spm")
class AdamW(_KerasAdamW):
    """`keras.optimizers.AdamW` that decays kernels and position embeddings only.

    Norms' scales and shifts, all biases, tables of biases and class tokens keep their
    values, as in the official code of PVT and Swin. Keras's own exclusion list is lost
    when a model is saved; here it is part of the class. Takes the arguments of Keras's
    AdamW.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.exclude_from_weight_decay(var_names=[_UNDECAYED])


@keras.saving.register_keras_serializable("keras_spm")
class LayerwiseAdamW(keras.optimizers.Adam):
    """`AdamW` whose learning rate falls from the head of a network to its stem.

    The head, and a norm after the last stage, learn at the full rate; every block before
    them at `layer_decay` times the rate of the next, and the stem at the lowest. What
    stands before a stage's first block (its merging, position embedding and class token)
    has the rate of the block before; a stage's own norm that of its last block. The rate
    counts for the weight decay too, which spares what `AdamW` spares.

    Under PyTorch it updates one variable after the other, which is slower than `AdamW`.

    Args:
        learning_rate: of the head; float or schedule.
        layer_decay: float above 0 and up to 1.
        depths: ints, blocks of each stage, as a backbone's `depths`.
        decay: float, the weight decay.
        **kwargs: of `keras.optimizers.Adam`.

    Raises:
        ValueError: for a `layer_decay` outside its range; when it is built, for variables
            of a stage or block beyond `depths`, and where none belongs to a stage.

    Reference:
        Bao et al., "BEiT" (arXiv 2106.08254), and Swin's code for fine-tuning.
    """

    def __init__(self, learning_rate, layer_decay, depths, decay=0.05, **kwargs):
        super().__init__(learning_rate, **kwargs)
        if not 0 < layer_decay <= 1:
            raise ValueError(
                f"`layer_decay` must be above 0 and at most 1. Received: layer_decay={layer_decay}"
            )
        self.layer_decay = layer_decay
        self.depths = tuple(depths)
        # Not called `weight_decay`, which Keras would take at the full rate.
        self.decay = decay

    def build(self, variables):
        paths = [variable.path for variable in variables]
        if not any(path.startswith("stage") for path in paths):
            raise ValueError(
                "`LayerwiseAdamW` must train a backbone of this package, or a task on one: the "
                f"variables of its stages are told by their paths. Received: {paths[:3]}, …"
            )
        for path in paths:
            layer_number(path, self.depths)
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        # Under TensorFlow it is the variable inside Keras's.
        path = getattr(variable, "path", None) or variable.name
        behind = sum(self.depths) + 1 - layer_number(path, self.depths)
        rate = keras.ops.cast(learning_rate, variable.dtype) * self.layer_decay**behind
        if self.decay and not re.search(_UNDECAYED, path):
            self.assign_sub(variable, keras.ops.multiply(variable, rate * self.decay))
        super().update_step(gradient, variable, rate)

    def get_config(self):
        return {
            **super().get_config(),
            "layer_decay": self.layer_decay,
            "depths": self.depths,
            "decay": self.decay,
        }


def layer_number(path, depths):
    """Returns how deep a variable lies: 0 is the stem, the sum of `depths` + 1 the head.

    Args:
        path: of the variable, as Keras names it.
        depths: ints, blocks of each stage.

    Raises:
        ValueError: for a stage or block beyond `depths`.
    """
    place = re.match(r"stage(\d+)/(?:block(\d+)|(norm))?", path)
    if place is None:
        return 0 if path.startswith("stem/") else sum(depths) + 1
    stage, block = int(place[1]), int(place[2] or 0)
    before = sum(depths[: stage - 1])
    if stage > len(depths) or block > depths[stage - 1]:
        raise ValueError(
            f"`depths` must be the backbone's own, which has {path!r}. Received: depths={depths}"
        )
    return before + depths[stage - 1] if place[3] else before + block


@keras.saving.register_keras_serializable("keras_spm")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warmup, then cosine decay, updated every `update_every` steps.

    With t the step rounded down to a multiple of `update_every`, the learning rate is
    `warmup_learning_rate + (learning_rate - warmup_learning_rate) * t / warmup_steps` while
    t < warmup_steps, and then `min_learning_rate + (learning_rate - min_learning_rate) *
    (1 + cos(pi * t / steps)) / 2`. The cosine starts at step 0, so it has already decayed when
    the warmup ends. With `warmup_prefix`, it starts when the warmup ends.

    Args:
        learning_rate: float, the peak.
        steps: int, the total number of steps.
        warmup_steps: int.
        warmup_learning_rate: float, the learning rate at step 0.
        min_learning_rate: float, the learning rate at the last step.
        update_every: int, the steps of an epoch for a learning rate that changes once an epoch.
        warmup_prefix: bool, whether the cosine starts after the warmup.

    Reference:
        timm's `CosineLRScheduler`: by epochs for PVT, by steps and with `warmup_prefix` for
        Swin. PVT's code sets the rate of each epoch after it, with its number, so that there
        every rate comes an epoch later.
    """

    def __init__(
        self,
        learning_rate,
        steps,
        warmup_steps=0,
        warmup_learning_rate=0.0,
        min_learning_rate=0.0,
        update_every=1,
        warmup_prefix=False,
    ):
        super().__init__()
        self.learning_rate = learning_rate
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.warmup_learning_rate = warmup_learning_rate
        self.min_learning_rate = min_learning_rate
        self.update_every = update_every
        self.warmup_prefix = warmup_prefix

    def __call__(self, step):
        # Divided as ints: a quotient of floats could round up to the next epoch.
        held = keras.ops.cast(step // self.update_every * self.update_every, "float32")
        rising = self.warmup_learning_rate + (self.learning_rate - self.warmup_learning_rate) * (
            held / max(self.warmup_steps, 1)
        )
        passed = self.warmup_steps if self.warmup_prefix else 0
        share = keras.ops.minimum((held - passed) / (self.steps - passed), 1.0)
        falling = self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * (
            0.5 * (1.0 + keras.ops.cos(math.pi * share))
        )
        return keras.ops.where(held < self.warmup_steps, rising, falling)

    def get_config(self):
        names = (
            *("learning_rate", "steps", "warmup_steps", "warmup_learning_rate"),
            *("min_learning_rate", "update_every", "warmup_prefix"),
        )
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("keras_spm")
class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to where another schedule is by then, and goes on with that.

    Args:
        schedule: the `keras.optimizers.schedules` schedule.
        steps: int, of the rise. The first step has 1 / steps of the full rate.
    """

    def __init__(self, schedule, steps):
        super().__init__()
        self.schedule = schedule
        self.steps = steps

    def __call__(self, step):
        share = (keras.ops.cast(step, "float32") + 1) / max(self.steps, 1)
        return self.schedule(step) * keras.ops.minimum(share, 1.0)

    def get_config(self):
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**{**config, "schedule": schedule})
