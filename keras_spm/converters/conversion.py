"""Loading and exporting weights in the layouts of PyTorch code bases."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import keras
import numpy as np

from keras_spm.registry import LAYOUTS
from keras_spm.types import PathLike, Tensor
from keras_spm.weights import state_dict
from keras_spm.weights.errors import MismatchError, join_names
from keras_spm.weights.formats import WRAPPER_PREFIXES, read_arrays, strip_prefixes
from keras_spm.weights.key_mapping import OWN_FORMAT, Layout

# Names of the model in training code.
_MODEL_PREFIXES = ("model.", "backbone.")

AnyModel: TypeAlias = keras.Model | keras.layers.Layer


class FamilyLayouts(NamedTuple):
    """Layouts of a family: of PyTorch code bases, and of this package's preset files."""

    torch: tuple[Layout, ...]
    own: Layout


def register_layouts(
    class_name: str, layouts: Sequence[Layout], own_layout: Layout | None = None
) -> None:
    """Registers the layouts of a backbone, head or layer class and of its subclasses.

    The layouts of a head name the layout of the backbone in the same files (`Layout.backbone`):
    together they are those of a task with both.

    Args:
        class_name: name of the class.
        layouts: see `keras_spm.weights.key_mapping.Layout`. With `STEM_CONVOLUTION` as the
            transform of the first convolution, weights for RGB images can be loaded into a
            model for images of other channels.
        own_layout: optional layout of preset files, with rules only for variables that are
            resized or adapted (`STEM_KERNEL`), and the names of optional tensors.

    Raises:
        ValueError: if the class has other layouts already.

    Example:

    ```python
    rules = (*affine("stem/projection", "conv1", CONVOLUTION), ...)
    register_layouts("MyNet", [Layout("timm", rules, head=affine("head", "fc", LINEAR))])
    ```
    """
    own_layout = Layout(OWN_FORMAT) if own_layout is None else own_layout
    LAYOUTS.register(class_name, FamilyLayouts(tuple(layouts), own_layout))


def find_layouts(model_or_layer: AnyModel) -> FamilyLayouts:
    """Returns the layouts of a model's family; no PyTorch layouts for an unknown one."""
    for ancestor in type(_backbone(model_or_layer)).__mro__:
        if ancestor.__name__ in LAYOUTS:
            return LAYOUTS[ancestor.__name__]
    return FamilyLayouts((), Layout(OWN_FORMAT))


def load_torch_weights(
    model_or_layer: AnyModel, source: PathLike | Mapping, layout: str = "auto"
) -> state_dict.LoadReport:
    """Loads weights of a PyTorch implementation, all of them or none.

    Every variable is assigned, and every tensor is used, except derived buffers, a head that
    the model lacks or has for other classes, and the class token and final norm of a PVT
    without them. Position embeddings and bias tables of another size are resized. The first
    convolution of a file for RGB images is adapted to a model for images of other channels: it is
    summed over its inputs for one channel, else its inputs are repeated and scaled, as in timm.

    Args:
        model_or_layer: a built backbone, a task, or a layer with layouts.
        source: path of a weight file, of an index of shards, or of a folder written by
            transformers; or a mapping of names to arrays. Wrappers of training code (`model`,
            `state_dict`) are unwrapped, and of weights and their moving averages (`model_ema`,
            `state_dict_ema`) the averages are loaded. Prefixes of all names (`model.`,
            `backbone.`, `module.`, `_orig_mod.`) are removed. Half precision is converted to
            float32.
        layout: one of `list_layouts(model_or_layer)`, or `"auto"` to detect it from the
            names.

    Returns:
        A `keras_spm.weights.LoadReport`; print it for a summary. Its `source` has the wrappers
        and prefixes. It is also the model's `load_report`.

    Raises:
        keras_spm.weights.FormatError: if the source cannot be read.
        keras_spm.weights.MismatchError: if names, shapes, values or epsilons do not fit.
        FileNotFoundError: if there is no such file.
        TypeError: for a model without layouts.
        ValueError: for an unknown layout, and for a model that is not built.

    Example:
    >>> backbone = keras_spm.PVTv2.from_preset("b1", load_weights=False)
    >>> report = keras_spm.load_torch_weights(backbone, "pvt_v2_b1.pth")
    """
    candidates = _candidates(model_or_layer, layout)  # Before the source is read.
    tensors, source_name = read_arrays(source, prefixes=())
    variables = variables_of(model_or_layer)
    # Names of a layout may start with `model.`, too.
    for prefixes in (WRAPPER_PREFIXES, (*WRAPPER_PREFIXES, *_MODEL_PREFIXES)):
        arrays, name = strip_prefixes(tensors, source_name, prefixes)
        if any(state_dict.count_matches(variables, arrays, layout) for layout in candidates):
            break
    chosen = detect_layout(model_or_layer, arrays, name, candidates)
    report = state_dict.load(variables, arrays, chosen, name)
    set_report(model_or_layer, report)
    return report


