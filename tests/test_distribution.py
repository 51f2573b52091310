"""Training on several devices gives the results of one device; see `tests/distributed.py`."""

import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import keras_spm
from keras_spm.backend import SafeTrainer, parts, processes, replicas
from keras_spm.cli import main
from tests.campaigns import data_parallel
from tests.campaigns.data_parallel import SHORT, SHORT_CONTROLS, differs, is_equal, run
from tests.helpers import tiny_backbone

BACKEND = keras.config.backend()
SEEDS = () if BACKEND == "jax" else ("seeds:2",)


@pytest.fixture(scope="module")
def found():
    return run((*SHORT, *SHORT_CONTROLS, *SEEDS))


@pytest.mark.parametrize("name", SHORT)
def test_three_steps_equal_those_of_one_device(found, name):
    assert is_equal(found[name])


@pytest.mark.only("torch")
@pytest.mark.parametrize("name", SHORT_CONTROLS)
def test_nothing_can_be_left_out(found, name):
    assert differs(found[name])


@pytest.mark.only("torch", "tensorflow")
def test_each_replica_draws_its_own_random_numbers(found):
    seeds = found["seeds:2"]
    assert seeds["generators"] > 0 and seeds["states"] == 2 * seeds["generators"]


@pytest.mark.release
@pytest.mark.parametrize("case", data_parallel.CASES, ids=str)
def test_three_steps_in_a_release(case):
    row = data_parallel.row(case)
    assert row["verdict"] == "right", row


@pytest.fixture(scope="module")
def steps():
    return run([f"{task}:lower" for task in ("classifier", "detector")])


def check_step(step):
    assert (step["platforms"], step["devices"]) == (["tpu"], 4)
    others = [step[name] for name in ("all-gather", "all-to-all", "collective-permute")]
    assert others == [0, 0, 0]
    # Of gradients, of counts and metrics, and of the statistics and their gradients.
    assert step["all-reduce"] <= 3 + 3 * step["norms"] < step["variables"]


@pytest.mark.only("jax")
def test_a_step_sends_gradients_once_and_nothing_but_sums(steps):
    check_step(steps["classifier:lower"])
    check_step(steps["detector:lower"])
    assert steps["detector:lower"]["all-reduce"] == 2


@pytest.mark.release
@pytest.mark.only("jax")
def test_a_step_of_other_tasks():
    found = run(["segmenter:lower", "instances:lower"])
    check_step(found["segmenter:lower"])
    # In Mask R-CNN, RoIAlign gathers the maps of all images.
    step = found["instances:lower"]
    assert (step["platforms"], step["devices"]) == (["tpu"], 4)
    assert (step["all-to-all"], step["collective-permute"]) == (0, 0)


_RECIPE = (
    *("classification_digits", "--set", "preset=pvt_v2_mini", "--set", "epochs=3"),
    *("--set", "warmup_epochs=0", "--set", "drop_path_rate=0.0"),
)


