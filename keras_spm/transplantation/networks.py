"""The two networks of a transplant, and the models that compare them."""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from keras_spm.arguments import argument_error
from keras_spm.backbones import PyramidBackbone
from keras_spm.backbones.merging import MERGING_PATH, copy_shared_variables
from keras_spm.layers.batch_normalization import BatchNormalization
from keras_spm.layers.image_normalization import ImageNormalization
from keras_spm.layers.shared_layer import SharedLayer
from keras_spm.registry import PRESET_FUNCTIONS
from keras_spm.tasks.graph import data_format_of, default_statistics
from keras_spm.transplantation.closed_form import batch_statistics, can_initialize, initialize
from keras_spm.transplantation.matching import Matching
from keras_spm.types import Shape, Tensor


class Networks:
    """A student and its teacher, which has the family's own mergings.

    Args:
        student, teacher: as in `transplant`.

    Raises:
        ValueError: if one of them is no such network, or their architectures differ.
    """

    def __init__(self, student: keras.Model, teacher: keras.Model | None) -> None:
        self._task = student
        self.student = _backbone_of("student", student)
        self._source = teacher
        self._stage_input_models = {}
        self.is_gated = hasattr(_merging_stages(self.student)[0].merging, "default_share")
        if teacher is not None:
            _check_same_architecture(self.student, _backbone_of("teacher", teacher))
        if self.is_gated:
            self.teacher = self.student  # Its default mergings.
        elif teacher is None:
            self.teacher = _load_teacher(student, self.student)
        else:
            self.teacher = _backbone_of("teacher", teacher)
        # {stage: layer that is trained}, and {stage: layer that it reproduces}
        self._mergings, self._originals = (
            {each.name: getattr(each.merging, part, each.merging) for each in _merging_stages(of)}
            for part, of in (("spm", self.student), ("default", self.teacher))
        )

    @property
    def stage_names(self) -> list[str]:
        """The stages that begin with a merging."""
        return list(self._mergings)

    def copy_variables(self) -> None:
        """Makes the two networks equal but for the mergings."""
        if self._source is not None:
            copy_shared_variables(self._task, self._source)
            copy_shared_variables(self.student, _backbone_of("teacher", self._source))
        elif self.teacher is not self.student:
            copy_shared_variables(self.teacher, self.student)

    @contextlib.contextmanager
    def only_mergings_trainable(self) -> Iterator[None]:
        """Freezes everything but the mergings, then restores each setting."""
        both = (self.student, self.teacher)
        layers = [layer for each in both for layer in each._flatten_layers()]
        variables = [variable for each in both for variable in each.variables]
        before = [(each, each.trainable) for each in (*layers, *variables)]
        for each in both:
            each.trainable = False
        for merging in self._mergings.values():
            merging.trainable = True
        try:
            yield
        finally:
            for each, trainable in before:  # Layers come before the layers inside.
                each.trainable = trainable

    # === Models ===

    def regression(self) -> Matching:
        """Compares the mergings on the inputs of the teacher's."""
        images = self._images()
        inputs = self._stage_inputs("teacher")(images)
        pairs = {
            name: (
                SharedLayer(merging, name=f"student_{name}")(inputs[name]),
                SharedLayer(self._originals[name], name=f"teacher_{name}")(inputs[name]),
            )
            for name, merging in self._mergings.items()
        }
        return Matching(images, pairs)

    def in_place(self) -> Matching:
        """Compares the outputs of the mergings, and of the last stage, in their own networks."""
        if self.is_gated:
            return self.regression()
        images = self._images()
        student, teacher = (self._outputs(owner, images) for owner in ("student", "teacher"))
        pairs = {name: (student[name], teacher[name]) for name in student}
        return Matching(images, pairs, inference=True)

    def _outputs(self, owner, images):
        backbone, outputs = getattr(self, owner), {}
        first, *stages = backbone.stages
        # With the data format of the images.
        before = keras.Model(backbone.input, first.output)
        maps = before(self._normalize(images))
        for stage in stages:
            merging = SharedLayer(stage.merging, name=f"{owner}_{stage.name}")
            maps = outputs[stage.name] = merging(maps)
            maps = _AfterMerging(stage, name=f"{owner}_after_{stage.name}")(maps)
        if isinstance(maps, (tuple, list)):
            maps, outputs["class_token"] = maps
        return {**outputs, "map": maps}

    def _stage_inputs(self, owner):
        """Returns the model from images to {stage: input of its merging}, in inference mode."""
        backbone = getattr(self, owner)
        if owner not in self._stage_input_models:
            inputs = {name: backbone.get_layer(name).input for name in self._mergings}
            images = self._images()
            model = _InferenceMode(keras.Model(backbone.input, inputs))
            self._stage_input_models[owner] = keras.Model(images, model(self._normalize(images)))
        return self._stage_input_models[owner]

    def _images(self):
        return keras.Input(self.student.input.shape[1:], name="images")

    def _normalize(self, images):
        is_task = self._task is not self.student
        own = (self._task.mean, self._task.std) if is_task else (None, None)
        layer = ImageNormalization(
            *default_statistics(*own, self.student),
            data_format=data_format_of(self.student),
            dtype=self.student.dtype_policy,
        )
        return layer(images)

    # === Closed forms ===

    def initialize(self, batches: Sequence[np.ndarray]) -> None:
        """Initializes the mergings from the teacher's and from images, where that is known."""
        for name, maps in self._collect_inputs("teacher", batches).items():
            merging, original = self._mergings[name], self._originals[name]
            if can_initialize(merging, original):
                outputs = [keras.ops.convert_to_numpy(original(each)) for each in maps]
                initialize(merging, original, maps, outputs)

    def settle(self, batches: Sequence[np.ndarray]) -> None:
        """Sets moving statistics to those of training, without a change of the outputs."""
        for name, maps in self._collect_inputs("student", batches).items():
            merging = self._mergings[name]
            norms = [
                each for each in merging._flatten_layers() if isinstance(each, BatchNormalization)
            ]
            for norm in norms:
                _settle(norm, norms, merging, maps)

    def _collect_inputs(self, owner, batches):
        model = self._stage_inputs(owner)
        collected = [model.predict_on_batch(batch) for batch in batches]
        return {name: [maps[name] for maps in collected] for name in self._mergings}


