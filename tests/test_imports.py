"""Who may import whom, read from the source."""

import ast
import pathlib
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_spm"

# What each part may import at module level: other parts of the package, and libraries.
# The standard library is free to all.
ALLOWED = {
    "arguments": {"numpy"},
    "environment": set(),
    "files": set(),
    "registry": set(),
    "types": set(),
    "backend": {"keras", "numpy"},
    "layers": {"backend", "registry", "keras", "numpy"},
    "export": {"backend", "registry", "version", "keras", "numpy"},
    "backbones": {"backend", "export", "layers", "registry", "keras", "numpy"},
    "fusion": {"backbones", "keras"},
    "optimizers": {"keras"},
    "heads": {"backend", "layers", "losses", "registry", "keras", "numpy"},
    "losses": {"backend", "keras"},
    "metrics": {"keras", "numpy"},
    "callbacks": {"metrics", "keras"},
    "tasks": {
        *("backbones", "backend", "data", "export", "heads", "layers", "losses", "metrics"),
        *("callbacks", "optimizers", "registry", "visualize", "keras", "numpy"),
    },
    "weights": {"ml_dtypes", "numpy"},
    "converters": {"registry", "weights", "keras", "numpy"},
    "parity": {"keras", "numpy"},
    "transplantation": {
        *("backbones", "backend", "data", "layers", "losses", "registry", "tasks"),
        *("keras", "numpy"),
    },
    "presets": {
        *("registry", "layers", "backbones", "tasks", "converters", "weights", "cards"),
        *("transplantation", "version", "keras", "numpy"),
    },
    "cards": {"weights"},
    "version": set(),
    "terminal": set(),
    "data": {"cards", "registry", "numpy", "keras"},
    "visualize": {"backend", "data", "layers", "registry", "terminal", "keras", "numpy"},
    "prediction": {"data", "tasks", "terminal", "numpy"},
    "distribution": {"backend"},
    "launch": {"backend", "distribution"},
    "__main__": {"cli"},
    "demo": {"data", "tasks", "visualize", "numpy"},
    "export_command": {
        *("converters", "export", "fusion", "registry", "terminal", "trainer", "weights")
    },
    "cli": {
        *("backend", "data", "demo", "export", "export_command", "launch", "prediction"),
        *("registry", "terminal", "trainer", "keras"),
    },
    "trainer": {
        *("backbones", "backend", "callbacks", "data", "environment", "heads", "layers"),
        *("optimizers", "registry", "tasks", "terminal", "transplantation", "visualize", "weights"),
        *("keras", "numpy"),
    },
}

# Free to all parts.
FREE = {"arguments", "files", "types"}
# Heavy or optional: inside functions only.
LAZY = {
    *("tensorflow", "jax", "torch", "tensorflow_datasets", "grain", "huggingface_hub"),
    *("filelock", "pycocotools", "sklearn", "PIL", "matplotlib", "safetensors", "tensorboard"),
    *("yaml", "onnx", "onnxruntime", "onnxscript", "openvino", "ai_edge_litert"),
    *("fastapi", "starlette", "uvicorn"),
}
# A framework may be imported here alone (weights reads .pth files with torch's reader, data
# maps tf.data sets, export writes their formats).
FRAMEWORKS = {"tensorflow", "jax", "torch"}
MAY_USE_A_FRAMEWORK = {"backend", "data", "export", "weights"}

FILES = sorted(PACKAGE.rglob("*.py"))


def _part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path):
    """Yields (module, whether it stands at module level)."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) not in inside


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports(path):
    part = _part(path)
    for name, at_module_level in _imports(path):
        assert not name.startswith("keras.src"), name
        root, *rest = name.split(".")
        if root in FRAMEWORKS:
            assert part in MAY_USE_A_FRAMEWORK, name
        if root in LAZY:
            assert not at_module_level, name
        elif root == "keras_spm":
            assert at_module_level, f"{name}: upward imports hide in functions"
            assert part == "__init__" or rest[0] in {part, *FREE, *ALLOWED[part]}, name
        elif root not in sys.stdlib_module_names:
            assert part == "__init__" or root in ALLOWED[part], name


def test_every_part_has_its_row():
    assert {_part(path) for path in FILES} - {"__init__"} == set(ALLOWED)
