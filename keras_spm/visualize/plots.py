"""Plots of trainings and their results."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_spm.data.images import ImageLike
from keras_spm.data.transforms import to_pixels
from keras_spm.files import atomic_write
from keras_spm.terminal import printable
from keras_spm.types import Example, PathLike

_MAX_ERRORS = 12  # Misclassified images beside a confusion matrix.
_COLUMNS = 4
_MAX_LEGEND = 24  # Classes in a legend.
_LEGEND_COLUMNS = 6
# In inches: widths of a mark and of a letter, height of a row.
_LEGEND_MARK, _LEGEND_LETTER, _LEGEND_ROW = 0.6, 0.085, 0.22
_STRIPES = (150, 220)  # Gray levels of pixels without a class; no class is gray.
_MASK_OPACITY = 0.5
_STRIPES_ACROSS = 24  # Pairs of stripes along the longer side.
_ALONE = 2  # Scale of a figure with a single image.
_LUMINANCE = (0.299, 0.587, 0.114)  # Of red, green and blue.


def plot_training_curves(
    metrics: dict[str, Sequence[float]],
    path: PathLike,
    names: tuple[str, str] = ("loss", "accuracy"),
) -> None:
    """Plots the loss and another metric over the epochs.

    Args:
        metrics: {name: values per epoch}, with and without the prefix `val_`.
        path: of the PNG.
        names: (loss, other metric), without the prefix.
    """
    figure, (axes,) = new_figure(1, 2, (9, 3.5))
    for axis, name in zip(axes, names, strict=True):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in metrics:
                axis.plot(range(1, len(metrics[key]) + 1), metrics[key], label=label)
        axis.set_xlabel("epoch")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_yscale("log")
    save_figure(figure, path)


def plot_images(images: Sequence[ImageLike], titles: Sequence[str], path: PathLike) -> None:
    """Plots images with titles, four per row.

    Args:
        images: paths of image files, `PIL.Image.Image`s, or arrays (height, width, channels)
            with pixels in [0, 255]. Images of one or two channels are drawn in gray, of four
            without alpha. Of more, the first three are red, green and blue, each scaled from
            its lowest to its highest value.
        titles: one per image.
        path: of the PNG.

    Raises:
        ValueError: if there are no images, or another number of titles.
    """
    _check_counts(images, titles=titles)
    columns = min(len(images), _COLUMNS)
    rows = -(-len(images) // columns)
    figure, axes = new_figure(rows, columns, (2.5 * columns, 2.8 * rows))
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(to_picture(image), interpolation="nearest")
        axis.set_title(_text(title), fontsize=8, wrap=True)
    save_figure(figure, path)


def plot_confusion_matrix(
    labels: np.ndarray,
    predictions: np.ndarray,
    images: Sequence[np.ndarray],
    class_names: Sequence[str],
    path: PathLike,
) -> None:
    """Plots the confusion matrix beside misclassified images.

    Args:
        labels, predictions: (count,) ints.
        images: (count, height, width, channels) uint8.
        class_names: one per class.
        path: of the PNG.

    Raises:
        ValueError: if a label or prediction is not a class.
    """
    classes = len(class_names)
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    _check_labels(labels, classes)
    _check_labels(predictions, classes)
    class_names = [_text(name) for name in class_names]
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predictions), 1)
    wrong = np.flatnonzero(labels != predictions)

    figure, ((matrix, gallery),) = new_figure(1, 2, (11, 5))
    matrix.imshow(np.log1p(counts), cmap="Blues")
    for row, column in np.argwhere(counts):
        color = "white" if counts[row, column] > counts.max() / 4 else "black"
        matrix.text(column, row, counts[row, column], ha="center", va="center", color=color)
    matrix.set_xticks(range(classes), class_names)
    matrix.set_yticks(range(classes), class_names)
    matrix.set_xlabel("predicted")
    matrix.set_ylabel("true")
    matrix.set_title(f"{len(labels) - len(wrong)} of {len(labels)} correct")

    gallery.axis("off")
    gallery.set_title(f"misclassified: {min(len(wrong), _MAX_ERRORS)} of {len(wrong)}")
    for number, index in enumerate(wrong[:_MAX_ERRORS]):
        row, column = divmod(number, 4)
        tile = gallery.inset_axes((column / 4 + 0.02, 0.7 - row / 3, 0.21, 0.25))
        tile.imshow(to_picture(images[index]))
        tile.axis("off")
        names = class_names[labels[index]], class_names[predictions[index]]
        tile.set_title("true {}, predicted {}".format(*names), fontsize=8)
    save_figure(figure, path)


def plot_segmentations(
    images: Sequence[ImageLike],
    segmentation_maps: Sequence[np.ndarray] | None,
    predictions: Sequence[np.ndarray] | None,
    class_names: Sequence[str],
    path: PathLike,
    colors: Sequence[Sequence[int]] | None = None,
) -> None:
    """Plots images beside their true and predicted segmentation maps.

    Args:
        images: as `plot_images` takes them.
        segmentation_maps: (height, width) or (height, width, 1) ints each, or `None` if unknown.
            Pixels whose value is no class are ignored pixels, with gray stripes.
        predictions: likewise.
        class_names: one per class.
        path: of the PNG.
        colors: (classes, 3) from 0 to 255; by default those of `class_colors`.

    Raises:
        ValueError: if there are no images, or another number of maps.
    """
    colors = class_colors(len(class_names)) if colors is None else np.array(colors, "uint8")
    columns = _given(truth=segmentation_maps, prediction=predictions)
    _check_counts(images, **columns)
    columns = {title: list(map(_as_map, maps)) for title, maps in columns.items()}
    legend = {}
    if len(class_names) <= _MAX_LEGEND:
        legend = dict(zip(class_names, colors / 255, strict=True))
    if any(_is_ignored(each, len(colors)).any() for maps in columns.values() for each in maps):
        legend["ignored (striped)"] = np.full(3, np.mean(_STRIPES) / 255)
    scale = _ALONE if len(images) == 1 else 1
    width = 2.5 * scale * (1 + len(columns))
    legend_columns, legend_height = _legend_layout(legend, width)
    size = (width, 2.3 * scale * len(images) + legend_height)
    figure, axes = new_figure(len(images), 1 + len(columns), size)
    for row, image, *maps in zip(axes, images, *columns.values(), strict=True):
        colored = (_colored(each, colors) for each in maps)
        for axis, picture in zip(row, (to_picture(image), *colored), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.axis("off")
    for axis, title in zip(axes[0], ("image", *columns), strict=True):
        axis.set_title(title)
    for name, color in legend.items():
        axes[0][0].plot([], [], "s", color=color, label=_text(name))
    if legend:
        figure.legend(loc="outside lower center", ncols=legend_columns)
    save_figure(figure, path)


def _legend_layout(names, width):
    """Returns (columns, height in inches) of a legend that fits into a width in inches."""
    longest = max(map(len, names), default=0)
    columns = int(width // (_LEGEND_MARK + _LEGEND_LETTER * longest))
    columns = min(max(columns, 1), _LEGEND_COLUMNS)
    return columns, _LEGEND_ROW * -(-len(names) // columns)


def plot_detections(
    images: Sequence[ImageLike],
    truth: Sequence[Example] | None,
    detections: Sequence[Example] | None,
    class_names: Sequence[str],
    path: PathLike,
) -> None:
    """Plots images with their true objects beside the same images with the detected objects.

    Args:
        images: as `plot_images` takes them.
        truth: one dict per image of `boxes` (objects, 4), left, top, right and bottom in
            pixels, and `labels` (objects,); optionally `masks` (objects, height, width); or
            `None` if unknown.
        detections: likewise, with `scores`.
        class_names: one per class.
        path: of the PNG.

    Raises:
        ValueError: if there are no images, another number of dicts, or a label is not a class.
    """
    colors = class_colors(len(class_names) + 1)[1:] / 255
    columns = _given(truth=truth, prediction=detections)
    _check_counts(images, **columns)
    scale = _ALONE if len(images) == 1 else 1
    size = (3.75 * scale * len(columns), 3.5 * scale * len(images))
    figure, axes = new_figure(len(images), len(columns), size)
    for row, image, *objects in zip(axes, images, *columns.values(), strict=True):
        picture = to_picture(image)
        for axis, each in zip(row, objects, strict=True):
            axis.imshow(picture)
            axis.axis("off")
            _draw_masks(axis, each, colors)
            _draw_boxes(axis, each, class_names, colors)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title)
    save_figure(figure, path)


def to_picture(image: ImageLike) -> np.ndarray:
    """Returns an image as (height, width, 3) uint8."""
    pixels = to_pixels(image)
    channels = pixels.shape[-1]
    if channels < 3:
        return np.repeat(pixels[..., :1], 3, axis=-1)
    pixels = pixels[..., :3]
    if channels <= 4:
        return pixels
    lowest, highest = (function(pixels, axis=(0, 1)) for function in (np.min, np.max))
    scale = 255 / np.maximum(highest.astype("float32") - lowest, 1)
    return np.round((pixels - lowest) * scale).astype("uint8")


def _check_counts(images, **columns):
    for name, values in columns.items():
        if not len(images) or len(values) != len(images):
            raise ValueError(
                f"There must be images, and one {name} for each. Received: {len(images)} images, "
                f"{len(values)} for {name}"
            )


def _check_labels(labels, num_classes):
    """Refuses labels that NumPy would count from the end, or not find."""
    if len(labels) and not 0 <= np.min(labels) <= np.max(labels) < num_classes:
        raise ValueError(
            f"Labels must be from 0 to {num_classes - 1}. Received: {np.unique(labels)}"
        )


def _as_map(array):
    array = np.asarray(array)
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def _is_ignored(segmentation_map, num_classes):
    return (segmentation_map < 0) | (segmentation_map >= num_classes)


def _colored(segmentation_map, colors):
    """Returns (height, width, 3) uint8, with diagonal stripes on ignored pixels."""
    ignored = _is_ignored(segmentation_map, len(colors))
    picture = colors[np.where(ignored, 0, segmentation_map)]
    diagonals = np.add.outer(*map(np.arange, ignored.shape))
    width = max(1, max(ignored.shape) // (2 * _STRIPES_ACROSS))
    stripes = np.array(_STRIPES, "uint8")[diagonals // width % 2]
    picture[ignored] = stripes[ignored, None]
    return picture


def _text(text):
    """Returns text that Matplotlib draws as it is, in a legend too."""
    text = printable(text, keep="\n").replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _given(**columns):
    return {title: values for title, values in columns.items() if values is not None}


def _draw_masks(axis, objects, colors):
    masks = np.asarray(objects.get("masks", []), bool)
    if not len(masks):
        return
    overlay = np.zeros((*masks.shape[1:], 4))
    for mask, label in zip(masks, objects["labels"], strict=True):
        overlay[mask] = (*colors[label], _MASK_OPACITY)
    axis.imshow(overlay, interpolation="nearest")


def _draw_boxes(axis, objects, class_names, colors):
    from matplotlib.patches import Rectangle

    _check_labels(objects["labels"], len(class_names))
    scores = objects.get("scores", [None] * len(objects["labels"]))
    for box, label, score in zip(objects["boxes"], objects["labels"], scores, strict=True):
        left, top, right, bottom = box
        color = colors[label]
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=color))
        text = _text(class_names[label])
        text = text if score is None else f"{text} {score:.2f}"
        ink = "black" if np.dot(color, _LUMINANCE) > 0.6 else "white"
        axis.text(left, top, text, fontsize=7, va="bottom", color=ink, backgroundcolor=color)


def class_colors(count: int) -> np.ndarray:
    """Returns (count, 3) uint8, a color per class; the first is black."""
    from matplotlib import colormaps

    colors = np.zeros((count, 3))
    wheel = colormaps["hsv"](np.linspace(0, 1, count)[:-1])[:, :3]
    # Every other color is darker, so that neighbors on the wheel differ more.
    colors[1:] = wheel * np.where(np.arange(count - 1) % 2, 0.6, 1.0)[:, None]
    return (colors * 255).astype("uint8")


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, np.ndarray]:
    """Returns a figure of a (width, height) in inches, and its axes, (rows, columns)."""
    # pyplot would need a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Any, path: PathLike) -> None:
    """Saves a figure as PNG, atomically."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
