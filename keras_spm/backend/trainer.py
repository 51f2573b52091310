"""Keras's training loops, made safe: errors keep the weights, and threads take turns."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_spm.backend.placement import placed, replicated, undistributed
from keras_spm.backend.replicated_trainer import ReplicatedTrainer

# Parts of the state of JAX's steps, by their number.
_STATE = {
    2: ("trainable_variables", "non_trainable_variables"),
    3: ("trainable_variables", "non_trainable_variables", "metrics_variables"),
    4: (
        *("trainable_variables", "non_trainable_variables"),
        *("optimizer_variables", "metrics_variables"),
    ),
}

_TRAINING_STATE = 4


def state_scope(model: keras.Model, state: tuple) -> keras.StatelessScope:
    """Returns a scope in which a model's variables have the values of the state of a JAX step."""
    values = [
        pair
        for name, part in zip(_STATE[len(state)], state, strict=True)
        for pair in zip(getattr(model, name), part, strict=True)
    ]
    return keras.StatelessScope(values)


class SafeTrainer(ReplicatedTrainer):
    """A mixin for `keras.Model` whose loops leave the model usable after any exception.

    On JAX, Keras takes the values from the variables during `fit`, `evaluate` and `predict`,
    and does not give them back after an error. Here only the training step takes them, and
    the result of the last complete step is kept, also after Ctrl-C. Calls from several threads
    run one after the other; each gets its own result.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loop_lock = threading.RLock()

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Runs one loop at a time; loops within a loop, as in callbacks, are allowed."""
        with self._loop_lock:
            if keras.config.backend() != "jax":
                yield
                return
            # A callback may come here in the middle of an epoch.
            self.jax_state_sync()
            self._jax_state = None
            try:
                with undistributed():
                    yield
            finally:
                self.jax_state_sync()
                self._jax_state = None

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        with self._exclusive():
            self._separate_values()
            return super().fit(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with self._exclusive():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        with self._exclusive():
            return super().predict(*args, **kwargs)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        with self._exclusive():
            return super().train_on_batch(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        with self._exclusive():
            return super().test_on_batch(*args, **kwargs)

    def predict_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        with self._exclusive():
            return super().predict_on_batch(*args, **kwargs)

    # === JAX ===

    def _separate_values(self):
        """Copies values of two variables, because a training step frees its input once.

        After `fit` with averages of the weights, Keras assigns them to the weights.
        """
        if keras.config.backend() != "jax" or self.optimizer is None:
            return
        known = set()
        for variable in (*self.variables, *self.optimizer.variables):
            if id(variable.value) in known:
                variable.assign(keras.ops.copy(variable.value))
            known.add(id(variable.value))

    def _purge_model_variables(self, **kwargs: bool) -> None:
        """Keeps the values. Those that a training step takes are freed by the step."""

    def _make_function(self, step_function: Callable, *args: Any, **kwargs: Any) -> Callable:
        make = super()._make_function
        if keras.config.backend() == "tensorflow":
            return _by_ranks(lambda: make(step_function, *args, **kwargs))
        if keras.config.backend() == "jax":
            step_function = self._keeping_state(step_function)
        return make(step_function, *args, **kwargs)

    def _keeping_state(self, step_function):
        def step(state, data):
            is_part = self._steps_on_parts and len(state) == _TRAINING_STATE
            state, data = placed(state, data, is_part)
            results = []
            try:
                # One call in C: a training step frees its input, so Ctrl-C must not come
                # between the step and the list that keeps its output.
                results.extend(map(step_function, (state,), (data,)))
            finally:
                for _, state in results:
                    self._jax_state = dict(zip(_STATE[len(state)], state, strict=True))
                    self._jax_state_synced = False
            return results[0]

        return step

    def make_train_function(self, force: bool = False) -> Any:
        if replicated() is None:
            return super().make_train_function(force)
        if self.train_function is None or force:
            step = self._compiled(self.train_step, donate_argnums=0)
            self.train_function = self._make_function(step)

    def make_test_function(self, force: bool = False) -> Any:
        if keras.config.backend() != "jax":
            return super().make_test_function(force)
        if self.test_function is None or force:
            self.test_function = self._make_function(self._compiled(self.test_step))

    def make_predict_function(self, force: bool = False) -> Any:
        if keras.config.backend() != "jax":
            return super().make_predict_function(force)
        if self.predict_function is None or force:
            compiled = self._compiled(self.predict_step)

            def step(state, data):
                outputs, _ = compiled(state, data)
                return outputs, state

            self.predict_function = self._make_function(step, concatenate_outputs=True)

    def _compiled(self, step, **arguments):
        """Compiles a step that does not free its input, so that an error loses nothing."""
        import jax

        if not self.jit_compile or self.run_eagerly:
            return step
        if replicated() is not None:
            arguments["out_shardings"] = replicated()
        return jax.jit(step, **arguments)


def _by_ranks(make: Callable[[], Callable]) -> Callable:
    """Returns a function like those that `make` returns, one for all ranks of a batch's tensors.

    Such a function traces one graph for weights of images and weights of pixels, in which
    their rank is unknown.
    """
    import tensorflow as tf

    functions = {}

    def rank(tensor):
        shape = getattr(tensor, "shape", None)
        return None if shape is None else tf.TensorShape(shape).rank

    def function(batches):
        if hasattr(batches, "element_spec"):
            batch = batches.element_spec
        else:  # The single batch of `train_on_batch`.
            batch = next(batches)
            batches = iter([batch])
        ranks = tuple(map(rank, tf.nest.flatten(batch, expand_composites=True)))
        if ranks not in functions:
            functions[ranks] = make()
        return functions[ranks](batches)

    return function


def scale_for_replicas(loss: Any) -> Any:
    """Divides a loss by the number of TensorFlow's replicas, whose gradients are added up.

    Keras does it for its own losses, and reports the loss of a step accordingly.
    """
    if keras.config.backend() != "tensorflow":
        return loss
    import tensorflow as tf

    return loss / tf.distribute.get_strategy().num_replicas_in_sync
