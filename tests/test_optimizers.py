"""The optimizer of the recipes."""

import keras

from keras_spm import layers
from keras_spm.optimizers import AdamW
from tests.helpers import difference
from tests.helpers import randomize
from tests.helpers import to_numpy


def test_weight_decay_spares_norms_biases_and_class_tokens():
    layer = layers.ClassTokenStage(
        [layers.TransformerBlock(layers.WindowAttention(2, 2), layers.MLP(8))],
        layers.StepwisePatchMerging(8),
        position_embedding=layers.PositionEmbedding((2, 2), name="position_embedding"),
    )
    layer.build((1, 4, 4, 4))
    randomize(layer)
    variables = layer.trainable_variables
    before = {variable.path: to_numpy(variable) for variable in variables}
    optimizer = AdamW(learning_rate=0.1, weight_decay=0.5)
    # What a saved model's optimizer is made from.
    optimizer = AdamW.from_config(optimizer.get_config())
    optimizer.apply([keras.ops.zeros(variable.shape) for variable in variables], variables)
    decayed = ("kernel", "position_embedding/embedding", "class_position")
    assert sum(path.endswith(decayed) for path in before) == 8 + 4 + 2
    assert sum(path.endswith(("bias_table", "class_token")) for path in before) == 2
    for variable in variables:
        shrink = 1 - 0.1 * 0.5 if variable.path.endswith(decayed) else 1
        assert difference(variable, before[variable.path] * shrink) <= 1e-7, variable.path