def set_report(model_or_layer: AnyModel, report: state_dict.LoadReport) -> None:
    """Sets `load_report` of a model, and of the backbone of a task."""
    for target in (model_or_layer, _backbone(model_or_layer)):
        target.load_report = report


def detect_layout(
    model_or_layer: AnyModel,
    arrays: dict[str, np.ndarray],
    source: str,
    candidates: Sequence[Layout] | None = None,
) -> Layout:
    """Returns the layout with the most tensors in `arrays`; raises MismatchError if none fits."""
    if candidates is None:
        candidates = _candidates(model_or_layer, "auto")
    variables = variables_of(model_or_layer)
    counts = [state_dict.count_matches(variables, arrays, layout) for layout in candidates]
    if not max(counts):
        raise MismatchError(
            f"{source}: [{join_names(map(repr, arrays))}] are in no known layout of "
            f"{type(model_or_layer).__name__} "
            f"({', '.join(dict.fromkeys(layout.name for layout in candidates))})."
        )
    chosen = candidates[counts.index(max(counts))]
    _check_attributes(model_or_layer, chosen)
    return chosen


def to_torch_state_dict(
    model_or_layer: AnyModel, layout: str = "official"
) -> dict[str, np.ndarray]:
    """Returns the weights with the names and shapes of a PyTorch implementation.

    Converted to tensors, they can be loaded with `load_state_dict(strict=True)`: those of a
    backbone into the model without a classifier, those of a task into the model with one.

    Args:
        model_or_layer: a built backbone, a task, or a layer with layouts.
        layout: one of `list_layouts(model_or_layer)`.

    Returns:
        {name: array}, float32 except for integer buffers.

    Raises:
        keras_spm.weights.MismatchError: if the layout lacks a part of the model, or epsilons
            differ.
        TypeError: for a model without layouts.
        ValueError: for an unknown layout, and for a model that is not built.

    Example:
    >>> state = keras_spm.to_torch_state_dict(backbone, "timm")  # doctest: +SKIP
    >>> pvt_v2.load_state_dict({k: torch.tensor(v) for k, v in state.items()})  # doctest: +SKIP
    """
    candidates = _candidates(model_or_layer, layout)
    if layout == "auto":
        raise ValueError("`layout` cannot be 'auto' for exporting.")
    has_head = hasattr(model_or_layer, "backbone")
    matching = (candidate for candidate in candidates if candidate.headless != has_head)
    chosen = next(matching, candidates[0])
    _check_attributes(model_or_layer, chosen)
    buffers = chosen.buffers(_backbone(model_or_layer))
    return state_dict.export(values_of(model_or_layer), chosen) | buffers


def list_layouts(model_or_layer: AnyModel) -> list[str]:
    """Returns the names of the layouts in which a model's weights can be loaded and exported.

    `"official"` is the papers' own code, the others are those libraries; `"mmdet"` of a backbone
    is its code in mmdetection and mmsegmentation.
    `"transformers_5"` is a Swin model in the memory of transformers 5, whose files keep the
    older names.

    Raises:
        TypeError: for a model without layouts.
    """
    return list(dict.fromkeys(layout.name for layout in _torch_layouts(model_or_layer)))


