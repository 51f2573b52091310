"""What a folder's configuration may ask for: nothing but what its weights can fill."""

import math
import reprlib

from keras_spm.weights.errors import FormatError

# Of any width, depth, size or ratio.
_LARGEST = 1 << 20
# An index of all pairs of a window's positions has its fourth power of entries.
_LARGEST_WINDOW = 64
# Where the weights are not looked at: several times the largest preset.
_MOST_BLOCKS = 500
_MOST_VALUES = 500_000_000
# Tensors of a block, in the layout that has the fewest.
_TENSORS_OF_A_BLOCK = 13
# Height and width of what the stem takes for one position, at least.
_PATCH = 4

_DTYPES = (
    *("float16", "bfloat16", "float32", "float64"),
    *("mixed_float16", "mixed_bfloat16"),
)
_DATA_FORMATS = ("channels_last", "channels_first")


def _is_whole(value):
    return type(value) is int and 1 <= value <= _LARGEST


def _is_number(value):
    # NaN fails every comparison.
    return type(value) in (int, float) and abs(value) <= _LARGEST


def _is_positive(value):
    return _is_number(value) and value > 0


def _is_rate(value):
    return _is_number(value) and 0 <= value < 1


def _is_text(value):
    return isinstance(value, str)


def _one_of(*allowed):
    return lambda value: isinstance(value, str) and value in allowed


def _each(holds, *counts):
    """A predicate of lists: of one of these lengths if any is named, each value such."""

    def each_holds(values):
        if not isinstance(values, (list, tuple)) or (counts and len(values) not in counts):
            return False
        return all(map(holds, values))

    return each_holds


def _or_none(holds):
    return lambda value: value is None or holds(value)


def _is_preprocessing(value):
    return isinstance(value, dict) and all(
        key in _PREPROCESSING and _PREPROCESSING[key](each) for key, each in value.items()
    )


_PREPROCESSING = {
    "image_size": _each(_is_whole, 2),
    "crop_pct": _or_none(_is_positive),
    "interpolation": _is_text,
}
_BATCHING = {
    "min_size": _or_none(_is_whole),
    "max_size": _or_none(_is_whole),
    "size_divisor": _is_whole,
    "resize_to_divisor": lambda value: isinstance(value, bool),
}


def _is_batching(value):
    return isinstance(value, dict) and all(
        key in _BATCHING and _BATCHING[key](each) for key, each in value.items()
    )


def _is_class(value):
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**31


_FOUR_WHOLE = (_each(_is_whole, 4), "four whole numbers above 0")
_RATE = (_is_rate, "a number from 0 to below 1")
_BOOL = (lambda value: isinstance(value, bool), "true or false")
# Argument → (whether a value is sensible, what is, in words).
_BACKBONE = {
    "embed_dims": _FOUR_WHOLE,
    "embed_dim": (_is_whole, "a whole number above 0"),
    "depths": _FOUR_WHOLE,
    "num_heads": _FOUR_WHOLE,
    "mlp_ratios": (_each(_is_positive, 4), "four numbers above 0"),
    "mlp_ratio": (_is_positive, "a number above 0"),
    "sr_ratios": _FOUR_WHOLE,
    "window_size": (
        lambda value: _is_whole(value) and value <= _LARGEST_WINDOW,
        f"a whole number from 1 to {_LARGEST_WINDOW}",
    ),
    "linear_attention": _BOOL,
    "class_token": _BOOL,
    "drop_path_rate": _RATE,
    "merging": (_is_text, "text"),
    "embedding_norm_epsilon": (_is_positive, "a number above 0"),
    "pretrain_image_size": (_or_none(_each(_is_whole, 2)), "null or two whole numbers above 0"),
    "image_shape": (
        _or_none(_each(_or_none(_is_whole), 3)),
        "null or three whole numbers above 0, null for any size",
    ),
    "data_format": (_or_none(_one_of(*_DATA_FORMATS)), f"null or one of {_DATA_FORMATS}"),
    "dtype": (_or_none(_one_of(*_DTYPES)), f"null or one of {_DTYPES}"),
    "frozen_batch_normalization": _BOOL,
    "fused": _BOOL,
    "gradient_checkpointing": _BOOL,
    "frozen_stages": (
        lambda value: type(value) is int and 0 <= value <= 4,
        "a whole number from 0 to 4",
    ),
}
_CLASSIFIER = {
    "num_classes": (_is_whole, "a whole number above 0"),
    "class_names": (_or_none(_each(_is_text)), "null or a list of texts"),
    # Not what Keras could make an object of.
    "activation": (_or_none(_is_text), "null or text"),
    "multi_label": _BOOL,
    "dropout": _RATE,
    "mean": (_each(_is_number, 1, 3), "three numbers"),
    "std": (_each(_is_positive, 1, 3), "three numbers above 0"),
    "preprocessing": (_or_none(_is_preprocessing), f"null or {', '.join(_PREPROCESSING)}"),
}


