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


def make_blocks(depths, drop_path_rate, make_block):
    """Returns a list of blocks for each stage.

    Args:
        depths: four ints.
        drop_path_rate: float, of the last block; earlier ones rise to it from 0.
        make_block: function (stage, block, rate, name) → layer; stage and block are
            counted from 0.
    """
    rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
    return [
        [make_block(stage, block, next(rates), f"block{block + 1}") for block in range(depth)]
        for stage, depth in enumerate(depths)
    ]
