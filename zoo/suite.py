"""The standard comparisons of the benchmark, and their targets."""

import dataclasses
from collections.abc import Iterator

from case import Case

BACKENDS = ("torch", "tensorflow", "jax")

# (input channels, output channels, size) of the mergings of PVT tiny and PVT v2 b1.
MERGINGS = ((64, 128, 56), (128, 320, 28), (320, 512, 14))
# (batch, size)
SHAPES = ((1, 224), (8, 224), (32, 224), (1, 448), (1, 896))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Cases to measure together; the cases of one input shape take turns.

    Attributes:
        title: unique title.
        cases: tuple of `Case`.
        measures: keys of `report.MEASURES`.
    """

    title: str
    cases: tuple[Case, ...]
    measures: tuple[str, ...] = ("forward", "train")


def _layers():
    for channels, output_dim, size in MERGINGS:
        model = f"merging_{channels}_{output_dim}"
        yield Comparison(
            f"Stepwise Patch Merging, {channels} to {output_dim} channels at {size}×{size}",
            (
                *(Case("keras_spm", model, backend, size=size) for backend in BACKENDS),
                *references(Case("keras_spm", model, size=size)),
            ),
        )


def _networks():
    for backend in BACKENDS:
        case = Case("keras_spm", "pvt_v2_b1", backend)
        with_spm = dataclasses.replace(case, model="pvt_v2_spm_b1")
        yield Comparison(f"PVT v2 b1 classifier, {backend}", (case, with_spm, *references(case)))


def _memory():
    yield Comparison(
        "PVT v2 b1 classifier, first training steps",
        (
            *(Case("keras_spm", "pvt_v2_b1", backend) for backend in BACKENDS),
            Case("transformers", "pvt_v2_b1"),
            Case("transformers", "pvt_v2_b1", compiled=True),
        ),
        ("memory", "first step"),
    )


def _scaling():
    # One backend at a time: at 896 pixels each process keeps gigabytes while it waits.
    for backend in BACKENDS:
        yield Comparison(
            f"PVT v2 b1 classifier by batch and image size, {backend}",
            tuple(
                Case(library, model, framework, batch=batch, size=size)
                for batch, size in SHAPES
                for library, model, framework in (
                    ("keras_spm", "pvt_v2_spm_b1", backend),
                    ("transformers", "pvt_v2_b1", "torch"),
                )
            ),
        )


def _fusion():
    for backend in BACKENDS:
        models = ("pvt_v2_spm_b1", "fused:pvt_v2_spm_b1")
        yield Comparison(
            f"PVT v2 b1 with SPM, before and after fusion, {backend}",
            tuple(Case("keras_spm", model, backend) for model in models),
            ("forward",),
        )


def _checkpointing():
    models = ("pvt_v2_spm_b1", "checkpointed:pvt_v2_spm_b1")
    yield Comparison(
        "PVT v2 b1 with SPM and gradient checkpointing, first training steps",
        tuple(
            Case("keras_spm", model, backend, size=448) for backend in BACKENDS for model in models
        ),
        ("memory", "first step"),
    )


def _deployed():
    own = ("pvt_v2_b1", "fused:pvt_v2_spm_b1")
    others = ("timm", "keras_hub")
    for batch in (1, 8):
        for runtime in ("onnxruntime", "openvino"):
            shape = {"backend": runtime, "batch": batch}
            yield Comparison(
                f"PVT v2 b1 classifier in {runtime}, batch {batch}",
                (
                    *(Case("keras_spm", model, **shape) for model in own),
                    *(Case(library, "pvt_v2_b1", **shape) for library in others),
                    *(Case("keras_spm", model, dtype="int8", **shape) for model in own),
                    Case("timm", "pvt_v2_b1", dtype="int8", **shape),
                ),
                ("forward",),
            )
        shape = {"backend": "litert", "batch": batch}
        yield Comparison(
            f"PVT v2 b1 classifier in litert, batch {batch}",
            (
                *(Case("keras_spm", model, **shape) for model in own),
                *(Case("keras_spm", model, dtype="int8", **shape) for model in own),
            ),
            ("forward",),
        )
        yield Comparison(
            f"PVT v2 b1 classifier in onnxruntime, Keras and transformers, batch {batch}",
            (
                Case("transformers", "pvt_v2_b1", batch=batch),
                *(
                    Case("keras_spm", model, backend, batch=batch)
                    for model in own
                    for backend in ("onnxruntime", *BACKENDS)
                ),
            ),
            ("forward",),
        )


# {name: function that yields comparisons}. Without arguments, the benchmark runs `STANDARD`.
PARTS = {
    "layers": _layers,
    "networks": _networks,
    "memory": _memory,
    "scaling": _scaling,
    "fusion": _fusion,
    "checkpointing": _checkpointing,
    "deployed": _deployed,
}
STANDARD = ("layers", "networks", "memory")


def references(case: Case) -> tuple[Case, ...]:
    """Returns the cases of other libraries that correspond to one of this library."""
    if case.channels:
        kinds = [("textbook", False), ("textbook", True)]
    elif ":" in case.model:
        kinds = []
    else:
        kinds = [("transformers", False), ("transformers", True), ("timm", False)]
        kinds += [("keras_hub", False), ("zeromodels", False)]
    # Other libraries have the original families only.
    model = case.model.replace("_spm", "")
    keras_libraries = ("keras_hub", "zeromodels")
    return tuple(
        dataclasses.replace(
            case,
            library=library,
            model=model,
            backend=case.backend if library in keras_libraries else "torch",
            compiled=compiled,
        )
        for library, compiled in kinds
    )


# === Targets ===


@dataclasses.dataclass(frozen=True)
class Target:
    """A required speedup or the highest allowed cost, relative to other cases.

    Attributes:
        title: what is compared.
        model: model of this library.
        measure: a key of `report.MEASURES`.
        baselines: tuple of (library, model, compiled); the best of them counts.
        at_least: {backend: required speedup}; `None` for no requirement.
        at_most: {backend: highest cost ratio}; only one of the two is given.
        any_backend: whether it is enough to meet the target on one backend.
    """

    title: str
    model: str
    measure: str
    baselines: tuple[tuple[str, str, bool], ...]
    at_least: dict[str, float | None] = dataclasses.field(default_factory=dict)
    at_most: dict[str, float | None] = dataclasses.field(default_factory=dict)
    any_backend: bool = False


def _bounds(torch, tensorflow, jax):
    return {"torch": torch, "tensorflow": tensorflow, "jax": jax}


_EAGER = (("transformers", "pvt_v2_b1", False),)
_COMPILED = (("transformers", "pvt_v2_b1", True),)
_KERAS = (("keras_hub", "pvt_v2_b1", False), ("zeromodels", "pvt_v2_b1", False))
_STEPS = {"forward": "forward", "train": "training step"}


def targets() -> Iterator[Target]:
    """Yields all targets."""
    for channels, output_dim, _ in MERGINGS:
        model = f"merging_{channels}_{output_dim}"
        for measure, bound in (("forward", 1.5), ("train", 1.3)):
            yield Target(
                f"SPM {channels} to {output_dim}, {_STEPS[measure]}, vs. textbook (PyTorch eager)",
                model,
                measure,
                (("textbook", model, False),),
                _bounds(bound, bound, bound),
            )
    for measure, step in _STEPS.items():
        for baseline, cases, bounds, any_backend in (
            ("the faster of KerasHub and ZeroModels", _KERAS, _bounds(1.2, 1.1, 3.0), False),
            ("transformers (PyTorch eager)", _EAGER, _bounds(1.2, None, 1.0), False),
            ("transformers (PyTorch compiled)", _COMPILED, _bounds(1.0, 1.0, 1.0), True),
        ):
            yield Target(
                f"PVT v2 b1, {step}, vs. {baseline}",
                "pvt_v2_b1",
                measure,
                cases,
                bounds,
                any_backend=any_backend,
            )
    yield Target(
        "PVT v2 b1 with SPM, forward, vs. PVT v2 b1",
        "pvt_v2_spm_b1",
        "forward",
        (("keras_spm", "pvt_v2_b1", False),),
        at_most=_bounds(1.25, 1.25, 1.25),
    )
    yield Target(
        "PVT v2 b1, peak memory, vs. transformers (PyTorch eager)",
        "pvt_v2_b1",
        "memory",
        _EAGER,
        at_most=_bounds(1.1, 1.1, 1.1),
    )
