"""The optimizer of the recipes."""

import keras

from keras_spm.layers import StepwisePatchMerging
from keras_spm.optimizers import AdamW
from tests.helpers import difference
from tests.helpers import randomize
from tests.helpers import to_numpy


def test_weight_decay_spares_norms_and_biases():
    layer = StepwisePatchMerging(8)
    layer.build((1, 4, 4, 4))
    randomize(layer)
    variables = layer.trainable_variables
    before = {variable.path: to_numpy(variable) for variable in variables}
    optimizer = AdamW(learning_rate=0.1, weight_decay=0.5)
    # What a saved model's optimizer is made from.
    optimizer = AdamW.from_config(optimizer.get_config())
    optimizer.apply([keras.ops.zeros(variable.shape) for variable in variables], variables)
    assert sum("kernel" in path for path in before) == 8
    for variable in variables:
        shrink = 1 - 0.1 * 0.5 if "kernel" in variable.path else 1
        assert difference(variable, before[variable.path] * shrink) <= 1e-7, variable.path
