"""The method `export` of tasks and backbones."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_spm.arguments import argument_error, check_bool
from keras_spm.backend import export_mode
from keras_spm.export.errors import ExportError
from keras_spm.export.files import atomic_export
from keras_spm.export.formats import FORMATS, check_int8, find_writer
from keras_spm.export.request import Request, data_format_of
from keras_spm.export.served import INPUT, ServedModel
from keras_spm.types import PathLike, Tensor
from keras_spm.version import __version__

_MAX_CALIBRATION_IMAGES = 500


class ExportMixin:
    """A mixin for `keras.Model` whose `export` works for images of any number and size."""

    def export(
        self,
        filepath: PathLike,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Sequence[keras.InputSpec] | None = None,
        raw_outputs: bool = False,
        include_preprocessing: bool = False,
        calibration: Any = None,
        **kwargs: Any,
    ) -> None:
        """Exports the model for inference, as `keras.Model.export`.

        The file takes raw pixels in [0, 255] as the input `images`: any number of images of any
        height and width. Outputs have names: `logits` (or `probabilities`, with an activation)
        of a classifier or a segmenter; `boxes`, `scores`, `labels` and `masks` after
        non-maximum suppression, as `predict` returns them; `P2` to `P5` and `pooled_output` of
        a backbone. A model in half precision is exported in float32. Class names,
        preprocessing and names of outputs are in the file's metadata.

        Args:
            filepath: of the file; a folder with `"tf_saved_model"`. It is replaced as a whole,
                or not at all if the export fails.
            format: one of

                - `"tf_saved_model"` (TensorFlow backend);
                - `"onnx"`, a `.onnx` file, and `"openvino"`, a `.xml` and a `.bin` file
                  (TensorFlow and PyTorch);
                - `"litert"`, a `.tflite` file (TensorFlow);
                - `"torch"`, a `.pt2` file for `torch.export.load` (PyTorch);
                - `"stablehlo"`, a `.stablehlo` file for `jax.export.deserialize` (JAX).

                A saved `.keras` file can be loaded, and exported, on another backend.
            verbose: bool, whether to print the path; `True` by default.
            input_signature: optional list of one `keras.InputSpec`, with a fixed shape or
                another dtype: `[keras.InputSpec((None, None, None, 3), "uint8")]`.
            raw_outputs: bool, whether a detector exports its outputs before suppression.
            include_preprocessing: bool, whether the file also resizes and crops images, as the
                `preprocessing` of a classifier does. A SavedModel then has a second signature,
                `serve_bytes`, of the contents of JPEG and PNG files.
            calibration: images for a file that computes in int8 (`"onnx"`, `"openvino"`,
                `"litert"`): their values give the ranges of 8 bits. A folder, or what
                `predict_images` takes; arrays for a backbone. At most 500 are used. What has no
                weights stays in float32, and in LiteRT also depthwise convolutions.
            **kwargs: options of the format, as in Keras.

        Raises:
            ValueError: for an unknown format or one that the backend cannot write, a path with
                another suffix, another input signature, `include_preprocessing` of a model
                without `preprocessing`, or `calibration` for another format.
            ModuleNotFoundError: if a package of the extra `export` is not installed.
            ExportError: if the format's own library fails. Nothing is left behind.

        Example:

        >>> model.export("birds.onnx", format="onnx")  # doctest: +SKIP
        """
        write = find_writer(format, filepath)
        served = ServedModel(
            self,
            check_bool("raw_outputs", raw_outputs),
            check_bool("include_preprocessing", include_preprocessing),
        )
        spec = input_spec(self, input_signature)
        metadata = {**served.model.export_metadata(), "input": _describe_input(self, spec)}
        if include_preprocessing:
            included = metadata["preprocessing"]
            metadata |= {"preprocessing": None, "included_preprocessing": included}
        batches = None
        if calibration is not None:
            check_int8(format)
            metadata["quantization"] = "int8"
            batches = self.calibration_batches(calibration, include_preprocessing)
        request = Request(served, spec, metadata, kwargs, batches)
        with atomic_export(filepath) as temporary, _errors(format), export_mode():
            write(request, temporary)
        if verbose or verbose is None:
            print(f"Saved artifact at '{filepath}'.")

    def serving_function(self, raw_outputs: bool = False) -> Callable[[Tensor], Any]:
        """Returns the function of images that `export` writes: to a tensor or nested dicts."""
        return lambda images: self(images, training=False)

    def calibration_batches(self, images: Any, raw: bool = False) -> list[np.ndarray]:
        """Returns a batch of each image, as the exported file takes it.

        Args:
            images: sequence of arrays (height, width, channels); for a task, also a folder or
                files.
            raw: bool, whether preprocessing is in the file.

        Raises:
            ValueError: if there are no images.
        """
        if not len(images):
            raise argument_error("calibration", "at least one image", images)
        step = -(-len(images) // _MAX_CALIBRATION_IMAGES)
        return [self._calibration_batch(image, raw) for image in images[::step]]

    def _calibration_batch(self, image, raw):
        return np.asarray(image)[None]

    def export_metadata(self) -> dict[str, Any]:
        """Returns what an exported file says of the model; values that JSON can hold."""
        return {"model": type(self).__name__, "library": f"keras_spm {__version__}"}


@contextlib.contextmanager
def _errors(format):
    """Converts the errors of libraries, most of which are long, and of any type."""
    try:
        yield
    except ModuleNotFoundError as error:
        error.msg = f'{error.msg}: pip install "keras-spm[export]"'
        raise
    except (ExportError, OSError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        others = [name for name in FORMATS[format].writers if name != keras.config.backend()]
        hint = f" The .keras file may export with KERAS_BACKEND={' or '.join(others)}."
        raise ExportError(
            f"The model cannot be exported to {format!r}: {lines[0]}{hint if others else ''}"
        ) from error


def input_spec(
    model: keras.Model, input_signature: Sequence[keras.InputSpec] | None
) -> keras.InputSpec:
    """Returns the shape and dtype of the images, as the model takes them by default."""
    known = tuple(model.input.shape)
    if input_signature is None:
        return keras.InputSpec(dtype="float32", shape=known, name=INPUT)
    flat = keras.tree.flatten(input_signature)
    shape = tuple(getattr(flat[0], "shape", None) or ()) if len(flat) == 1 else ()
    dtype = keras.backend.standardize_dtype(getattr(flat[0], "dtype", None)) if shape else None
    if len(shape) != len(known) or any(
        each is not None and each != size for each, size in zip(known, shape, strict=True)
    ):
        raise argument_error(
            "input_signature", f"a list of one InputSpec that fits {known}", input_signature
        )
    return keras.InputSpec(dtype=dtype, shape=shape, name=INPUT)


def _describe_input(model, spec):
    return {
        "name": INPUT,
        "shape": list(spec.shape),
        "dtype": spec.dtype,
        "pixels": "raw, from 0 to 255",
        "data_format": data_format_of(model),
    }
