"""Runs an exported model without this package, in a process of its own.

    python run_exported.py FORMAT MODEL INPUTS OUTPUTS

INPUTS is an `.npz` file of batches of images, OUTPUTS the `.npz` file to write: an array
"NUMBER/NAME" for each batch and output.
"""

import sys
from collections.abc import Callable

import numpy as np

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def open_onnx(path: str) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


def open_openvino(path: str) -> Run:
    import openvino

    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(images):
        results = model({"images": images})
        return {output.any_name: results[output] for output in model.outputs}

    return run


def open_saved_model(path: str) -> Run:
    import tensorflow as tf

    model = tf.saved_model.load(path)
    return lambda images: {name: each.numpy() for name, each in model.serve(images).items()}


def open_litert(path: str) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(path).get_signature_runner()
    return lambda images: run(images=images)


def open_torch(path: str) -> Run:
    import torch

    model = torch.export.load(path).module()

    def run(images):
        with torch.no_grad():
            return {name: each.numpy() for name, each in model(torch.tensor(images)).items()}

    return run


def open_stablehlo(path: str) -> Run:
    import jax

    with open(path, "rb") as file:
        model = jax.export.deserialize(bytearray(file.read()))
    return lambda images: {name: np.asarray(each) for name, each in model.call(images).items()}


OPENERS = {
    "onnx": open_onnx,
    "openvino": open_openvino,
    "tf_saved_model": open_saved_model,
    "litert": open_litert,
    "torch": open_torch,
    "stablehlo": open_stablehlo,
}


def main() -> None:
    name, model, inputs, outputs = sys.argv[1:]
    run = OPENERS[name](model)
    arrays = {}
    with np.load(inputs) as batches:
        for number, images in batches.items():
            results = run(images).items()
            arrays |= {f"{number}/{output}": each for output, each in results}
    assert "keras_spm" not in sys.modules
    np.savez(outputs, **arrays)


if __name__ == "__main__":
    main()
