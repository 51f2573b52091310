"""What the benchmark compares by itself, and what must come of it."""

import dataclasses

from contenders import Contender

BACKENDS = ("torch", "tensorflow", "jax")

# The sizes of the three mergings of PVT tiny and PVT v2 b1: channels in and out, map.
MERGINGS = ((64, 128, 56), (128, 320, 28), (320, 512, 14))
SHAPES = ((1, 224), (8, 224), (32, 224), (1, 448), (1, 896))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Contenders to measure together; those of one batch and size alternate.

    Attributes:
        title: str, unlike any other's.
        contenders: tuple of `Contender`.
        measures: keys of `report.MEASURES`.
    """

    title: str
    contenders: tuple
    measures: tuple = ("forward", "train")


def _layers():
    for channels, output_dim, size in MERGINGS:
        model = f"merging_{channels}_{output_dim}"
        yield Comparison(
            f"Stepwise Patch Merging, {channels} to {output_dim} channels at {size}×{size}",
            (
                *(Contender("keras_spm", model, backend, size=size) for backend in BACKENDS),
                *references(Contender("keras_spm", model, size=size)),
            ),
        )


def _networks():
    for backend in BACKENDS:
        ours = Contender("keras_spm", "pvt_v2_b1", backend)
        with_spm = dataclasses.replace(ours, model="pvt_v2_spm_b1")
        yield Comparison(
            f"PVT v2 b1 as a classifier, on {backend}", (ours, with_spm, *references(ours))
        )


def _memory():
    yield Comparison(
        "PVT v2 b1 as a classifier, the first training steps of a process",
        (
            *(Contender("keras_spm", "pvt_v2_b1", backend) for backend in BACKENDS),
            Contender("transformers", "pvt_v2_b1"),
            Contender("transformers", "pvt_v2_b1", compiled=True),
        ),
        ("memory", "first step"),
    )


def _growth():
    # A backend at a time: at 896 pixels each contender takes gigabytes while it sleeps.
    for backend in BACKENDS:
        yield Comparison(
            f"How the cost of PVT v2 b1 grows, on {backend}",
            tuple(
                Contender(library, model, framework, batch=batch, size=size)
                for batch, size in SHAPES
                for library, model, framework in (
                    ("keras_spm", "pvt_v2_spm_b1", backend),
                    ("transformers", "pvt_v2_b1", "torch"),
                )
            ),
        )


def _deployment():
    for backend in BACKENDS:
        models = ("pvt_v2_spm_b1", "fused:pvt_v2_spm_b1")
        yield Comparison(
            f"PVT v2 b1 with SPM and its fused form, on {backend}",
            tuple(Contender("keras_spm", model, backend) for model in models),
            ("forward",),
        )


def _checkpointing():
    models = ("pvt_v2_spm_b1", "checkpointed:pvt_v2_spm_b1")
    yield Comparison(
        "PVT v2 b1 with SPM and gradient checkpointing, the first training steps of a process",
        tuple(
            Contender("keras_spm", model, backend, size=448)
            for backend in BACKENDS
            for model in models
        ),
        ("memory", "first step"),
    )


# Name → function without arguments, which yields comparisons. `STANDARD` is the rest.
PARTS = {
    "layers": _layers,
    "networks": _networks,
    "memory": _memory,
    "growth": _growth,
    "deployment": _deployment,
    "checkpointing": _checkpointing,
}
STANDARD = ("layers", "networks", "memory")


def references(ours):
    """Returns who computes the same as a contender of ours, as far as we know of."""
    if ours.channels:
        kinds = [("textbook", False), ("textbook", True)]
    elif ":" in ours.model:
        kinds = []
    else:
        kinds = [("transformers", False), ("transformers", True), ("timm", False)]
        kinds += [("keras_hub", False), ("zeromodels", False)]
    # The family's own network stands for the one with Stepwise Patch Merging.
    model = ours.model.replace("_spm", "")
    on_keras = ("keras_hub", "zeromodels")
    return tuple(
        dataclasses.replace(
            ours,
            library=library,
            model=model,
            backend=ours.backend if library in on_keras else "torch",
            compiled=compiled,
        )
        for library, compiled in kinds
    )


# === Targets ===


@dataclasses.dataclass(frozen=True)
class Target:
    """What a model of ours must reach beside others in its comparison.

    Attributes:
        title: str.
        model: ours.
        measure: a key of `report.MEASURES`.
        against: tuple of (library, model, compiled); the best of them counts.
        at_least: {backend: times as fast}; `None` where nothing is wanted.
        at_most: {backend: times the cost}; one of the two.
        best_alone: whether it is enough that the best backend does.
    """

    title: str
    model: str
    measure: str
    against: tuple
    at_least: dict = dataclasses.field(default_factory=dict)
    at_most: dict = dataclasses.field(default_factory=dict)
    best_alone: bool = False


def _bounds(torch, tensorflow, jax):
    return {"torch": torch, "tensorflow": tensorflow, "jax": jax}


_EAGER = (("transformers", "pvt_v2_b1", False),)
_COMPILED = (("transformers", "pvt_v2_b1", True),)
_ON_KERAS = (("keras_hub", "pvt_v2_b1", False), ("zeromodels", "pvt_v2_b1", False))
_STEPS = {"forward": "forward", "train": "training step"}


def targets():
    """Yields all of them."""
    for channels, output_dim, _ in MERGINGS:
        model = f"merging_{channels}_{output_dim}"
        for measure, bound in (("forward", 1.5), ("train", 1.3)):
            yield Target(
                f"SPM {channels} to {output_dim}, {_STEPS[measure]}: textbook in PyTorch, eager",
                model,
                measure,
                (("textbook", model, False),),
                _bounds(bound, bound, bound),
            )
    for measure, step in _STEPS.items():
        for rival, against, bounds, best_alone in (
            ("faster of KerasHub's and ZeroModels'", _ON_KERAS, _bounds(1.2, 1.1, 3.0), False),
            ("transformers in PyTorch, eager", _EAGER, _bounds(1.2, None, 1.0), False),
            ("transformers in PyTorch, compiled", _COMPILED, _bounds(1.0, 1.0, 1.0), True),
        ):
            yield Target(
                f"PVT v2 b1, {step}: {rival}",
                "pvt_v2_b1",
                measure,
                against,
                bounds,
                best_alone=best_alone,
            )
    yield Target(
        "PVT v2 b1 with SPM, forward: PVT v2 b1",
        "pvt_v2_spm_b1",
        "forward",
        (("keras_spm", "pvt_v2_b1", False),),
        at_most=_bounds(1.25, 1.25, 1.25),
    )
    yield Target(
        "PVT v2 b1, peak memory: transformers in PyTorch, eager",
        "pvt_v2_b1",
        "memory",
        _EAGER,
        at_most=_bounds(1.1, 1.1, 1.1),
    )
