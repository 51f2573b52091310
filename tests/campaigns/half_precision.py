"""The campaign of half precision: trainings must end like those in float32.

Run with `KERAS_BACKEND=torch python -m tests.campaigns.half_precision`. Each task is trained
for 200 steps from the same weights on the same batches in float32, `mixed_float16` and
`mixed_bfloat16`. A training is right if every loss and all weights are finite, its last epoch's
mean loss is within 2 % of that in float32, and `mixed_float16` scales its loss. The result is
written to `half_precision.md`; the exit status is 1 if a training is not right.
"""

import pathlib
import sys
import time

import keras
import numpy as np

from keras_spm.optimizers import AdamW
from tests.campaigns import report, tiny
from tests.helpers import to_numpy

RESULT = pathlib.Path(__file__).with_suffix(".md")
POLICIES = ("float32", "mixed_float16", "mixed_bfloat16")
EPOCHS, STEPS, BATCH = 4, 50, 4
LEARNING_RATE = 3e-4
TOLERANCE = 0.02  # Of the loss.
# With 2**13, no update is skipped, and the difference is -0.01 % (PyTorch).
_SKIPPED = "Keras's loss scale starts at 2**15, so that the first two updates are skipped"
# (backend, task, policy) → why it is not right.
KNOWN = {
    (backend, "classifier", "mixed_float16"): _SKIPPED for backend in ("jax", "tensorflow", "torch")
}


def train(task, policy, weights):
    """Trains a task in a dtype policy, and returns its row of the table without a verdict.

    Args:
        task: name of a task.
        policy: name of a dtype policy.
        weights: initial weights, a list of arrays.
    """
    began = time.monotonic()
    model = tiny.make(task, dtype=policy)
    model.set_weights(weights)
    model.compile(AdamW(LEARNING_RATE))
    images, targets = tiny.data(task, STEPS * BATCH)
    losses = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: losses.append(logs["loss"])
    )
    history = model.fit(
        images,
        targets,
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=False,
        callbacks=[record],
        verbose=0,
    ).history["loss"]
    finite = np.isfinite(losses).all()
    finite &= all(np.isfinite(to_numpy(variable)).all() for variable in model.weights)
    scale = getattr(model.optimizer, "dynamic_scale", None)
    return {
        "task": task,
        "policy": policy,
        "first loss": losses[0],
        "last loss": history[-1],
        "finite": bool(finite),
        "loss scale": None if scale is None else float(to_numpy(scale)),
        "seconds": time.monotonic() - began,
    }


def _verdict(row, expected):
    complaints = []
    if not row["finite"]:
        complaints.append("not finite")
    if not abs(row["last loss"] / expected - 1) <= TOLERANCE:
        complaints.append("another loss")
    if (row["policy"] == "mixed_float16") != (row["loss scale"] is not None):
        complaints.append("wrong loss scaling")
    reason = KNOWN.get((keras.config.backend(), row["task"], row["policy"]))
    if complaints and reason:
        complaints.append(f"known: {reason}")
    return "; ".join(complaints) or "right"


def _formatted(row, expected):
    return {
        "task": row["task"],
        "policy": row["policy"],
        "loss of step 1": f"{row['first loss']:.4f}",
        "loss of the last epoch": f"{row['last loss']:.4f}",
        "difference": f"{row['last loss'] / expected - 1:+.2%}",
        "loss scale": "–" if row["loss scale"] is None else f"{row['loss scale']:.0f}",
        "seconds": f"{row['seconds']:.0f}",
        "verdict": _verdict(row, expected),
    }


def main():
    """Runs all trainings of this backend, and returns the exit status."""
    rows = []
    about = (
        f"{EPOCHS} epochs of {STEPS} steps of {BATCH} images, AdamW of learning rate "
        f"{LEARNING_RATE:g}; 32×32 (classifier) or {tiny.SIDE}×{tiny.SIDE}; seed 0."
    )
    for task in sys.argv[1:] or tiny.TASKS:
        weights = tiny.make(task).get_weights()
        expected = None
        for policy in POLICIES:
            row = train(task, policy, weights)
            expected = expected or row["last loss"]
            rows.append(_formatted(row, expected))
            print(rows[-1], flush=True)
        report.write(RESULT, rows, about, keys=2)
    return int(any(row["verdict"] != "right" and "known: " not in row["verdict"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
