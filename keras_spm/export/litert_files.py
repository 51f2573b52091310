"""LiteRT's files."""

import pathlib
import tempfile
import warnings

from keras_spm.export.errors import ExportError
from keras_spm.export.files import append_metadata
from keras_spm.export.request import Request
from keras_spm.export.saved_models import write_saved_model
from keras_spm.export.served import INPUT

# What is computed in int8: products with a weight. LiteRT would quantize all the rest, too,
# and means and variances in 8 bits would be useless.
_FLOAT_OPERATIONS = (
    *("ABS", "ADD", "BATCH_MATMUL", "CAST", "CONCATENATION", "DEPTHWISE_CONV_2D", "DIV", "EXP"),
    *("GATHER", "GELU", "MEAN", "MUL", "PACK", "PAD", "PADV2", "RESHAPE", "RESIZE_BILINEAR"),
    *("RSQRT", "SLICE", "SOFTMAX", "SPLIT", "SPLIT_V", "SQUARED_DIFFERENCE", "STRIDED_SLICE"),
    *("SUB", "SUM", "TRANSPOSE", "UNPACK"),
)


def write_litert(request: Request, path: pathlib.Path) -> None:
    """Writes a `.tflite` file.

    Raises:
        ExportError: if images of the calibration differ in size.
    """
    import tensorflow as tf

    options = {
        # Neither TensorFlow's own operations, which need another runtime, nor variables.
        "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]},
        "experimental_enable_resource_variables": False,
        **request.options,
    }
    if request.calibration is None:
        request.write_by_keras(path, "litert", options)
    else:
        path.write_bytes(_quantized(request))
    append_metadata(path, request.metadata)


def _quantized(request):
    import tensorflow as tf

    if len({batch.shape for batch in request.calibration}) > 1:
        raise ExportError("LiteRT calibrates with images of one size: give the model preprocessing")

    def batches():
        for batch in request.calibration:
            yield {INPUT: batch.astype(request.spec.dtype)}

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own interpreter is deprecated.
        write_saved_model(request, pathlib.Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serve"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = batches
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
            tf.lite.OpsSet.TFLITE_BUILTINS,
        ]
        options = tf.lite.experimental.QuantizationDebugOptions(
            denylisted_ops=list(_FLOAT_OPERATIONS)
        )
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=batches, debug_options=options
        )
        return debugger.get_nondebug_quantized_model()
