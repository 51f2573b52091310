"""What ends a training early."""


class TrainingError(RuntimeError):
    """A training cannot go on; the message says why, where, and what is kept."""
