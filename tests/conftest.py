"""Shared by all tests. The backend under test is the one that KERAS_BACKEND names."""

import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# PyTorch's threads sleep while they wait for each other: they wait much, as networks are small.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Its compiler does without processes of its own, for which it was seen to wait without end.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
# Models of the same shape are compiled once a run, not once a test.
_CACHE = tempfile.TemporaryDirectory()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

if os.environ.get("KERAS_BACKEND") == "jax":
    # Most programs run once, so LLVM need not optimize them, nor XLA write the quicker of its
    # two forms of a fused loop: a fifth of the time. What XLA makes of a network stays the
    # same; tests/test_across_backends.py runs JAX as users do.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
        "--xla_cpu_use_fusion_emitters=false",
    )

import keras  # noqa: E402
import pytest  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "only(backend): belongs to one backend's formulation")


def pytest_collection_modifyitems(config, items):
    """Leaves out what another backend's run checks."""
    here = [item for item in items if _belongs(item)]
    config.hook.pytest_deselected(items=[item for item in items if not _belongs(item)])
    items[:] = here


def _belongs(item):
    marker = item.get_closest_marker("only")
    return marker is None or marker.args[0] == keras.config.backend()


def pytest_report_header(config):
    return f"backend: {keras.config.backend()}"


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)
