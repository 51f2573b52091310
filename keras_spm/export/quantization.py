"""Static int8 of exported files, calibrated with images."""

import pathlib
from collections.abc import Sequence

import numpy as np

# Products with a weight. All between them is computed in float32: normalizations and softmax
# need it, and attention, whose products have no weights, is fast enough.
_PRODUCTS = ("Conv", "Gemm", "MatMul")
# Otherwise ONNX Runtime logs advice that does not concern exported graphs.
_IS_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")


def quantize_onnx(path: pathlib.Path, batches: Sequence[np.ndarray]) -> None:
    """Quantizes dense layers and convolutions of an ONNX file, in ONNX's own operators.

    Weights are int8, with a scale per channel. Inputs are uint8, in the ranges that they have in
    the batches; outputs of dense layers are float32.

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
            return None if batch is None else {model.graph.input[0].name: batch}

    model = onnx.load(path)
    weights = {each.name for each in model.graph.initializer}
    without_weights = [node.name for node in model.graph.node if weights.isdisjoint(node.input)]
    properties = {each.key: each.value for each in model.metadata_props}
    onnx.helper.set_model_props(model, {**properties, _IS_PREPARED[0]: _IS_PREPARED[1]})
    quantization.quantize_static(
        model,
        path,
        Batches(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=_PRODUCTS,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=without_weights,
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
    )
    quantized = onnx.load(path)
    onnx.helper.set_model_props(quantized, properties)
    onnx.save(quantized, path)
