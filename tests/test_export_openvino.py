"""How maps become tokens in OpenVINO's files."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, checker, helper, numpy_helper

from keras_spm.export.openvino_files import flatten_before_transposing

pytestmark = pytest.mark.only("torch")
SHAPE = (2, 5, 6, 7)


def graph(tokens):
    """A convolution whose maps become tokens in three ways: with GELU, without, and as maps."""
    kernel = np.random.default_rng(0).normal(size=(5, 1, 3, 3)).astype("float32")
    constants = {"kernel": kernel, "tokens": np.array(tokens, "int64"), "one": np.float32([1])}
    maps = dict(perm=[0, 2, 3, 1])
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["conv"], group=5, pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["conv"], ["first"], **maps),
        helper.make_node("Gelu", ["first"], ["gelu"]),
        helper.make_node("Reshape", ["gelu", "tokens"], ["with_gelu"]),
        helper.make_node("Transpose", ["conv"], ["second"], **maps),
        helper.make_node("Reshape", ["second", "tokens"], ["without"]),
        helper.make_node("Transpose", ["conv"], ["third"], **maps),
        helper.make_node("Add", ["third", "one"], ["as_maps"]),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
        for name, rank in (("with_gelu", len(tokens)), ("without", len(tokens)), ("as_maps", 4))
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, SHAPE)
    values = [numpy_helper.from_array(each, name) for name, each in constants.items()]
    made = helper.make_graph(nodes, "graph", [images], outputs, values)
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def run(model):
    checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    images = np.random.default_rng(1).normal(size=SHAPE).astype("float32")
    return session.run(None, {"images": images})


@pytest.mark.parametrize("tokens", [(-1, 5), (2, -1, 5), (0, -1, 5)])
def test_maps_are_flattened_before_they_are_transposed(tokens):
    model = graph(tokens)
    expected = run(model)
    flatten_before_transposing(model.graph)
    for values, others in zip(run(model), expected, strict=True):
        np.testing.assert_allclose(values, others, atol=1e-6)
    (gelu,) = (node for node in model.graph.node if node.op_type == "Gelu")
    assert list(gelu.input) == ["conv"]
    axes = [list(n.attribute[0].ints) for n in model.graph.node if n.op_type == "Transpose"]
    assert sorted(axes) == [[0, 2, 1], [0, 2, 1], [0, 2, 3, 1]]


def test_sizes_that_are_those_of_the_maps_are_left():
    model = graph((-1, 0, 5))  # The height.
    before = model.SerializeToString()
    flatten_before_transposing(model.graph)
    assert model.SerializeToString() == before
