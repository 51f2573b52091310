"""Shared by all tests. The backend under test is the one that KERAS_BACKEND names."""

import gc
import importlib.metadata
import os
import pathlib

# Garbage is collected less often: with so many objects it took a fifth of the time.
gc.set_threshold(100_000, 20, 20)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Idle threads of PyTorch sleep: the networks here are small, so they are idle most of the time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Without processes of its own, PyTorch's compiler was never seen to wait forever.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker is a process with a core of its own.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# Compiled programs are kept between runs, for the versions that compiled them.
_VERSIONS = "-".join(importlib.metadata.version(name) for name in ("jaxlib", "keras"))
_TESTS = pathlib.Path(__file__).parent
_CACHE = _TESTS.parent / ".cache" / f"jax-{_VERSIONS}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

if os.environ.get("KERAS_BACKEND") == "jax":
    # Most programs run once, so compiling fast matters more than running fast: a fifth of the
    # time. XLA's graph optimizations stay on; tests/test_across_backends.py runs JAX as users do.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
        "--xla_cpu_use_fusion_emitters=false",
    )

import keras  # noqa: E402
import pytest  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also the tests for a release")


def pytest_configure(config):
    config.addinivalue_line("markers", "only(*backends): runs on these backends only")
    config.addinivalue_line("markers", "release: runs with --all only")
    config.addinivalue_line("markers", "graph: TensorFlow compiles its functions, as users do")


def pytest_collection_modifyitems(config, items):
    """Selects the tests of this backend; the longest, which start processes, come first."""
    selected = [item for item in items if _is_selected(item, config)]
    config.hook.pytest_deselected(items=[item for item in items if item not in selected])
    items[:] = sorted(selected, key=lambda item: item.path.parent != _TESTS)


def _is_selected(item, config):
    only = item.get_closest_marker("only")
    for_release = item.get_closest_marker("release") is not None
    if only is not None and keras.config.backend() not in only.args:
        return False
    return config.getoption("--all") or not for_release


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """TensorFlow runs eagerly where a graph would run only a few times: tracing takes longer."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.run_functions_eagerly(item.get_closest_marker("graph") is None)


def pytest_collection_finish():
    """Leaves the objects of all imports out of every later collection."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config):
    return f"backend: {keras.config.backend()}"


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)