_CHANNELS = (lambda value: _is_whole(value) and value <= 8192, "a whole number from 1 to 8192")
_DENSE = {
    **{name: _CLASSIFIER[name] for name in ("num_classes", "class_names")},
    **{name: _CLASSIFIER[name] for name in ("mean", "std")},
    "pyramid_channels": _CHANNELS,
    "head_channels": _CHANNELS,
    "batching": (_or_none(_is_batching), f"null or {', '.join(_BATCHING)}"),
}
_TASKS = {
    "ImageClassifier": _CLASSIFIER,
    "SemanticSegmenter": {
        **_DENSE,
        "ignore_class": (_or_none(_is_class), "null or a whole number"),
        "dropout": _RATE,
        "fused": _BOOL,
    },
    "ObjectDetector": {
        **_DENSE,
        "bounding_box_format": (_is_text, "text"),
        "num_convs": (lambda value: _is_whole(value) and value <= 64, "from 1 to 64"),
        "anchor_scale": (_is_positive, "a number above 0"),
        "box_loss": (_is_text, "text"),
        "score_threshold": _RATE,
        "iou_threshold": _RATE,
        "max_detections": (lambda value: _is_whole(value) and value <= 10**4, "from 1 to 10000"),
    },
}


def check_task(task, arguments, source):
    """Refuses arguments of a task that are not sensible.

    Args:
        task: name of its class.
        arguments: of the constructor, without the backbone.
        source: what to call the configuration in messages.

    Raises:
        FormatError: names the argument, its value and what is allowed.
    """
    if not isinstance(task, str) or task not in _TASKS:
        raise FormatError(f"{source}: no task is called {reprlib.repr(task)}.")
    if "num_classes" not in arguments:
        raise FormatError(f"{source}: the {task} has no `num_classes`.")
    if unknown := sorted(arguments.keys() - _TASKS[task].keys()):
        raise FormatError(f"{source}: {task} has no {reprlib.repr(unknown)}.")
    _check_each(arguments, _TASKS[task], source)


def check_extent(arguments, classes, arrays, source):
    """Refuses a configuration of a model that its weights cannot fill, before it is built.

    Compared are lower bounds, so that no right configuration is refused.

    Args:
        arguments: of the backbone's constructor. It refuses those unknown or missing.
        classes: int, of the classifier, or None.
        arrays: {name: numpy array}, the weights; None where they are not loaded, then a
            fixed bound counts.
        source: what to call the configuration in messages.

    Raises:
        FormatError: names the argument that is not sensible; or says how much the model
            needs, and how much there is.
    """
    _check_each(arguments, _BACKBONE, source)
    blocks, values = sum(arguments.get("depths", ())), _least_values(arguments, classes)
    most_blocks, most_values = _MOST_BLOCKS, _MOST_VALUES
    if arrays is not None:
        most_blocks = len(arrays) // _TENSORS_OF_A_BLOCK
        most_values = sum(array.size for array in arrays.values())
    if blocks > most_blocks:
        raise FormatError(
            f"{source} describes {blocks} blocks; there are weights for {most_blocks} at most."
        )
    if values > most_values:
        raise FormatError(
            f"{source} describes a model of {values} parameters or more; "
            f"there are weights for {most_values} at most."
        )


def _check_each(arguments, sensible, source):
    for name, (holds, allowed) in sensible.items():
        if name in arguments and not holds(arguments[name]):
            raise FormatError(
                f"{source}: `{name}` must be {allowed}. Received: {reprlib.repr(arguments[name])}"
            )


def _least_values(arguments, classes):
    """A lower bound of the parameters of a model with these arguments."""
    widths = _widths(arguments)
    if not widths:
        return 0
    channels = _image(arguments)[2] or 1
    return (
        channels * _PATCH**2 * widths[0]
        + _values_of_blocks(widths, arguments)
        + _values_of_positions(widths, arguments)
        + (classes or 0) * widths[-1]
    )


def _widths(arguments):
    if "embed_dim" in arguments:
        return [arguments["embed_dim"] * 2**stage for stage in range(4)]
    return arguments.get("embed_dims", ())


def _values_of_blocks(widths, arguments):
    """Of attention and MLP: the kernels, and the tables of windows."""
    heads = arguments.get("num_heads", (1,) * 4)
    mlp_ratios = arguments.get("mlp_ratios", (arguments.get("mlp_ratio", 0),) * 4)
    reductions = arguments.get("sr_ratios", (1,) * 4)
    table = (2 * arguments["window_size"] - 1) ** 2 if "window_size" in arguments else 0
    total = 0
    for width, depth, head_count, mlp_ratio, reduction in zip(
        widths, arguments.get("depths", ()), heads, mlp_ratios, reductions, strict=False
    ):
        squares = 4  # Query, key, value, projection.
        if reduction > 1 and not arguments.get("linear_attention", False):
            squares += reduction**2
        hidden = int(width * mlp_ratio)
        total += depth * (squares * width**2 + 2 * width * hidden + table * head_count)
    return total


def _values_of_positions(widths, arguments):
    """Of PVT's position embeddings: of the arguments, its alone have no `linear_attention`."""
    if "embed_dim" in arguments or "linear_attention" in arguments:
        return 0
    size = arguments.get("pretrain_image_size") or _image(arguments)[:2]
    if None in size:
        return 0
    grids = [[math.ceil(length / (_PATCH << stage)) for length in size] for stage in range(4)]
    return sum(rows * columns * width for (rows, columns), width in zip(grids, widths, strict=True))


def _image(arguments):
    """(height, width, channels) of the images, None where any is taken."""
    shape = arguments.get("image_shape") or (None,) * 3
    if arguments.get("data_format") == "channels_first":
        return *shape[1:], shape[0]
    return tuple(shape)
