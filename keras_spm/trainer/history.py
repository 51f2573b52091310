"""What a run notes down after each epoch: its metrics, and the best model so far."""

import csv

from keras_spm.trainer.files import written_beside


class Record:
    """The metrics of all epochs, also in `metrics.csv`, and the best one's model.

    Args:
        folder: path of the run's working folder.
        monitor: (metric, `"min"` or `"max"`) by which the best epoch is known.

    Attributes:
        history: {metric: list of a float for each epoch}.
        best_model: path of the model as it was after the best epoch.
    """

    def __init__(self, folder, monitor):
        self.history = {}
        self.best_model = folder / "best.keras"
        self._table = folder / "metrics.csv"
        self._metric, self._mode = monitor

    @property
    def epochs(self):
        """How many there are."""
        return len(next(iter(self.history.values()), ()))

    @property
    def best_epoch(self):
        """Number of the best, from 1 on; of several equal ones the first."""
        sign = 1 if self._mode == "min" else -1
        values = [sign * value for value in self.history[self._metric]]
        ranks = [value if value == value else float("inf") for value in values]  # Not NaN.
        return ranks.index(min(ranks)) + 1

    def put_back(self, history):
        """Takes up the record of a checkpoint."""
        self.history = {name: list(values) for name, values in history.items()}
        self._write_table()

    def add(self, model, logs):
        """Notes an epoch down.

        Args:
            model: as it is after the epoch.
            logs: {metric: float}.
        """
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        self._write_table()
        if self.best_epoch == self.epochs:
            with written_beside(self.best_model) as path:
                model.save(path)

    def _write_table(self):
        # As `keras.callbacks.CSVLogger` writes it.
        names = sorted(self.history)
        with written_beside(self._table) as path, path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["epoch", *names])
            columns = zip(*(self.history[name] for name in names), strict=True)
            table.writerows([epoch, *values] for epoch, values in enumerate(columns))
