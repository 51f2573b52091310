"""Arguments that have one value for each of the four stages."""

import numpy as np


def four_each(**values):
    """Returns {name: tuple of four values}.

    Raises:
        ValueError: names the argument that has not four.
    """
    values = {name: tuple(each) for name, each in values.items()}
    for name, each in values.items():
        if len(each) != 4:
            raise ValueError(f"`{name}` must have four values. Received: {name}={each}")
    return values


def drop_path_rates(last, depths):
    """Returns a list of rates for each stage's blocks, rising from 0 to `last`."""
    rising = np.linspace(0, last, sum(depths))
    return [part.tolist() for part in np.split(rising, np.cumsum(depths)[:-1])]
