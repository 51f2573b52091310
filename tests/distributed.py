"""Trainings on one device and on several, in a process of their own, and their differences.

`python -m tests.distributed NAME…` runs comparisons on the simulated devices of the process, or
in all processes that `torchrun` started, and prints a JSON object {name: differences}.
"""

import json
import os
import sys

import keras
import numpy as np

import keras_spm
from keras_spm import backend
from keras_spm.backend import SafeTrainer, processes
from keras_spm.backend.placement import placed, replicated
from tests import golden
from tests.helpers import conv_backbone, to_numpy

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
BATCH, STEPS, SIDE, CLASSES, OBJECTS = 4, 3, 32, 3, 4
HEAD = {"pyramid_channels": 8, "score_threshold": 0.01}


def classifier():
    return keras_spm.ImageClassifier(golden.two_stage_backbone("pvt_v2_spm"), CLASSES)


def segmenter():
    decoder = keras_spm.heads.UPerNet(channels=8, auxiliary_channels=8, dropout=0.0)
    return keras_spm.SemanticSegmenter(conv_backbone(), CLASSES, decoder)


def detector():
    head = keras_spm.heads.RetinaNet(**HEAD, channels=8, num_convs=1, max_detections=5)
    return keras_spm.ObjectDetector(conv_backbone(), CLASSES, head)


def instances():
    # As many samples as there can be, so that none are chosen at random.
    head = keras_spm.heads.MaskRCNN(
        **HEAD,
        rpn_channels=4,
        box_head_channels=4,
        mask_head_channels=4,
        max_proposals=5,
        num_samples=40,
        max_detections=2,
    )
    model = keras_spm.InstanceSegmenter(conv_backbone(), CLASSES, head)
    head.rpn.sampler.num_samples = 512
    return model


class Layers(SafeTrainer, keras.Model):
    """A model of few layers, which compiles fast."""

    def compile(self, optimizer, **kwargs):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        super().compile(optimizer, loss, metrics=["accuracy"], **kwargs)


def layers():
    images = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Conv2D(4, 3, 4)(x)
    x = keras.layers.Activation("tanh")(keras_spm.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return Layers(images, keras.layers.Dense(CLASSES)(x))


TASKS = {
    "layers": layers,
    "classifier": classifier,
    "segmenter": segmenter,
    "detector": detector,
    "instances": instances,
}


def images_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), "uint8")


def data(task, count=BATCH * STEPS):
    """Returns (images, targets): few objects or pixels in most images, none in the last batch."""
    generator = np.random.default_rng(1)
    images = images_of(count)
    if task in ("classifier", "layers"):
        return images, generator.integers(0, CLASSES, count)
    if task == "segmenter":
        maps = generator.integers(0, CLASSES, (count, SIDE, SIDE))
        for number, image in enumerate(maps):
            image[(number % BATCH) * 9 :, 2:] = 255
        maps[2 * BATCH : 3 * BATCH] = 255
        return images, maps
    corner = generator.integers(0, 16, (count, OBJECTS, 2))
    size = generator.integers(8, 16, (count, OBJECTS, 2))
    boxes = np.concatenate([corner, corner + size], axis=-1).astype("float32")
    labels = generator.integers(0, CLASSES, (count, OBJECTS))
    for number, row in enumerate(labels):
        row[max(0, OBJECTS - 2 * (number % BATCH)) :] = -1
    labels[2 * BATCH : 3 * BATCH] = -1
    targets = {"boxes": boxes, "labels": labels}
    if task == "instances":
        rows = np.arange(SIDE)
        inside = [(rows >= boxes[..., i, None]) & (rows < boxes[..., i + 2, None]) for i in (0, 1)]
        targets["masks"] = inside[1][..., :, None] & inside[0][..., None, :]
    return images, targets


