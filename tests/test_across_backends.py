"""The three backends together: each writes weights, and each reads every other's."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.only("torch")  # Once is enough: it runs all three.

BACKENDS = ("tensorflow", "jax", "torch")

FAMILIES = ("pvt_v2_spm", "swin_spm")

# Run in a process per backend, `me`, which writes files and predictions of its own, waits until
# all have, and reads the others' files: variables equal to the bit. Sizes are odd, so that masks
# and paddings take part.
PROGRAM = f"""
import sys, keras
before = set(sys.modules)
import keras_spm
new, loaded = set(sys.modules) - before, set(sys.modules)
import json, numpy as np
from tests import golden
from tests.helpers import randomize
keras.utils.set_random_seed(0)
folder, me = sys.argv[1], keras.config.backend()
open(f"{{folder}}/modules-{{me}}.json", "w").write(json.dumps([sorted(new), sorted(loaded)]))
images = np.load(f"{{folder}}/images.npy")
models = {{
    family: keras_spm.ImageClassifier(golden.two_stage_backbone(family), 7) for family in {FAMILIES}
}}
for family, model in models.items():
    path = f"{{folder}}/{{family}}-"
    initial = b"".join(keras.ops.convert_to_numpy(v).tobytes() for v in model.weights)
    open(f"{{path}}{{me}}.initial", "wb").write(initial)
    randomize(model)
    model.save(f"{{path}}{{me}}.keras")
    model.save_weights(f"{{path}}{{me}}.weights.h5")
    np.savez(f"{{path}}{{me}}.npz", *model.get_weights())
    np.save(f"{{path}}{{me}}.npy", model.predict(images, verbose=0))
detector = golden.random_detector("pvt_v2")
detector.save(f"{{folder}}/detector-{{me}}.keras")
np.savez(f"{{folder}}/detector-{{me}}.npz", *detector.get_weights())
np.savez(f"{{folder}}/detections-{{me}}.npz", **detector.predict(images, verbose=0))

print("written", flush=True)
sys.stdin.readline()

def same(model, file):
    with np.load(file) as values:
        assert len(values) == len(model.weights)
        for number, variable in enumerate(model.weights):
            assert np.array_equal(keras.ops.convert_to_numpy(variable), values[f"arr_{{number}}"])

other = dict(tensorflow="jax", jax="torch", torch="tensorflow")[me]
for family, model in models.items():
    path = f"{{folder}}/{{family}}-"
    for writer in {BACKENDS}:
        randomize(model, seed=1)
        model.load_weights(f"{{path}}{{writer}}.weights.h5")
        same(model, f"{{path}}{{writer}}.npz")
for name, own in {{**models, "detector": detector}}.items():
    model = keras.saving.load_model(f"{{folder}}/{{name}}-{{other}}.keras")
    same(model, f"{{folder}}/{{name}}-{{other}}.npz")
    assert model.get_config() == {{**own.get_config(), "name": model.name}}
"""


def _run_everywhere(folder):
    """Runs the program on the three backends at once."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder)],
            env={**os.environ, "KERAS_BACKEND": backend},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for backend in BACKENDS
    ]
    written = [process.stdout.readline() for process in processes]
    errors = [process.communicate("go on\n")[1] for process in processes]
    assert written == ["written\n"] * 3, errors
    assert [process.returncode for process in processes] == [0, 0, 0], errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the programs wrote."""
    folder = tmp_path_factory.mktemp("backends")
    images = np.random.default_rng(0).integers(0, 256, (2, 97, 50, 3), dtype="uint8")
    np.save(folder / "images.npy", images)
    _run_everywhere(folder)
    return folder


def test_importing_loads_nothing_beyond_keras(folder):
    for backend in BACKENDS:
        new, loaded = json.loads((folder / f"modules-{backend}.json").read_text())
        assert {"keras_spm.layers", "keras_spm.trainer"} <= set(new)
        # On PyTorch, Keras imports its optimizers on first use.
        late = {name for name in new if name.startswith("keras.src.backend.torch.optimizers")}
        assert {name.partition(".")[0] for name in set(new) - late} == {"keras_spm"}
        assert ("tensorflow" in loaded) == (backend == "tensorflow")


def test_weights_and_numbers_are_the_same_everywhere(folder):
    for family in FAMILIES:
        # A seed gives the same initial weights, to the last bit.
        initial = {(folder / f"{family}-{each}.initial").read_bytes() for each in BACKENDS}
        assert len(initial) == 1
        expected = np.load(folder / f"{family}-torch.npy")
        for backend in BACKENDS:
            difference = np.abs(np.load(folder / f"{family}-{backend}.npy") - expected).max()
            assert difference <= 1e-5 * max(np.abs(expected).max(), 1), backend
    _check_detections([np.load(folder / f"detections-{each}.npz") for each in BACKENDS])


def _check_detections(results):
    """The same classes in the same places, within what an image shows."""
    expected, *others = results
    assert (expected["scores"] > 0).all()
    for found in others:
        np.testing.assert_array_equal(found["labels"], expected["labels"])
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4, rtol=0)
        np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=0.05, rtol=0)
