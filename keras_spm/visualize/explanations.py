"""Maps that explain a prediction: Grad-CAM, and the attention of Stepwise Patch Merging."""

import keras
import numpy as np
from keras import ops

from keras_spm.arguments import check_integer
from keras_spm.backend import gradient, resize_on_host
from keras_spm.data.batching import ImageGeometry
from keras_spm.data.images import ImageLike
from keras_spm.files import atomic_write
from keras_spm.layers.guided_local_enhancement import GuidedLocalEnhancement
from keras_spm.registry import lookup
from keras_spm.types import PathLike, Tensor
from keras_spm.visualize.plots import new_figure, save_figure, to_picture

_STEM_STRIDE = 4
_OPACITY = 0.5  # Of a heat map over its image.
_TOKENS = ("guide", "top left", "top right", "bottom left", "bottom right")


def grad_cam(
    model: keras.Model,
    image: ImageLike,
    class_name: str | None = None,
    layer: str | None = None,
    path: PathLike | None = None,
) -> np.ndarray:
    """Computes which parts of an image speak for a class: Grad-CAM.

    The channels of a feature map are weighted with the mean gradient of the class's logit, and
    added up; negative sums are set to 0. For a segmenter the logits of all pixels are summed.

    Args:
        model: `ImageClassifier` or `SemanticSegmenter`.
        image: path of an image file, `PIL.Image.Image`, or array (height, width, 3) with pixels
            in [0, 255].
        class_name: one of the model's classes; its index as a string if they have no names. By
            default the class with the largest logit.
        layer: name of the layer whose output is the feature map, such as `"stage3"`. By default
            the last stage, but the last but one of a PVT with class token, whose last map does
            not affect the logits.
        path: optional, of a PNG file for the heat map over the image.

    Returns:
        (height, width) float32, of the image's size, from 0 to 1. It is 0 where the
        preprocessing crops the image, and everywhere if nothing speaks for the class.

    Raises:
        ValueError: for another task, or an unknown class or layer.

    Example:

    >>> backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
    >>> model = keras_spm.ImageClassifier(backbone, 2, class_names=["heron", "stork"])
    >>> keras_spm.visualize.grad_cam(model, np.zeros((64, 80, 3), "uint8"), "heron").shape
    (64, 80)

    Reference:
        Selvaraju et al., Grad-CAM, arXiv 1610.02391.
    """
    _check_task(model)
    logits = model.class_logits()
    feature_map = _feature_map(model, layer)
    names = {name: index for index, name in enumerate(model.display_names)}
    label = None if class_name is None else lookup("class_name", class_name, names)
    image = model.read_image(image)
    batch, geometry = model.model_input(image)
    batch = ops.convert_to_tensor(batch)
    maps, logits_of_image = keras.Model(model.input, [feature_map, logits])(batch)
    if label is None:
        label = int(ops.argmax(_sum_of_pixels(logits_of_image, geometry)))
    # A second graph that starts at the map. Other maps, which a segmenter reads, and the size
    # of the image still come from the image.
    logits_of_map = keras.Model([model.input, feature_map], logits)

    def score(maps):
        return _sum_of_pixels(logits_of_map([batch, maps]), geometry)[label]

    gradients = ops.convert_to_numpy(ops.cast(gradient(score, maps), "float32"))[0]
    maps = ops.convert_to_numpy(ops.cast(maps, "float32"))[0]
    heat = np.maximum(maps @ gradients.mean(axis=(0, 1)), 0)
    heat = _to_image(heat, model.image_size(batch), geometry)
    heat = heat / max(heat.max(), np.finfo("float32").tiny)
    if path is not None:
        _save_overlay(image, heat, path)
    return heat


