"""Says why a training ended early, and what is kept."""

import contextlib

from keras_spm.trainer.errors import TrainingError
from keras_spm.trainer.nan_debug import cause_of
from keras_spm.trainer.resume import NotFiniteError

# The batches that a backend may be about to take when it fails.
_AHEAD = 3


@contextlib.contextmanager
def explained(model, batches, checkpoints, continuation, validation=None):
    """Turns what ends a `fit` into a `TrainingError` where its cause is known.

    Args:
        model: that is trained.
        batches: sequence of all batches.
        checkpoints: the run's `Checkpoints`.
        continuation: the `Continuation` that says how far the training is.
        validation: what `fit` validates on.
    """
    try:
        yield
    except NotFiniteError as found:
        cause = _cause(model, batches, checkpoints, found.step)
        raise TrainingError(
            f"After step {found.step + 1}, {found.what}: {cause}. {checkpoints.kept()}"
        ) from found
    except TrainingError:
        raise
    except Exception:
        # Backends wrap what readers raise, each in its own way; so it is read again.
        steps = range(continuation.step, continuation.step + _AHEAD)
        for what, part, places in (
            ("The batch of step", batches, steps),
            ("The validation batch", validation, _places(validation)),
        ):
            for place in places:
                try:
                    part[place]
                except Exception as cause:
                    reason = str(cause).rstrip(".")
                    raise TrainingError(
                        f"{what} {place + 1} cannot be read: {reason}. {checkpoints.kept()}"
                    ) from cause
        raise


def _cause(model, batches, checkpoints, step):
    checkpoint = checkpoints.last()
    if checkpoint is None:
        return "so it starts"
    found = cause_of(model, batches, checkpoint, step)
    if found is None:
        return f"not so when the steps from {checkpoint.step + 1} on are repeated one by one"
    return f"at step {found[0] + 1} {found[1]}"


def _places(validation):
    """Those of a data set that is read; arrays are there."""
    return range(len(validation)) if hasattr(validation, "__getitem__") else ()