def variables_of(model_or_layer: AnyModel) -> dict[str, Tensor]:
    """Returns {path relative to the model or layer: variable}, without random seeds."""
    prefix = "" if hasattr(model_or_layer, "layers") else f"{model_or_layer.path}/"
    weights = model_or_layer.weights
    variables = {variable.path.removeprefix(prefix): variable for variable in weights}
    if len(variables) < len(weights):
        raise ValueError(f"{model_or_layer.name!r} has several variables with the same path.")
    return variables


def values_of(model_or_layer: AnyModel) -> dict[str, np.ndarray]:
    """Returns {path: float32 array, int8 if it is quantized} of all `variables_of`."""
    return {
        path: keras.ops.convert_to_numpy(variable).astype(
            np.int8 if variable.dtype == "int8" else np.float32
        )
        for path, variable in variables_of(model_or_layer).items()
    }


def _backbone(model_or_layer):
    return getattr(model_or_layer, "backbone", model_or_layer)


def _candidates(model_or_layer, layout):
    if not model_or_layer.built:
        raise ValueError(f"{model_or_layer.name!r} is not built: call it or `build` first.")
    if getattr(_backbone(model_or_layer), "fused", False):
        raise ValueError(
            f"{model_or_layer.name!r} is fused, unlike PyTorch models. Convert the original, "
            "then call `keras_spm.fuse`."
        )
    for each in model_or_layer._flatten_layers():
        if each.quantization_mode is not None or getattr(each, "lora_enabled", False):
            raise ValueError(
                f"{model_or_layer.name!r} has quantized layers or LoRA, unlike PyTorch models: "
                f"{each.path}. Call `merge_lora`, or convert the model before `quantize`."
            )
    candidates = _torch_layouts(model_or_layer)
    if layout == "auto":
        return candidates
    chosen = [candidate for candidate in candidates if candidate.name == layout]
    if not chosen:
        raise ValueError(
            f"`layout` must be one of {list_layouts(model_or_layer)}, or 'auto' for loading. "
            f"Received: layout={layout!r}"
        )
    return chosen


def _torch_layouts(model_or_layer):
    layouts, kinds = find_layouts(model_or_layer).torch, [type(_backbone(model_or_layer)).__name__]
    if (head := _head(model_or_layer)) is not None:
        layouts = _dense_layouts(model_or_layer, head, layouts)
        kinds.append(type(head).__name__)
    elif model_or_layer is not _backbone(model_or_layer):
        layouts = [layout for layout in layouts if layout.head]
    if layouts:
        return layouts
    raise TypeError(
        f"No layouts are registered for {' with '.join(kinds)}, only for {', '.join(LAYOUTS)} "
        "and their subclasses."
    )


def _head(model_or_layer):
    """Returns the head of a dense task, else `None`."""
    name = getattr(model_or_layer, "head_argument", None)
    return None if name is None else getattr(model_or_layer, name)


def _dense_layouts(task, head, backbone_layouts):
    """Returns the layouts of files with the backbone and the head."""
    graph = {id(variable) for layer in task.layers for variable in layer.weights}
    paths = variables_of(task.backbone)
    unused = frozenset(path for path, variable in paths.items() if id(variable) not in graph)
    layouts = []
    for head_layout in find_layouts(head).torch:
        if head_layout.backbone is None:
            continue
        name, _ = head_layout.backbone
        candidates = [layout for layout in backbone_layouts if layout.name == name]
        # Without the prefix of a code base's classifier, if it has one.
        candidates.sort(key=lambda layout: not layout.headless)
        layouts += [
            layout.with_head(head_layout, task.head_argument, unused) for layout in candidates[:1]
        ]
    return layouts


def _check_attributes(model_or_layer, layout):
    """Refuses layouts whose code base computes differently from the model."""
    target = _backbone(model_or_layer)
    for name, value in layout.attributes.items():
        if getattr(target, name) != value:
            raise MismatchError(
                f"The {layout.name} code has {name}={value}, the model has "
                f"{name}={getattr(target, name)}. Build the model with {name}={value}."
            )
