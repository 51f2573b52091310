"""What can go wrong with a weight file."""


class WeightsError(ValueError):
    """A weight source was refused; the model is as it was."""


class FormatError(WeightsError):
    """The source cannot be read as named float arrays."""


class MismatchError(WeightsError):
    """The source's names, shapes or values do not fit the model."""


class DownloadError(WeightsError):
    """A file of the hub could not be had whole; none is left behind."""
