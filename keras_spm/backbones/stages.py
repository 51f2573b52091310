"""Arguments with a value for each stage, and the blocks of stages."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_spm.arguments import check_each, check_integer, check_number, check_rate


def per_stage(
    depths: Sequence[int], mlp_ratios: Sequence[float] | None = None, **integers: Sequence[int]
) -> dict[str, tuple]:
    """Returns {argument: tuple} of arguments with a value for each stage.

    Raises:
        ValueError: unless integers are at least 1, `mlp_ratios` are above 0, and all are as
            many as `depths`.
    """
    integers = {"depths": depths, **integers}
    values = {name: check_each(name, each, check_integer) for name, each in integers.items()}
    if mlp_ratios is not None:
        values["mlp_ratios"] = check_each(
            "mlp_ratios", mlp_ratios, check_number, allow_minimum=False
        )
    for name, each in values.items():
        if len(each) != len(values["depths"]):
            raise ValueError(
                f"`depths` and `{name}` must have one value per stage. "
                f"Received: depths={values['depths']}, {name}={each}"
            )
    return values


def make_blocks(
    depths: Sequence[int],
    drop_path_rate: float,
    make_block: Callable[[int, int, float, str], keras.layers.Layer],
) -> list[list[keras.layers.Layer]]:
    """Returns a list of `depths[stage]` blocks for each stage.

    Args:
        depths: ints.
        drop_path_rate: float, of the last block; the rates rise linearly from 0.
        make_block: function (stage, block, rate, name) → layer; stage and block count from 0.
    """
    check_rate("drop_path_rate", drop_path_rate)
    rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
    return [
        [make_block(stage, block, next(rates), f"block{block + 1}") for block in range(depth)]
        for stage, depth in enumerate(depths)
    ]
