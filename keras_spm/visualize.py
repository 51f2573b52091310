"""Pictures of a training and its result, as PNG."""

import numpy as np

_SHOWN_ERRORS = 12


def plot_training_curves(metrics, path):
    """Draws loss and accuracy over the epochs.

    Args:
        metrics: {name: values per epoch} with `loss`, `val_loss`, `accuracy`,
            `val_accuracy`.
        path: where the PNG goes.
    """
    figure, axes = _figure(1, 2, (9, 3.5))
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        epochs = range(1, len(metrics[name]) + 1)
        axis.plot(epochs, metrics[name], label="training")
        axis.plot(epochs, metrics[f"val_{name}"], label="validation")
        axis.set_xlabel("epoch")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_yscale("log")
    figure.savefig(path, dpi=120)


def plot_confusion_matrix(labels, predictions, images, class_names, path):
    """Draws how classes are confused, and images that were misread.

    Args:
        labels: (count,) ints, the true classes.
        predictions: (count,) ints, the predicted classes.
        images: (count, height, width, 3) uint8.
        class_names: one string per class.
        path: where the PNG goes.
    """
    classes = len(class_names)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predictions), 1)
    wrong = np.flatnonzero(labels != predictions)

    figure, (matrix, gallery) = _figure(1, 2, (11, 5))
    matrix.imshow(np.log1p(counts), cmap="Blues")
    for row, column in np.argwhere(counts):
        colour = "white" if counts[row, column] > counts.max() / 4 else "black"
        matrix.text(column, row, counts[row, column], ha="center", va="center", color=colour)
    matrix.set_xticks(range(classes), class_names)
    matrix.set_yticks(range(classes), class_names)
    matrix.set_xlabel("predicted")
    matrix.set_ylabel("true")
    matrix.set_title(f"{len(labels) - len(wrong)} of {len(labels)} right")

    gallery.axis("off")
    gallery.set_title(f"misread: {min(len(wrong), _SHOWN_ERRORS)} of {len(wrong)}")
    for place, index in enumerate(wrong[:_SHOWN_ERRORS]):
        row, column = divmod(place, 4)
        tile = gallery.inset_axes((column / 4 + 0.02, 0.7 - row / 3, 0.21, 0.25))
        tile.imshow(images[index])
        tile.axis("off")
        names = class_names[labels[index]], class_names[predictions[index]]
        tile.set_title("true {}, read {}".format(*names), fontsize=8)
    figure.savefig(path, dpi=120)


def _figure(rows, columns, size):
    # A figure of its own, without pyplot: no display and no global state is touched.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns)
