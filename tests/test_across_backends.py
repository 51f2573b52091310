"""The three backends together: each writes weights, and each reads every other's."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.only("torch")  # Once is enough: it runs all three.

BACKENDS = ("tensorflow", "jax", "torch")

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
from tests.helpers import randomize, tiny_backbone
keras.utils.set_random_seed(0)
folder, me = sys.argv[1], keras.config.backend()
open(f"{{folder}}/modules-{{me}}.json", "w").write(json.dumps([sorted(new), sorted(loaded)]))
images = np.load(f"{{folder}}/images.npy")
def write_initial(name, variables):
    values = b"".join(keras.ops.convert_to_numpy(v).tobytes() for v in variables)
    open(f"{{folder}}/{{name}}-{{me}}.initial", "wb").write(values)

lora = keras_spm.layers.Dense(16)
lora.build((None, 8))
lora.enable_lora(4)
write_initial("lora", [lora.lora_kernel_a, lora.lora_kernel_b])
models = {{
    "classifier": keras_spm.ImageClassifier(golden.two_stage_backbone("swin_spm"), 7),
    "detector": keras_spm.ObjectDetector(tiny_backbone(), 3, keras_spm.heads.RetinaNet(
        pyramid_channels=8, channels=8, num_convs=1, max_detections=5, score_threshold=0.3
    )),
}}
for name, model in models.items():
    path = f"{{folder}}/{{name}}-{{me}}"
    write_initial(name, model.weights)
    golden.randomize_task(model)
    model.save(f"{{path}}.keras")
    model.save_weights(f"{{path}}.weights.h5")
    np.savez(f"{{path}}.npz", *model.get_weights())
    outputs = model.predict(images, verbose=0)
    np.savez(f"{{path}}-outputs.npz", **(outputs if name == "detector" else dict(logits=outputs)))

print("written", flush=True)
sys.stdin.readline()

def same(model, file):
    with np.load(file) as values:
        assert len(values) == len(model.weights)
        for number, variable in enumerate(model.weights):
            assert np.array_equal(keras.ops.convert_to_numpy(variable), values[f"arr_{{number}}"])

other = dict(tensorflow="jax", jax="torch", torch="tensorflow")[me]
for name, own in models.items():
    path = f"{{folder}}/{{name}}-"
    for writer in {BACKENDS}:
        randomize(own, seed=1)
        own.load_weights(f"{{path}}{{writer}}.weights.h5")
        same(own, f"{{path}}{{writer}}.npz")
    model = keras.saving.load_model(f"{{path}}{{other}}.keras")
    same(model, f"{{path}}{{other}}.npz")
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
    for name in ("classifier", "detector", "lora"):
        # A seed gives the same initial weights, to the last bit.
        assert len({(folder / f"{name}-{each}.initial").read_bytes() for each in BACKENDS}) == 1
    expected, *others = (np.load(folder / f"classifier-{each}-outputs.npz") for each in BACKENDS)
    for found in others:
        difference = np.abs(found["logits"] - expected["logits"]).max()
        assert difference <= 1e-5 * max(np.abs(expected["logits"]).max(), 1)
    # The same classes in the same places, within what an image shows.
    expected, *others = (np.load(folder / f"detector-{each}-outputs.npz") for each in BACKENDS)
    assert (expected["scores"] > 0).all()
    for found in others:
        np.testing.assert_array_equal(found["labels"], expected["labels"])
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4, rtol=0)
        np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=0.05, rtol=0)