class _InferenceMode(keras.layers.Layer):
    """Calls a functional model without drop path and with moving statistics, also in training.

    A functional model overrides the `training=False` of the calls in its graph.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(dtype=model.dtype_policy)
        self.model = model
        self.supports_jit = all(layer.supports_jit for layer in model._flatten_layers())

    def call(self, inputs: Tensor) -> dict[str, Tensor]:
        return self.model(inputs, training=False)

    def compute_output_spec(self, inputs: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
        return self.model.compute_output_spec(inputs)


class _AfterMerging(SharedLayer):
    """Calls the layers of a stage after its merging."""

    def call(self, inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.layer.after_merging(inputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape | tuple[Shape, Shape]:
        return self.layer.shape_after_merging(input_shape)


def _settle(norm, norms, merging, maps):
    others = [(each, each.get_weights()) for each in norms if each is not norm]
    scale, offset = norm.affine()
    mean, variance = batch_statistics(norm, lambda x: merging(x, training=True), maps)
    for each, weights in others:
        each.set_weights(weights)
    # In inference, the layer still computes scale * x + offset.
    gamma = scale * np.sqrt(variance + norm.epsilon)
    norm.set_weights([gamma, offset + scale * mean, mean, variance])


def _merging_stages(backbone):
    """The stages that begin with a merging."""
    return [each for each in backbone.stages if getattr(each, "merging", None) is not None]


def _backbone_of(name, model):
    backbone = getattr(model, "backbone", model)
    if not isinstance(backbone, PyramidBackbone):
        raise argument_error(name, "a backbone of this package or a task on it", model)
    if [each for each in backbone.stages if not hasattr(each, "after_merging")] or len(
        _merging_stages(backbone)
    ) != len(backbone.stages) - 1:
        raise argument_error(name, "a network with a merging between all stages", model)
    if getattr(backbone, "fused", False):
        raise argument_error(name, "a network that is not fused", model)
    if any(each.quantization_mode for each in backbone._flatten_layers()):
        raise argument_error(name, "a network that is not quantized", model)
    return backbone


def _load_teacher(student, backbone):
    """Loads the preset of the student with the mergings of its family."""
    name = getattr(student, "preset", None) or getattr(backbone, "preset", None)
    if name is None:
        raise ValueError(
            "`teacher` must be given, the trained network with the mergings of its family: the "
            "student was not loaded from a preset. Received: teacher=None"
        )
    arguments = {**backbone.get_config(), "merging": "default"}
    teacher = PRESET_FUNCTIONS["load"](type(backbone), name, True, None, arguments)
    if any(MERGING_PATH in path for path in teacher.load_report.missing_keys):
        raise ValueError(
            f"`teacher` must be given: {name} has no weights of the family's mergings. "
            "Received: teacher=None"
        )
    return teacher


def _check_same_architecture(student, teacher):
    shapes = [
        {each.path: tuple(each.shape) for each in model.weights if MERGING_PATH not in each.path}
        for model in (student, teacher)
    ]
    if shapes[0] != shapes[1]:
        differing = sorted({path for path, _ in shapes[0].items() ^ shapes[1].items()})
        raise ValueError(
            "`teacher` must have the student's architecture but for its mergings. "
            f"Received: other variables {', '.join(differing[:3])}"
        )
    kinds = [type(each.merging).__name__ for each in _merging_stages(teacher)]
    if kinds == [type(each.merging).__name__ for each in _merging_stages(student)]:
        raise ValueError(
            f"`teacher` must have other mergings than the student. Received: {kinds[0]} in both"
        )