# {option: arguments of the optimizer}
OPTIMIZERS = {
    "clipping": {"global_clipnorm": 0.1},
    "accumulation": {"gradient_accumulation_steps": 2},
    "averages": {"use_ema": True, "ema_momentum": 0.5},
    "decay": {"weight_decay": 0.1},
}
# The first step overflows in the rows of the last device alone, because of an image's weight, and
# is left out by all of them.
SCALE, LARGE_WEIGHT = 2.0**123, 256
# Sizes of the last batches, of which some devices get one row more than others, or none.
RESTS = (3, 1)


def make_optimizer(options):
    arguments = {}
    for option in options:
        arguments |= OPTIMIZERS.get(option, {})
    optimizer = keras.optimizers.SGD(0.05, **arguments)
    if "scaling" in options:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, SCALE)
    return optimizer


def train(name, seed=0):
    """Returns a task after three steps of gradient descent, and its logs after each.

    Args:
        name: of the task, and of options, after commas.
    """
    task, *options = name.split(",")
    keras.utils.set_random_seed(seed)
    model = TASKS[task]()
    model.compile(optimizer=make_optimizer(options))
    steps = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: steps.append(dict(logs))
    )
    images, targets = data(task)
    arguments = {"batch_size": BATCH, "shuffle": False, "verbose": 0, "callbacks": [callback]}
    if "scaling" in options:
        weights = np.ones(len(images), "float32")
        weights[BATCH - 1] = LARGE_WEIGHT
        arguments["sample_weight"] = weights
    history = model.fit(images, targets, **arguments).history
    if "scaling" in options:
        assert to_numpy(model.optimizer.dynamic_scale) == SCALE / 2
    for rest in RESTS if "rest" in options else ():
        found = model.fit(*data(task, BATCH + rest), **arguments).history
        history = {key: values + found[key] for key, values in history.items()}
    if keras.config.backend() == "tensorflow":
        # Its logs of a step are means of the replicas, also if they have different numbers of rows.
        # Those of epochs are right.
        steps = steps[:STEPS]
    losses = [[each[name] for each in steps] for name in steps[0] if name.endswith("loss")]
    logs = {"epoch": list(history.values()), "steps": losses}
    return model, logs


def results(task, counts=()):
    """Returns {kind: list of arrays} of a training, and of the trained model."""
    model, logs = train(task)
    state = {
        "weights": [*model.trainable_variables, *model.optimizer.variables],
        "statistics": model.non_trainable_variables,
    }
    found = {
        kind: [to_numpy(each) for each in variables if "seed" not in each.path]
        for kind, variables in state.items()
    }
    found["logs"] = [np.array(each, "float64") for each in logs.values()]
    for count in counts:
        images, targets = data(task.partition(",")[0], count)
        metrics = model.evaluate(images, targets, batch_size=8, verbose=0, return_dict=True)
        found[f"evaluate {count}"] = [np.array(each) for each in metrics.values()]
        outputs = model.predict(images, batch_size=8, verbose=0)
        found[f"predict {count}"] = keras.tree.flatten(outputs)
        predicted = model.predict_images(list(images), batch_size=8)
        found[f"predict_images {count}"] = keras.tree.flatten(predicted)
    return found


def difference(found, expected):
    """Returns the largest difference of arrays, infinite for other shapes and non-finite values.

    It is relative for values above 1.
    """
    largest = 0.0
    for one, other in zip(found, expected, strict=True):
        one, other = (np.asarray(each, "float64") for each in (one, other))
        if one.shape != other.shape:
            return float("inf")
        if not np.isfinite(one).all():
            return float("inf")
        if one.size:
            largest = max(largest, float((np.abs(one - other) / np.maximum(abs(other), 1)).max()))
    return largest


def differences(found, expected):
    return {kind: difference(found[kind], expected[kind]) for kind in expected}


def _local_count(count, examples):
    return keras.ops.maximum(count, 1)


# {negative control: (module, attribute, what replaces it)}
CONTROLS = {
    "counts": (backend, "count_per_replica", _local_count),
    "gradients": (processes, "combine_gradients", list),
}