def attention_map(
    model: keras.Model, image: ImageLike, stage: int = 2, path: PathLike | None = None
) -> np.ndarray:
    """Returns how Stepwise Patch Merging weights the positions of each window.

    In Guided Local Enhancement, a guide token attends to itself and to the four positions of
    its window, which it merges. The weights are averaged over heads.

    Args:
        model: task on a backbone with Stepwise Patch Merging.
        image: as in `grad_cam`.
        stage: int from 2, the stage that begins with the merging.
        path: optional, of a PNG file for the image and the weights of each token.

    Returns:
        (rows, columns, 5) float32 for the windows of the image: the weights of the guide, and
        of the positions top left, top right, bottom left and bottom right. They sum to 1.

    Raises:
        ValueError: if the stage does not exist, or has another merging.

    Example:

    >>> backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
    >>> model = keras_spm.ImageClassifier(backbone, num_classes=2)
    >>> keras_spm.visualize.attention_map(model, np.zeros((64, 80, 3), "uint8")).shape
    (8, 10, 5)
    """
    _check_task(model)
    stages = getattr(model.backbone, "stages", [])
    stage = check_integer("stage", stage, 2, max(len(stages), 2))
    merging = stages[stage - 1].merging if stages else None
    # Of Stepwise Patch Merging, or of a merging with its second half alone.
    *before, last = getattr(merging, "steps", None) or getattr(merging, "layers", [None])
    if not isinstance(last, GuidedLocalEnhancement):
        raise ValueError(
            "`model` must have Stepwise Patch Merging, such as a PVTv2SPM has. Received: a "
            f"{type(model.backbone).__name__} whose stage {stage} does not begin with it"
        )
    image = model.read_image(image)
    batch, geometry = model.model_input(image)
    stage_input = model.get_layer(stages[stage - 1].name).input
    maps = keras.Model(model.input, stage_input)(ops.convert_to_tensor(batch))
    for layer in before:
        maps = layer(maps)
    weights = ops.convert_to_numpy(last.attention_weights(maps))[0]
    # Without windows in the padding.
    stride = _STEM_STRIDE * 2 ** (stage - 1)
    rows, columns = (-(-length // stride) for length in geometry.resized)
    weights = weights[:rows, :columns]
    if path is not None:
        _save_attention(image, weights, path)
    return weights


def _check_task(model):
    if not hasattr(model, "model_input"):
        raise ValueError(
            "`model` must be a task, such as an ImageClassifier. Received: a "
            f"{type(model).__name__}"
        )


def _feature_map(model, name):
    """Returns the symbolic output, (batch, rows, columns, channels), of a layer of the graph."""
    layers = {
        layer.name: layer.output
        for layer in model.layers
        if len(getattr(layer.output, "shape", ())) == 4 and layer.output is not model.input
    }
    if name is None:
        stages = getattr(model.backbone, "pyramid_level_inputs", {}).values()
        names = [stage for stage in stages if stage in layers]
        if not names:
            raise ValueError(
                f"The stages of a {type(model.backbone).__name__} are unknown. `layer` must be one "
                f"of {', '.join(layers)}. Received: layer=None"
            )
        name = names[-1]
    return lookup("layer", name, layers)


def _sum_of_pixels(logits: Tensor, geometry: ImageGeometry) -> Tensor:
    """Returns (num_classes,), the sum over the pixels of the image, but not of its padding."""
    logits = ops.cast(logits[0], "float32")
    if len(logits.shape) == 1:
        return logits
    rows, columns = geometry.resized
    return ops.sum(logits[:rows, :columns], axis=(0, 1))


def _to_image(heat, input_size, geometry):
    """Resizes a map of the model's input to the image, without padding, and 0 around a crop."""
    heat = resize_on_host(heat[..., None].astype("float32"), input_size)
    (top, left), (rows, columns) = geometry.corner, geometry.resized
    heat = heat[:rows, :columns]
    around = (top, rows - top - len(heat)), (left, columns - left - heat.shape[1]), (0, 0)
    return resize_on_host(np.pad(heat, around), geometry.original)[..., 0]


def _save_overlay(image, heat, path):
    from matplotlib import colormaps
    from PIL import Image

    colors = Image.fromarray((colormaps["turbo"](heat)[..., :3] * 255).astype("uint8"))
    with atomic_write(path) as temporary:
        Image.blend(Image.fromarray(to_picture(image)), colors, _OPACITY).save(temporary, "PNG")


def _save_attention(image, weights, path):
    figure, axes = new_figure(2, 3, (9, 6))
    for axis in axes.flat:
        axis.axis("off")
    first, *others = axes.flat
    first.imshow(to_picture(image))
    first.set_title("image")
    for axis, name, values in zip(others, _TOKENS, np.moveaxis(weights, -1, 0), strict=True):
        shown = axis.imshow(values, vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(f"{name}, mean {values.mean():.2f}")
    figure.colorbar(shown, ax=axes, shrink=0.6, label="attention")
    save_figure(figure, path)
