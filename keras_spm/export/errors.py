"""The error of a failed export."""


class ExportError(RuntimeError):
    """A model that a format or its library cannot hold, or a file that computes other values."""