def compare(task, devices, control=None):
    """Returns the differences of a task between one device and several.

    Args:
        task: name.
        devices: int.
        control: name of a negative control, or numbers of images to evaluate, such as "1,7,9".
    """
    counts = []
    if control is not None and control not in (*CONTROLS, "statistics"):
        counts = [int(count) for count in control.split(",")]
    expected = results(task, counts)
    synchronized = control != "statistics"
    if control in CONTROLS:
        module, name, replacement = CONTROLS[control]
        setattr(module, name, replacement)
    with keras_spm.data_parallel(devices, synchronized) as active:
        found = results(task, counts)
        arrays = keras.tree.flatten(found)
        gathered = processes.gathered([each.tobytes() for each in arrays])
    return {
        **differences(found, expected),
        "devices": active.count,
        "ranks equal": all(each == gathered[0] for each in gathered),
    }


def lower(task):
    """Returns what JAX makes of a training step on a mesh of all devices.

    The platforms and the number of devices of a step that is exported for TPUs, and the
    collective operations in the program that XLA makes of the step on CPUs.
    """
    import jax

    with keras_spm.data_parallel():
        model = TASKS[task]()
        images, targets = data(task, BATCH)
        model.fit(images, targets, batch_size=BATCH, epochs=0, verbose=0)  # Builds all variables.
        model.optimizer.build(model.trainable_variables)
        if task in ("classifier", "segmenter"):
            outputs = model.compute_output_shape(images.shape)
            logits = keras.ops.zeros(outputs)
            model.compute_metrics(None, targets, logits)
        groups = (
            *(model.trainable_variables, model.non_trainable_variables),
            *(model.optimizer.variables, model.metrics_variables),
        )
        state = tuple([each.value for each in group] for group in groups)
        step = jax.jit(model.train_step, out_shardings=replicated())
        arguments = placed(state, (images, targets), False)
        exported = jax.export.export(step, platforms=["tpu"])(*arguments)
        text = step.lower(*arguments).compile().as_text()
    # Loops over the images, which are faster on CPUs, gather them.
    lines = [line for line in text.splitlines() if "branch_0_fun" not in line]
    norms = (keras.layers.BatchNormalization,)
    return {
        **{name: sum(f" {name}(" in line for line in lines) for name in COLLECTIVES},
        "norms": sum(isinstance(layer, norms) for layer in model._flatten_layers()),
        "variables": len(model.trainable_variables),
        "devices": exported.nr_devices,
        "platforms": exported.platforms,
    }


def seeds(devices):
    """Returns the number of seed generators, and of their different states after a step."""
    images, labels = data("classifier", BATCH)
    with keras_spm.data_parallel(int(devices)) as active:
        backbone = golden.two_stage_backbone("pvt_v2", drop_path_rate=0.5)
        model = keras_spm.ImageClassifier(backbone, CLASSES)
        model.fit(images, labels, batch_size=BATCH, verbose=0)
        states = []
        for variable in model.variables:
            if variable.path.endswith("seed_generator_state"):
                copies = [variable.value]
                if keras.config.backend() == "tensorflow":
                    copies = active.engine.experimental_local_results(variable.value)
                states.append([to_numpy(copy).tolist() for copy in copies])
        found = {str(state) for each in processes.gathered(states) for one in each for state in one}
    return {"generators": len(states), "states": len(found)}


def _make_tensorflow_devices(count):
    import tensorflow as tf

    (device,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        device, [tf.config.LogicalDeviceConfiguration()] * count
    )


def main():
    if keras.config.backend() == "tensorflow":
        _make_tensorflow_devices(4)
    with keras_spm.data_parallel():  # JAX's processes must start before anything is computed.
        pass
    for name in sys.argv[1:]:
        task, devices, *control = name.split(":")
        if devices == "lower":
            found = lower(task)
        elif task == "seeds":
            found = seeds(devices)
        else:
            found = compare(task, int(devices), *control)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps({name: found}), flush=True)


if __name__ == "__main__":
    main()
