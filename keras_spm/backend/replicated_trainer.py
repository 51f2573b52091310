"""Keras's training loops on the replicas of `data_parallel`."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras

from keras_spm.backend import parts, processes, replicas, sharded_data
from keras_spm.backend.placement import spread

_SIGNATURES = {
    name: inspect.signature(getattr(keras.Model, name))
    for name in ("fit", "evaluate", "predict", "train_on_batch")
}
_MEANS = ("sum_over_batch_size", "mean")  # Reductions of losses.


class ReplicatedTrainer:
    """A mixin for `keras.Model` whose steps compute on all replicas.

    On JAX a step gets whole batches, on the mesh of all devices. On TensorFlow Keras divides the
    batches. On PyTorch a step gets the rows of its process, and gradients and metrics are those
    of all processes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._made_within = replicas.current()
        self._steps_on_parts = False  # Whether a training step gets the rows of this process.
        self._trains_on_batches = False  # Whether `train_on_batch` was called.

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        active = replicas.current()
        self._check_replicas(active)
        if active is None:
            return super().fit(*args, **kwargs)
        arguments = self._bound("fit", args, kwargs)
        self._steps_on_parts = self._divide(active, arguments)
        try:
            with self._training_together():
                return super().fit(**arguments)
        finally:
            self._steps_on_parts = False

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        if not replicas.has_torch_processes():
            return super().evaluate(*args, **kwargs)
        within_fit = {name: kwargs.pop(name) for name in list(kwargs) if name.startswith("_")}
        arguments = self._bound("evaluate", args, kwargs)
        data = [arguments.get(name) for name in ("x", "y", "sample_weight", "batch_size")]
        part = sharded_data.evaluation_part(*data)
        if part is not None:
            arguments.update(x=part, y=None, sample_weight=None, batch_size=None)
        as_dict = arguments.pop("return_dict", False)
        with replicas.independent():
            logs = super().evaluate(**arguments, **within_fit, return_dict=True)
        if part is not None:
            if not part.counts:
                self.reset_metrics()
            # In the order of Keras.
            results = sorted(self.get_metrics_result().items())
            logs = {name: float(value) for name, value in results}
        return logs if as_dict else self._flatten_metrics_in_order(logs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        return super().predict(**self._bound("predict", args, kwargs))

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        active = replicas.current()
        self._check_replicas(active)
        arguments = self._bound("train_on_batch", args, kwargs)
        if replicas.has_torch_processes():
            for name in {"x", "y", "sample_weight"} & arguments.keys():
                arguments[name] = parts.own_part(arguments[name])
        is_first, self._trains_on_batches = not self._trains_on_batches, True
        with self._training_together(is_first):
            return super().train_on_batch(**arguments)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        with replicas.independent():
            return super().test_on_batch(*args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        active = replicas.current()
        if keras.config.backend() != "tensorflow" or active is None or active.count == 1:
            return super().predict_on_batch(x)
        if self.distribute_strategy is not active.engine:  # It was made before.
            return super().predict_on_batch(x)
        values = active.engine.experimental_distribute_values_from_function(
            lambda context: keras.tree.map_structure(
                keras.ops.convert_to_tensor,
                parts.part_of(x, context.replica_id_in_sync_group, active.count),
            )
        )
        return super().predict_on_batch(values)

    def get_metrics_result(self) -> dict[str, Any]:
        if not replicas.has_torch_processes():
            return super().get_metrics_result()
        variables = self.metrics_variables
        results: dict[str, Any] = {}
        with keras.StatelessScope(zip(variables, processes.summed(variables), strict=True)):
            for metric in self.metrics:
                result = metric.result()
                results.update(result if isinstance(result, dict) else {metric.name: result})
        return results

    # === Steps ===

    def train_step(self, *args: Any) -> Any:
        *state, data = args
        with _on_part(data):
            return super().train_step(*state, spread(data))

    def test_step(self, *args: Any) -> Any:
        *state, data = args
        with _on_part(data):
            return super().test_step(*state, spread(data))

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the model, in a step with at least one row; see `parts.filled`."""
        if not replicas.is_in_step():
            return super().__call__(inputs, *args, **kwargs)
        filled, rows = parts.filled(inputs)
        return self._without_filler(super().__call__(filled, *args, **kwargs), rows)

    def _without_filler(self, outputs, rows):
        return parts.rows_of(outputs, rows)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        # Keras returns the losses of no examples as they are.
        return keras.ops.sum(loss) if tuple(loss.shape) == (0,) else loss

    def predict_step(self, *args: Any) -> Any:
        """Computes `predict_part` on all replicas."""
        *state, data = args
        if replicas.has_torch_processes():
            active = replicas.current()
            part, size = parts.padded_part_of(data, active.process, active.processes)
            outputs = processes.joined(self.predict_part(part))
            return parts.without_padding(outputs, size, active.processes)
        if replicas.has_parts():
            filled, rows = parts.filled(data)
            with replicas.rows_of_step(rows):
                return parts.rows_of(self.predict_part(filled), rows)
        return self.predict_part(*state, spread(data))

    def predict_part(self, *args: Any) -> Any:
        """Returns the outputs of `predict` for the rows of this replica, as `predict_step`."""
        return super().predict_step(*args)

    def _initialize_ddp(self) -> None:
        """Does not wrap the model, as Keras does from 3.16 on if there is a process group.

        Gradients would be sent twice, and evaluation would wait for batches of other processes.
        """

    def _symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        # The first batch may have no rows for this process.
        within = replicas.rows_of_step(1) if replicas.has_torch_processes() else None
        with within or contextlib.nullcontext():
            super()._symbolic_build(*args, **kwargs)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds the metrics on TensorFlow; Keras adds batches up, which parts may not allow."""
        active = replicas.current()
        if active is None or self._made_within is not active:
            super()._maybe_symbolic_build(iterator, data_batch)
            return
        if iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = next(batches)
        data_batch = keras.tree.map_structure(
            lambda value: active.engine.experimental_local_results(value)[0], data_batch
        )
        with active.engine.scope():
            self._symbolic_build(data_batch=data_batch)

    # === Preparation ===

    def _bound(self, method, args, kwargs):
        """Returns the arguments of a method by name; only the first process prints."""
        arguments = _SIGNATURES[method].bind(self, *args, **kwargs).arguments
        arguments = {name: value for name, value in arguments.items() if name != "self"}
        arguments.update(arguments.pop("kwargs", {}))
        if not replicas.is_writer() and "verbose" in _SIGNATURES[method].parameters:
            arguments["verbose"] = 0
        return arguments

    def _check_replicas(self, active):
        if self._made_within is not active:
            place = "within" if active is None else "outside of"
            raise ValueError(
                f"A model that was made {place} this `data_parallel` cannot be trained here. Make "
                "or load it, compile it, and call `fit` in the same `with` block."
            )
        if active is None or active.count == 1 or keras.config.backend() == "jax":
            return
        for layer in self._flatten_layers():
            # Of which only the subclass of this package looks at other devices.
            if type(layer) is keras.layers.BatchNormalization and layer.trainable:
                raise ValueError(
                    "Batch normalization of Keras has the statistics of each device alone. Use "
                    "`keras_spm.layers.BatchNormalization`, freeze it (`trainable = False`), or "
                    f"train on JAX. Received: the layer {layer.path!r}"
                )
        for loss in keras.tree.flatten(self.loss):
            if getattr(loss, "reduction", _MEANS[0]) not in _MEANS:
                raise ValueError(
                    f"Losses must be means over the batch on several devices, reduction="
                    f"{_MEANS[0]!r}. Received: a {type(loss).__name__} with reduction="
                    f"{loss.reduction!r}"
                )
        if keras.config.backend() != "tensorflow" or self.optimizer is None:
            return
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        if optimizer._distribution_strategy is not active.engine:
            raise ValueError(
                "An optimizer that was made outside of this `data_parallel` cannot be used here. "
                "Make it in the same `with` block."
            )
        if optimizer.gradient_accumulation_steps:
            # A branch of its graph cannot wait for the other replicas.
            raise ValueError(
                "`gradient_accumulation_steps` must be 1 or None on several TensorFlow devices. "
                "Use a larger batch, JAX or PyTorch. Received: gradient_accumulation_steps="
                f"{optimizer.gradient_accumulation_steps}"
            )

    def _divide(self, active, arguments):
        """Replaces the data of `fit` by those of this process.

        Returns whether they are its rows alone, instead of whole batches.
        """
        x, y, batch_size = (arguments.get(name) for name in ("x", "y", "batch_size"))
        if sharded_data.is_arrays(x, y):
            sharded_data.split_validation(arguments)
            x = arguments["x"]
            sharded_data.check_batch_size(batch_size)
            if active.processes > 1:
                arrays = (x, arguments.pop("y", None), arguments.pop("sample_weight", None))
                shuffle = bool(arguments.get("shuffle", True))
                x = sharded_data.ArrayBatches(arrays, batch_size, shuffle)
                arguments.update(shuffle=False, batch_size=None)
        if replicas.has_torch_processes() and arguments.get("validation_data") is not None:
            validation = arguments["validation_data"]
            data = keras.utils.unpack_x_y_sample_weight(validation)
            size = arguments.pop("validation_batch_size", None) or batch_size
            part = sharded_data.evaluation_part(*data, size)
            arguments["validation_data"] = validation if part is None else part
        arguments["x"], is_part = sharded_data.training_part(x)
        return is_part

    @contextlib.contextmanager
    def _training_together(self, has_new_weights: bool = True) -> Iterator[None]:
        """Starts all replicas from the same weights, and applies the gradients of the whole batch.

        On JAX a step sees the whole batch. Gradients are combined before the optimizer clips or
        accumulates them, or looks for infinite ones.
        """
        if has_new_weights and replicas.has_torch_processes():
            processes.broadcast([*self.variables, *self.optimizer.variables])
        if has_new_weights:
            processes.separate_random_numbers(self)
        if replicas.count() == 1 or keras.config.backend() == "jax":
            yield
            return
        optimizer = self.optimizer
        scale_loss, apply = optimizer.scale_loss, optimizer.apply
        inner_optimizer = getattr(optimizer, "inner_optimizer", optimizer)

        def scale_share(loss):
            return scale_loss(replicas.weigh_by_rows(loss))

        def apply_combined(gradients, *args, **kwargs):
            return apply(processes.combine_gradients(gradients), *args, **kwargs)

        with contextlib.ExitStack() as stack:
            stack.enter_context(_replaced(optimizer, scale_loss=scale_share, apply=apply_combined))
            if keras.config.backend() == "tensorflow":
                # Keras adds the gradients of the replicas up after it has clipped them.
                stack.enter_context(_replaced(inner_optimizer, _all_reduce_sum_gradients=list))
            yield


def _on_part(data):
    """Returns a context manager of a step on the rows of this replica, if it has only a part."""
    if not replicas.has_parts():
        return contextlib.nullcontext()
    return replicas.rows_of_step(parts.num_rows(data))


@contextlib.contextmanager
def _replaced(owner, **functions):
    """Replaces methods of an object."""
    for name, function in functions.items():
        setattr(owner, name, function)
    try:
        yield
    finally:
        for name in functions:
            delattr(owner, name)