def _train(output, devices=None, until=None):
    """Trains by the command, until a checkpoint is there, or to the end."""
    command = ["keras_spm", "train", *_RECIPE, "--output", str(output)]
    if BACKEND == "torch" and devices == 4:  # More than this machine may have.
        launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "4")
        command = [*launcher, "-m", *command]
    elif devices is not None:
        command += ["--devices", str(devices)]
    command = [sys.executable, "-m", *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if BACKEND == "jax":
        count = f" --xla_force_host_platform_device_count={devices or 1}"
        environment["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + count
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
    )
    while until is not None and not (output.parent / f"{output.name}-UNFINISHED" / until).exists():
        assert process.poll() is None
        time.sleep(0.02)
    if until is not None:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == (0 if until is None else -signal.SIGKILL)


@pytest.mark.release
@pytest.mark.only("torch", "jax")
def test_a_killed_training_resumes_on_another_number_of_devices(tmp_path):
    _train(tmp_path / "whole")
    _train(tmp_path / "run", None, "checkpoints/step-000000019")
    _train(tmp_path / "run", 2, "checkpoints/step-000000038")
    _train(tmp_path / "run", 4)
    tables = [
        np.genfromtxt(tmp_path / name / "metrics.csv", delimiter=",", names=True)
        for name in ("whole", "run")
    ]
    assert tables[0].dtype == tables[1].dtype and len(tables[0]) == len(tables[1]) == 3
    for name in tables[0].dtype.names:
        assert np.abs(tables[0][name] - tables[1][name]).max() <= 1e-5
    assert not list((tmp_path / "run").glob("processes"))


# === In this process ===


@pytest.fixture
def single():
    with keras_spm.data_parallel(devices=1) as active:
        yield active


@pytest.mark.only("torch")
def test_a_model_is_trained_where_it_was_made():
    images, labels = np.zeros((4, 32, 32, 3), "uint8"), np.zeros(4, int)
    before = keras_spm.ImageClassifier(tiny_backbone(), 2)
    with keras_spm.data_parallel(devices=1):
        with pytest.raises(ValueError, match="outside of this `data_parallel`"):
            before.fit(images, labels)
        model = keras_spm.ImageClassifier(tiny_backbone(), 2)
        model.fit(images, labels, verbose=0)
        before.predict(images, verbose=0)
    with pytest.raises(ValueError, match="within this `data_parallel`"):
        model.fit(images, labels)
    assert model.predict(images, verbose=0).shape == (4, 2)


@pytest.mark.parametrize("devices", [0, 1000, 1.5])
def test_a_number_of_devices_that_is_not_there(devices):
    with pytest.raises(ValueError, match=f"`devices` must be .*devices={devices}"):
        keras_spm.data_parallel(devices).__enter__()


@pytest.mark.only("torch")
def test_several_devices_need_processes_on_torch(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    with pytest.raises(ValueError, match="torchrun --nproc-per-node 2"):
        keras_spm.data_parallel(2).__enter__()


@pytest.mark.only("tensorflow")
def test_several_processes_are_refused_on_tensorflow(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"), keras_spm.data_parallel():
        pass


@pytest.mark.only("torch")
def test_contexts_are_not_nested(single):
    with pytest.raises(ValueError, match="inside of another"), keras_spm.data_parallel():
        pass


@pytest.mark.only("torch")
def test_batches_are_divided():
    active = replicas.Replicas(count=4, available=4)
    assert active.describe(256) == "4 of 4 devices, 256 images a step, 64 each"
    with pytest.raises(ValueError, match="`batch_size` must be a multiple of the 4 devices"):
        active.describe(6)
    rows = np.arange(8)
    assert [parts.part_of((rows, None), i, 4)[0].tolist() for i in range(4)] == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
    ]
    sizes = [[len(parts.part_of(np.arange(n), i, 4)) for i in range(4)] for n in (6, 3)]
    assert sizes == [[2, 1, 2, 1], [1, 1, 1, 0]]


class OneLayer(SafeTrainer, keras.Model):
    """A model of one layer."""


@pytest.mark.only("torch")
def test_batch_normalization_of_keras_is_refused():
    with replicas.activated(replicas.Replicas(2, 2, processes=2)):
        inputs = keras.Input((3,))
        model = OneLayer(inputs, keras.layers.BatchNormalization(name="norm")(inputs))
        model.compile(loss="mse")
        with pytest.raises(ValueError, match="statistics of each device alone.*layer 'norm'"):
            model.fit(np.zeros((2, 3)), np.zeros((2, 3)))


@pytest.mark.only("tensorflow")
def test_accumulation_is_refused_on_tensorflow():
    import tensorflow as tf

    with replicas.activated(replicas.Replicas(2, 2, engine=tf.distribute.get_strategy())):
        inputs = keras.Input((3,))
        model = OneLayer(inputs, keras.layers.Dense(3)(inputs))
        model.compile(keras.optimizers.SGD(gradient_accumulation_steps=2), "mse")
        with pytest.raises(ValueError, match="1 or None .*gradient_accumulation_steps=2"):
            model.fit(np.zeros((2, 3)), np.zeros((2, 3)))


@pytest.mark.only("torch")
def test_transplant_needs_one_device():
    error = pytest.raises(ValueError, match="works on one device.*Received: 2 devices")
    with replicas.activated(replicas.Replicas(2, 2, processes=2)), error:
        keras_spm.transplant(None, None)


@pytest.mark.only("torch")
@pytest.mark.parametrize("size", [1, 3, 4, 7, 9])
def test_padded_parts_together_are_the_batch(size):
    batch = np.arange(size)
    pieces = [parts.padded_part_of(batch, i, 4) for i in range(4)]
    assert {number for _, number in pieces} == {size}
    joined = np.concatenate([rows for rows, _ in pieces])
    assert parts.without_padding(joined, size, 4).tolist() == batch.tolist()
    twice = np.repeat(joined, 2)  # Two rows for each.
    assert parts.without_padding(twice, size, 4).tolist() == np.repeat(batch, 2).tolist()


@pytest.mark.only("torch")
def test_different_recipes_of_processes_are_refused(monkeypatch):
    others = [{"seed": "0"}, {"seed": "1"}]
    monkeypatch.setattr(processes, "gathered", lambda value: others)
    with pytest.raises(ValueError, match="same recipe. Received: seed='0' in process 0, seed='1'"):
        processes.check_same("recipe", {"seed": 0})


@pytest.mark.only("torch")
def test_the_plan_states_the_devices(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    arguments = ["train", "classification_digits", "--set", "preset=pvt_v2_mini", "--dry-run"]
    assert main([*arguments, "--devices", "4", "--output", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.startswith("4 of 4 devices, 64 images a step, 16 each\n")
    assert main([*arguments, "--devices", "3", "--output", str(tmp_path / "run")]) == 2
    assert "`batch_size` must be a multiple of the 3 devices" in capsys.readouterr().err


@pytest.mark.only("torch")
def test_keras_does_not_average_gradients_too():
    class Wrapping:  # As Keras's models from 3.16 on, in a process group.
        def _initialize_ddp(self):
            raise AssertionError

    class Trainer(SafeTrainer, Wrapping):
        pass

    assert Trainer.__new__(Trainer)._initialize_ddp() is None
