"""Plots, checked through matplotlib's objects."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from keras_spm.visualize import (
    class_colors,
    plot_confusion_matrix,
    plot_detections,
    plot_images,
    plot_segmentations,
)

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype="uint8")


@pytest.fixture
def drawn(monkeypatch):
    """The saved figures, each as rows of axes; saving still happens."""
    figures, save = [], Figure.savefig

    def savefig(figure, *arguments, **keywords):
        columns = figure.axes[0].get_gridspec().ncols
        figures.append(np.reshape(figure.axes, (-1, columns)))
        save(figure, *arguments, **keywords)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def _shown(axis):
    (picture,) = axis.get_images()
    return np.asarray(picture.get_array())


def _boxes(axis):
    """Returns [(left, top, width, height, color)] of the rectangles."""
    return [
        (*each.get_xy(), each.get_width(), each.get_height(), to_rgb(each.get_edgecolor()))
        for each in axis.patches
    ]


def _objects(boxes, labels, **more):
    return {"boxes": np.array(boxes), "labels": np.array(labels), **more}


def test_detections_are_drawn_beside_the_truth(drawn, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    images = [tmp_path / "image.png", Image.fromarray(PIXELS[:10])]
    truth = [_objects([[1, 2, 11, 8]], [1]), _objects(np.zeros((0, 4)), np.zeros(0, int))]
    found = [
        _objects([[2, 2, 12, 9], [0, 0, 5, 5]], [1, 0], scores=np.array([0.876, 0.25])),
        _objects([[3, 4, 5, 6]], [0], scores=np.array([1.0])),
    ]
    plot_detections(images, truth, found, ["cat", "dog"], tmp_path / "boxes.png")
    (axes,) = drawn
    assert axes.shape == (2, 2)
    assert [axis.get_title() for axis in axes[0]] == ["truth", "prediction"]
    for row, pixels in zip(axes, (PIXELS, PIXELS[:10]), strict=True):
        assert all((_shown(axis) == pixels).all() for axis in row)
    cat, dog = (tuple(color / 255) for color in class_colors(3)[1:])
    assert _boxes(axes[0, 0]) == [(1, 2, 10, 6, dog)]
    assert _boxes(axes[0, 1]) == [(2, 2, 10, 7, dog), (0, 0, 5, 5, cat)]
    assert _boxes(axes[1, 0]) == [] and _boxes(axes[1, 1]) == [(3, 4, 2, 2, cat)]
    texts = [[text.get_text() for text in axis.texts] for axis in axes.flat]
    assert texts == [["dog"], ["dog 0.88", "cat 0.25"], [], ["cat 1.00"]]
    with Image.open(tmp_path / "boxes.png") as picture:
        assert picture.format == "PNG"


def test_segmentation_maps_are_drawn_in_class_colors(drawn, tmp_path):
    truth = np.zeros((20, 30), "uint8")
    truth[:, 10:], truth[:, 20:] = 2, 255
    prediction = np.full((20, 30), 1, "int64")
    names = ["ground", "cat", "dog"]
    plot_segmentations([PIXELS], [truth], [prediction], names, tmp_path / "maps.png")
    (axes,) = drawn
    assert [axis.get_title() for axis in axes[0]] == ["image", "truth", "prediction"]
    image, true, predicted = map(_shown, axes[0])
    assert (image == PIXELS).all()
    ground, cat, dog = class_colors(3)
    assert (true[:, :10] == ground).all() and (true[:, 10:20] == dog).all()
    assert (predicted == cat).all()
    own = [(9, 9, 9), (1, 2, 3), (4, 5, 6)]
    plot_segmentations([PIXELS], [truth], None, names, tmp_path / "own.png", own)
    assert (_shown(drawn.pop()[0, 1])[0, [0, 10]] == [own[0], own[2]]).all()
    # Ignored pixels have stripes in two grays, which no class has.
    grays = np.unique(true[:, 20:].reshape(-1, 3), axis=0)
    assert len(grays) == 2 and (grays == grays[:, :1]).all() and grays.min() > 0
    assert len(np.unique(true[0, 20:], axis=0)) == len(np.unique(true[:, 25], axis=0)) == 2
    (legend,) = axes[0, 0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*names, "ignored (striped)"]


@pytest.mark.parametrize("maps", [1, 2])
def test_the_legend_is_not_cut_off(drawn, tmp_path, maps):
    names = [f"{'long ' * (number % 3)}name {number}" for number in range(20)]
    columns = ([np.zeros((20, 30), int)], [np.zeros((20, 30), int)] if maps == 2 else None)
    plot_segmentations([PIXELS], *columns, names, tmp_path / "maps.png")
    figure = drawn[0][0, 0].figure
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    assert 0 <= box.y0 < box.y1 <= figure.bbox.height


def test_names_are_drawn_as_they_are(drawn, tmp_path):
    """Matplotlib would read $ as mathematics, and leave _ out of the legend."""
    names = ["_background_", "US$ or C$^"]
    maps = [np.zeros((20, 30, 1), int)]
    plot_segmentations([PIXELS], maps, None, names, tmp_path / "maps.png")
    (axes,) = drawn
    (legend,) = axes[0, 0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*(" _background_", r"US\$ or C\$^")]
    assert (_shown(axes[0, 1]) == 0).all()


def test_images_of_other_channels(drawn, tmp_path):
    """One channel is gray, alpha is not drawn, and of more than four three are, each scaled."""
    bands = np.random.default_rng(1).integers(30, 51, (20, 30, 8), dtype="uint8")
    bands[0, :2, :3] = [[30] * 3, [50] * 3]
    bands[..., 1] += 100
    np.save(tmp_path / "bands.npy", bands)
    alpha = np.concatenate([PIXELS, bands[..., :1]], axis=-1)
    gray = np.repeat(PIXELS[..., :1], 3, axis=-1)
    images = [PIXELS[..., :1], PIXELS[..., 0], alpha, bands, tmp_path / "bands.npy"]
    scaled = (bands[..., :3] - np.array([30, 130, 30])) / 20 * 255
    plot_images(images, [""] * 5, tmp_path / "images.png")
    plot_segmentations(images, [np.zeros((20, 30), int)] * 5, None, ["a"], tmp_path / "maps.png")
    plot_detections(images, [_objects([[1, 1, 9, 9]], [0])] * 5, None, ["a"], tmp_path / "b.png")
    plot_confusion_matrix([0, 0], [1, 1], [PIXELS[..., :1]] * 2, ["a", "b"], tmp_path / "c.png")
    for axes in drawn[:3]:
        shown = [_shown(axis) for axis in axes.flat if axis.get_images()]
        shown = shown[::2] if len(shown) == 10 else shown  # Without the maps.
        for found, expected in zip(shown, [gray, gray, PIXELS, scaled, scaled], strict=True):
            assert found.shape == (20, 30, 3) and np.abs(found - expected).max() <= 0.5


def test_invalid_arguments_are_errors(tmp_path):
    path = tmp_path / "plot.png"
    for labels in ([0, -1], [0, 2]):
        with pytest.raises(ValueError, match="Labels must be from 0 to 1"):
            plot_confusion_matrix([0, 1], labels, [PIXELS] * 2, ["cat", "dog"], path)
        boxes = _objects([[2, 2, 12, 9]] * 2, labels)
        with pytest.raises(ValueError, match="Labels must be from 0 to 1"):
            plot_detections([PIXELS], [boxes], None, ["cat", "dog"], path)
    for images, titles in (([], []), ([PIXELS], ["a", "b"])):
        with pytest.raises(ValueError, match=f"Received: {len(images)} images, {len(titles)} for"):
            plot_images(images, titles, path)
    assert not path.exists()


def test_plots_without_truth(drawn, tmp_path):
    found = [_objects([[2, 2, 12, 9]], [0], scores=np.array([0.5]))]
    plot_detections([PIXELS], None, found, ["cat"], tmp_path / "boxes.png")
    maps = [np.zeros((20, 30), int)]
    many = [f"class {number}" for number in range(150)]
    plot_segmentations([PIXELS], None, maps, many, tmp_path / "maps.png")
    boxes, maps = drawn
    assert [axis.get_title() for axis in boxes[0]] == ["prediction"]
    assert [axis.get_title() for axis in maps[0]] == ["image", "prediction"]
    assert not maps[0, 0].figure.legends  # Too many names for a legend.


@pytest.mark.parametrize("count", [2, 21, 150])
def test_every_class_has_its_own_color(count):
    colors = class_colors(count)
    assert colors.shape == (count, 3) and not colors[0].any()
    assert len({tuple(color) for color in colors.tolist()}) == count
