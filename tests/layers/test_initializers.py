"""Initializers have the distributions of Keras's, and a seed gives the same values anywhere."""

import keras
import numpy as np
import pytest

from keras_spm.layers.initializers import GlorotUniform, HeUniform, Normal

pytestmark = pytest.mark.only("torch")  # NumPy draws.


@pytest.mark.parametrize("shape", [(300, 200), (3, 3, 40, 200)])
@pytest.mark.parametrize(
    ("own", "reference"),
    [(GlorotUniform, keras.initializers.GlorotUniform), (HeUniform, keras.initializers.HeUniform)],
)
def test_uniform_values_are_distributed_as_those_of_keras(own, reference, shape):
    values, expected = (
        keras.ops.convert_to_numpy(initializer(seed=0)(shape)) for initializer in (own, reference)
    )
    assert np.abs(values).max() == pytest.approx(np.abs(expected).max(), rel=1e-3)
    # Four standard errors of the estimates.
    count = values.size
    assert values.std() == pytest.approx(expected.std(), rel=4 / np.sqrt(count))
    assert abs(values.mean()) <= 4 * expected.std() / np.sqrt(count)


@pytest.mark.parametrize("initializer", [GlorotUniform, HeUniform, Normal])
def test_the_seed(initializer):
    first, second = initializer(), initializer()
    assert first.seed != second.seed
    again = initializer.from_config(first.get_config())
    np.testing.assert_array_equal(again((4, 5)), first((4, 5)))
    assert not np.array_equal(first((4, 5)), second((4, 5)))
