"""Static int8 of exported files, calibrated with images."""

import pathlib
from collections.abc import Sequence

import numpy as np

# Products with a weight. Between them, all is computed in float32.
_QUANTIZED = ("Conv", "Gemm", "MatMul")


def quantize_onnx(path: pathlib.Path, batches: Sequence[np.ndarray]) -> None:
    """Quantizes dense layers and convolutions of an ONNX file, in its own operators.

    Weights are int8, with a scale per channel. The ranges of activations, uint8, are those of
    the batches. Depthwise convolutions stay in float32: they are a small part of the work and
    of the file, and sensitive.

    Args:
        path: of the file, which is replaced.
        batches: images as the model takes them.
    """
    import onnx
    from onnxruntime import quantization

    class Batches(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = iter(batches)

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {graph.input[0].name: batch}

    graph = onnx.load(path, load_external_data=False).graph
    quantization.quantize_static(
        path,
        path,
        Batches(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=_QUANTIZED,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=[node.name for node in graph.node if _is_depthwise(node)],
        extra_options={
            "MatMulConstBOnly": True,
            "OpTypesToExcludeOutputQuantization": list(_QUANTIZED),
        },
    )


def _is_depthwise(node):
    groups = [each.i for each in node.attribute if each.name == "group"]
    return node.op_type == "Conv" and bool(groups) and groups[0] > 1
