"""Models in the files of other runtimes, and the steps of such a file.

    python zoo/deployed.py '{"library": …}' FOLDER      writes the file of a case

The backend of a case is the runtime. Its file is written once, in a process of its own, so that
the process that runs it holds the runtime alone.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from case import RUNTIMES, Case, UnavailableError, cores

CALIBRATION_IMAGES = 8  # Random ones: accuracy is not measured here.
FOLDER = "BENCHMARK_FOLDER"  # Name of an environment variable.


def file_of(case: Case, folder: str | os.PathLike) -> pathlib.Path:
    """Returns the path of a case's file, which cases of all batch sizes share."""
    model = case.model.replace(":", "-")
    name = f"{case.backend}-{case.library}-{model}-{case.dtype}-{case.size}"
    return pathlib.Path(folder, f"{name}{RUNTIMES[case.backend].suffix}")


def write_all(cases: Iterable[Case], folder: str | os.PathLike) -> None:
    """Writes the files of cases; those that fail are unavailable afterwards."""
    for case in cases:
        path = file_of(case, folder) if case.backend in RUNTIMES else None
        if path is None or path.exists() or path.with_suffix(".error").exists():
            continue
        environment = {**os.environ, "KERAS_BACKEND": _writing_backend(case)}
        command = [sys.executable, __file__, json.dumps(dataclasses.asdict(case)), str(folder)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode:
            last = result.stderr.strip().splitlines()[-1:] or ["the process was ended"]
            path.with_suffix(".error").write_text(last[0])


def _writing_backend(case):
    # PyTorch cannot export KerasHub's encoder for any batch size.
    is_keras_hub = case.library == "keras_hub"
    return "tensorflow" if is_keras_hub else RUNTIMES[case.backend].written_by


def write(case: Case, folder: str | os.PathLike) -> None:
    """Writes the file of a case, and its number of operations beside it."""
    path = file_of(case, folder)
    if case.backend == "litert" or (case.backend, case.library) == ("openvino", "keras_spm"):
        _write_own(case, path)
        return
    source = dataclasses.replace(case, backend="onnxruntime", dtype="float32")
    onnx_path = file_of(source, folder)
    if not onnx_path.exists():
        _write_onnx(source, onnx_path)
    if case.dtype == "int8":
        target = dataclasses.replace(case, backend="onnxruntime")
        onnx_path = _quantized(onnx_path, file_of(target, folder), case)
    if case.backend == "openvino":
        import openvino

        openvino.save_model(openvino.convert_model(onnx_path), path, compress_to_fp16=False)
    if case != source:
        shutil.copy(file_of(source, folder).with_suffix(".macs"), path.with_suffix(".macs"))


def _build(case):
    import worker

    backend = _writing_backend(case)
    steps = worker.build(dataclasses.replace(case, backend=backend, dtype="float32", batch=1))
    # An exporter would leave out biases of zero, which no trained model has.
    generator = np.random.default_rng(0)
    if hasattr(steps, "model"):
        for variable in steps.model.weights:
            if not np.any(values := np.array(variable)):
                variable.assign(generator.normal(scale=0.02, size=values.shape))
    else:
        for parameter in steps.module.parameters():
            if not parameter.any():
                parameter.data.normal_(std=0.02)
    return steps


def _write_own(case, path):
    steps = _build(case)
    images = _images(case) if case.dtype == "int8" else None
    _export(steps, path, RUNTIMES[case.backend].format, calibration=images)
    path.with_suffix(".macs").write_text(str(steps.macs()))


def _export(steps, path, name, **options):
    steps.forward()  # Keras exports only what has been called.
    steps.model.export(path, format=name, verbose=False, **options)


def _write_onnx(case, path):
    steps = _build(case)
    if hasattr(steps, "model"):
        _export(steps, path, "onnx")
    else:
        _write_torch(steps, path)
    path.with_suffix(".macs").write_text(str(steps.macs()))


def _quantized(onnx_path, path, case):
    """Writes the int8 form of an ONNX file, and returns its path."""
    import onnx

    from keras_spm.export.quantization import quantize_onnx

    if not path.exists():
        shape = onnx.load(onnx_path).graph.input[0].type.tensor_type.shape.dim
        images = _images(case).astype("float32")
        images = images.transpose(0, 3, 1, 2) if shape[1].dim_value == 3 else images
        shutil.copy(onnx_path, path)
        quantize_onnx(path, [each[None] for each in images])
    return path


def _write_torch(steps, path):
    import torch

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = steps.module

        def forward(self, images):
            return steps.outputs_of(self.module(images))

    images = torch.zeros(2, *steps.inputs.shape[1:])
    batch = {"images": {0: torch.export.Dim("batch", min=1)}}
    model = Logits().eval()
    torch.onnx.export(model, (images,), dynamo=True, dynamic_shapes=batch).save(path)


def _images(case):
    shape = (CALIBRATION_IMAGES, case.size, case.size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, "uint8")


class RuntimeSteps:
    """Forward passes of a file.

    Args:
        case: its backend is a runtime.
        folder: where `write_all` wrote its file.

    Raises:
        UnavailableError: if there is none.
    """

    def __init__(self, case: Case, folder: str | os.PathLike) -> None:
        path = file_of(case, folder)
        error = path.with_suffix(".error")
        if error.exists():
            raise UnavailableError(error.read_text())
        self.run = _OPENERS[case.backend](str(path), case)
        self.operations = path.with_suffix(".macs")

    def forward(self) -> None:
        self.run()

    def macs(self) -> int:
        return int(self.operations.read_text())


def _inputs(case, shape):
    images = case.inputs()
    return images.transpose(0, 3, 1, 2).copy() if shape[1] == 3 else images


def _open_onnxruntime(path: str, case: Case) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    inputs = {images.name: _inputs(case, images.shape)}
    return lambda: session.run(None, inputs)


def _open_openvino(path: str, case: Case) -> Any:
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    options["INFERENCE_NUM_THREADS"] = cores()
    model = openvino.Core().compile_model(path, "CPU", options)
    shape = model.input(0).partial_shape
    inputs = [_inputs(case, [each.to_string() == "3" and 3 for each in shape])]
    request = model.create_infer_request()
    return lambda: request.infer(inputs)


def _open_litert(path: str, case: Case) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(path, num_threads=cores()).get_signature_runner()
    images = case.inputs()
    return lambda: run(images=images)


_OPENERS = {"onnxruntime": _open_onnxruntime, "openvino": _open_openvino, "litert": _open_litert}


if __name__ == "__main__":
    write(Case(**json.loads(sys.argv[1])), sys.argv[2])
