"""Plots of trainings and their results, saved as PNG."""

from collections.abc import Sequence

import numpy as np

from keras_spm.data.images import ImageLike, read_image
from keras_spm.types import Example, PathLike

_MAX_ERRORS = 12  # Misclassified images beside a confusion matrix.
_COLUMNS = 4
_MAX_LEGEND = 24  # Classes in a legend.


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
    figure, (axes,) = _figure(1, 2, (9, 3.5))
    for axis, name in zip(axes, names, strict=True):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in metrics:
                axis.plot(range(1, len(metrics[key]) + 1), metrics[key], label=label)
        axis.set_xlabel("epoch")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_yscale("log")
    figure.savefig(path, dpi=120)


def plot_images(images: Sequence[ImageLike], titles: Sequence[str], path: PathLike) -> None:
    """Plots images with titles, four per row.

    Args:
        images: paths of image files, `PIL.Image.Image`s, or arrays (height, width, 3) with
            pixels in [0, 255].
        titles: one per image.
        path: of the PNG.
    """
    columns = min(len(images), _COLUMNS)
    rows = -(-len(images) // columns)
    figure, axes = _figure(rows, columns, (2.5 * columns, 2.8 * rows))
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(read_image(image), interpolation="nearest")
        axis.set_title(title, fontsize=8, wrap=True)
    figure.savefig(path, dpi=120)


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
        images: (count, height, width, 3) uint8.
        class_names: one per class.
        path: of the PNG.
    """
    classes = len(class_names)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predictions), 1)
    wrong = np.flatnonzero(labels != predictions)

    figure, ((matrix, gallery),) = _figure(1, 2, (11, 5))
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
        tile.imshow(images[index])
        tile.axis("off")
        names = class_names[labels[index]], class_names[predictions[index]]
        tile.set_title("true {}, predicted {}".format(*names), fontsize=8)
    figure.savefig(path, dpi=120)


def plot_segmentations(
    images: Sequence[ImageLike],
    segmentation_maps: Sequence[np.ndarray] | None,
    predictions: Sequence[np.ndarray] | None,
    class_names: Sequence[str],
    path: PathLike,
) -> None:
    """Plots images beside their true and predicted segmentation maps.

    Args:
        images: as `plot_images` takes them.
        segmentation_maps: (height, width) ints each, or `None` if unknown. Pixels without a
            class are white.
        predictions: likewise.
        class_names: one per class.
        path: of the PNG.
    """
    colors = class_colors(len(class_names))
    with_white = np.concatenate([colors, np.full((1, 3), 255, "uint8")])
    columns = _given(truth=segmentation_maps, prediction=predictions)
    count = 1 + len(columns)
    figure, axes = _figure(len(images), count, (2.5 * count, 2.3 * len(images)))
    for row, image, *maps in zip(axes, images, *columns.values(), strict=True):
        colored = (with_white[np.minimum(each, len(colors))] for each in maps)
        for axis, picture in zip(row, (read_image(image), *colored), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.axis("off")
    for axis, title in zip(axes[0], ("image", *columns), strict=True):
        axis.set_title(title)
    if len(class_names) <= _MAX_LEGEND:
        for color, name in zip(colors, class_names, strict=True):
            axes[0][0].plot([], [], "s", color=color / 255, label=name)
        figure.legend(loc="outside lower center", ncols=6)
    figure.savefig(path, dpi=120)


def plot_detections(
    images: Sequence[ImageLike],
    truth: Sequence[Example] | None,
    detections: Sequence[Example] | None,
    class_names: Sequence[str],
    path: PathLike,
) -> None:
    """Plots images with their true boxes beside the same images with the detected boxes.

    Args:
        images: as `plot_images` takes them.
        truth: one dict per image of `boxes` (objects, 4), left, top, right and bottom in
            pixels, and `labels` (objects,); or `None` if unknown.
        detections: likewise, with `scores`.
        class_names: one per class.
        path: of the PNG.
    """
    colors = class_colors(len(class_names) + 1)[1:] / 255
    columns = _given(truth=truth, prediction=detections)
    figure, axes = _figure(len(images), len(columns), (3.75 * len(columns), 3.5 * len(images)))
    for row, image, *objects in zip(axes, images, *columns.values(), strict=True):
        picture = read_image(image)
        for axis, each in zip(row, objects, strict=True):
            axis.imshow(picture)
            axis.axis("off")
            _draw_boxes(axis, each, class_names, colors)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title)
    figure.savefig(path, dpi=120)


def _given(**columns):
    return {title: values for title, values in columns.items() if values is not None}


def _draw_boxes(axis, objects, class_names, colors):
    from matplotlib.patches import Rectangle

    scores = objects.get("scores", [None] * len(objects["labels"]))
    for box, label, score in zip(objects["boxes"], objects["labels"], scores, strict=True):
        left, top, right, bottom = box
        color = colors[label]
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=color))
        text = class_names[label] if score is None else f"{class_names[label]} {score:.2f}"
        axis.text(left, top, text, fontsize=7, va="bottom", color="white", backgroundcolor=color)


def class_colors(count: int) -> np.ndarray:
    """Returns (count, 3) uint8, a color per class; the first is black."""
    from matplotlib import colormaps

    colors = np.zeros((count, 3))
    wheel = colormaps["hsv"](np.linspace(0, 1, count)[:-1])[:, :3]
    # Every other color is darker, so that neighbors on the wheel differ more.
    colors[1:] = wheel * np.where(np.arange(count - 1) % 2, 0.6, 1.0)[:, None]
    return (colors * 255).astype("uint8")


def _figure(rows, columns, size):
    # pyplot would need a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)
