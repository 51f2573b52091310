"""Mergings that learn to replace those of a pretrained network."""

import functools

import keras
import numpy as np
import pytest

import keras_spm
from keras_spm.transplantation.closed_form import _separate, _spread_over_window, initialize
from keras_spm.transplantation.images import ShiftedBatches
from keras_spm.transplantation.networks import Networks
from tests import golden
from tests.helpers import (
    check_equal,
    conv_backbone,
    difference,
    error_message,
    random_array,
    randomize,
    tiny_backbone,
    to_numpy,
)

on_torch = pytest.mark.only("torch")


def smooth_images(count, size=32, seed=0):
    """Random images that have structure at several scales."""
    generator = np.random.default_rng(seed)
    images = 127.5
    for cell in (4, 8, 16):
        coarse = generator.normal(0, 30, (count, size // cell, size // cell, 3))
        images = images + coarse.repeat(cell, axis=1).repeat(cell, axis=2)
    return images.clip(0, 255).astype("uint8")


# A stage less where each costs seconds of compilation.
STAGES = 3 if keras.config.backend() == "torch" else 2


def classifier(**arguments):
    names = ("depths", "num_heads", "mlp_ratios", "sr_ratios")
    ones = dict.fromkeys(names, (1,) * STAGES)
    backbone = keras_spm.PVTv2(embed_dims=(8, 16, 16)[:STAGES], **ones, **arguments)
    return keras_spm.ImageClassifier(backbone, 3)


def pair(build=classifier, **arguments):
    """Returns (student, teacher) with random weights; the teacher's kernels are smooth."""
    student, teacher = build(merging="spm", **arguments), build(**arguments)
    for stage in getattr(teacher, "backbone", teacher).stages[1:]:
        if hasattr(stage.merging, "projection"):
            kernel = stage.merging.projection.kernel
            blur = np.outer([1, 2, 1], [1, 2, 1])[: kernel.shape[0], : kernel.shape[1]] / 4
            generator = np.random.default_rng(kernel.shape[-1])
            mixing = generator.normal(size=kernel.shape[2:]) * np.sqrt(1 / kernel.shape[2])
            noise = 0.1 * generator.normal(size=kernel.shape)
            kernel.assign(blur[..., None, None] * mixing + noise)
    return student, teacher


def settings_of(model):
    return [(each.path, each.trainable) for each in (*model._flatten_layers(), *model.variables)]


@pytest.mark.graph
def test_every_phase_explains_more():
    student, teacher = pair(drop_path_rate=0.1)
    student.freeze(1, batch_normalization=True)
    settings, expected = settings_of(student), [to_numpy(each) for each in teacher.weights]
    images = smooth_images(64)
    report = keras_spm.transplant(
        student, images, teacher, steps=(28, 56), batch_size=8, verbose=False
    )
    for fit in report.mergings.values():
        values = [fit.before, fit.initialized, fit.regressed, fit.after]
        assert min(np.diff(values)) > 0 and values[-1] > 0.5, str(report)
    assert list(report.mergings) == ["stage2", "stage3"][: STAGES - 1]
    assert report.images + report.held_out_images == 64
    assert all(stage in str(report) for stage in report.mergings)
    # Everything else is the teacher's, and nothing of it has changed.
    assert settings_of(student) == settings
    for variable, value in zip(teacher.weights, expected, strict=True):
        assert difference(variable, value) == 0
        if "/merging/" not in variable.path:
            (own,) = (each for each in student.weights if each.path == variable.path)
            assert difference(own, value) == 0


@on_torch
def test_a_transplanted_model_is_one_like_any_other(tmp_path):
    """It saves, loads, converts and trains."""
    student, teacher = pair()
    images = smooth_images(24)
    keras_spm.transplant(student, images, teacher, steps=6, batch_size=8, verbose=False)
    student.save(tmp_path / "student.keras")
    check_equal(student, keras.saving.load_model(tmp_path / "student.keras"), images)
    again = classifier(merging="spm")
    keras_spm.load_torch_weights(again, keras_spm.to_torch_state_dict(student))
    check_equal(student, again, images)
    assert np.isfinite(student.fit(images, np.zeros(24, "int32"), verbose=0).history["loss"]).all()


def test_gates_are_closed_at_first():
    teacher = randomize(classifier())
    gated = classifier(merging="default+spm")
    keras_spm.backbones.merging.copy_shared_variables(gated, teacher)
    images = smooth_images(8)
    # Eagerly: XLA rounds differently when it fuses other operations.
    assert difference(gated(images), teacher(images)) == 0


# Families and tasks


def _swin(**arguments):
    return golden.two_stage_backbone("timm_swin", **arguments)


def _segmenter(**arguments):
    decoder = keras_spm.heads.SemanticFPN(pyramid_channels=8, channels=8)
    return keras_spm.SemanticSegmenter(tiny_backbone(**arguments), 3, decoder)


BUILD = {
    "PVT": functools.partial(golden.two_stage_backbone, "pvt"),
    "Swin": _swin,
    "Swin with pyramid norms": functools.partial(_swin, pyramid_norms=True),
    "SemanticSegmenter": _segmenter,
    "channels_first": functools.partial(classifier, data_format="channels_first"),
    "bfloat16": functools.partial(classifier, dtype="mixed_bfloat16"),
}


@on_torch
@pytest.mark.parametrize("name", BUILD)
def test_families_and_tasks(name):
    student, teacher = pair(BUILD[name])
    images = smooth_images(24)
    if name == "channels_first":
        images = images.transpose(0, 3, 1, 2)
    report = keras_spm.transplant(student, images, teacher, steps=6, batch_size=8, verbose=False)
    for fit in report.mergings.values():
        assert fit.before < fit.initialized and fit.before < fit.after


@on_torch
@pytest.mark.parametrize("merging", ["msa", "gle"])
def test_halves_of_spm_are_trained_without_a_closed_form(merging):
    student, teacher = classifier(merging=merging), classifier()
    report = keras_spm.transplant(student, smooth_images(24), teacher, steps=20, verbose=False)
    for fit in report.mergings.values():
        assert fit.before == fit.initialized < fit.after


@on_torch
def test_gated_student_keeps_its_outputs():
    student, teacher = classifier(merging="default+spm"), classifier()
    images = smooth_images(32)
    report = keras_spm.transplant(student, images, teacher, steps=20, verbose=False)
    assert report.steps[1] == 0
    for fit in report.mergings.values():
        assert fit.before < fit.initialized < fit.regressed == fit.after
    assert difference(student(images), teacher(images)) == 0
    # Without a teacher, it has its own.
    again = keras_spm.transplant(student, images, steps=1, verbose=False)
    assert again.mergings["stage2"].before == pytest.approx(report.mergings["stage2"].after)


# Closed forms


@on_torch
@pytest.mark.parametrize(("size", "padding"), [(2, 0), (3, 1)])
def test_depthwise_kernels_spread_a_filter_over_a_window(size, padding):
    generator = np.random.default_rng(0)
    # Filters of 2x2 equal values, and of 3x3 values that such windows can sum to.
    corner = generator.normal(size=(2, size - 1, size - 1))
    filters = sum(
        np.pad(corner, ((0, 0), (row, 1 - row), (column, 1 - column)))
        for row, column in np.ndindex(2, 2)
    )
    kernel = _spread_over_window(filters, 5, padding)
    image = generator.normal(size=(16, 16))
    for channel in range(2):
        full = [
            [(kernel[:, :, channel, 0] * image[y - 2 : y + 3, x - 2 : x + 3]).sum() for x in (6, 7)]
            for y in (6, 7)
        ]
        start = 6 - padding
        expected = (filters[channel] * image[start : start + size, start : start + size]).sum()
        assert np.mean(full) == pytest.approx(expected, abs=0.15)


@on_torch
def test_best_separable_approximation():
    kernel = random_array(3, 3, 4, 8)
    filters, rows = _separate(kernel)
    error = kernel - filters.transpose(1, 2, 0)[..., None] * rows
    for channel in range(4):
        singular = np.linalg.svd(kernel[:, :, channel].reshape(9, 8), compute_uv=False)
        # Eckart and Young: the error is that of all singular values but the first.
        assert np.square(error[:, :, channel]).sum() == pytest.approx(
            np.square(singular[1:]).sum(), rel=1e-4
        )


@on_torch
def test_aggregation_starts_linear():
    spm, default = (
        keras_spm.layers.StepwisePatchMerging(16),
        keras_spm.layers.PatchEmbedding(16, 2),
    )
    batches = [random_array(2, 8, 8, 8, seed=seed) for seed in range(4)]
    outputs = [to_numpy(default(batch)) for batch in batches]
    spm(batches[0])
    initialize(spm, default, batches, outputs)
    first, second, *_ = batches
    aggregate = spm.multi_scale_aggregation
    zero = to_numpy(aggregate(np.zeros_like(first)))
    total = to_numpy(aggregate(first)) + to_numpy(aggregate(second)) - zero
    assert difference(aggregate(first + second), total) <= 1e-4


@on_torch
def test_settled_statistics_keep_the_outputs():
    student, teacher = pair()
    randomize(student)
    networks = Networks(student, teacher)
    images = smooth_images(16)
    before = to_numpy(student(images))
    with networks.only_mergings_trainable():
        networks.settle([images.astype("float32")])
    assert difference(student(images), before) <= 1e-4 * max(np.abs(before).max(), 1)
    # In training, the mergings now compute the same as in inference.
    maps = networks._stage_inputs("student").predict_on_batch(images.astype("float32"))
    merging = student.backbone.stages[1].merging
    outputs = to_numpy(merging(maps["stage2"]))
    assert difference(merging(maps["stage2"], training=True), outputs) <= 2e-3


# Images


class Batches(keras.utils.PyDataset):
    def __init__(self, images):
        super().__init__()
        self._images = images

    def __len__(self):
        return len(self._images) // 4

    def __getitem__(self, index):
        batch = self._images[4 * index : 4 * index + 4]
        return batch, np.zeros(len(batch))


def _sources(images, folder):
    import torch
    from PIL import Image

    for number, image in enumerate(images):
        path = folder / "inside" / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    yield "tensor", torch.tensor(images)
    yield "folder", folder
    yield "paths", sorted(folder.rglob("*.png"))
    yield "arrays", list(images)
    yield "examples", [{"image": image, "label": 0} for image in images]
    yield "PyDataset", Batches(images)
    yield "generator", ((batch, None) for batch in np.split(images, 3))
    data = torch.utils.data.TensorDataset(torch.tensor(images), torch.zeros(len(images)))
    yield "DataLoader", torch.utils.data.DataLoader(data, batch_size=4)


@on_torch
def test_any_source_of_images(tmp_path, monkeypatch):
    images = smooth_images(12)
    student, teacher = pair(image_shape=(32, 32, 3))
    collected = []
    original = keras_spm.transplantation.transplant.__globals__["ShiftedBatches"]
    monkeypatch.setitem(
        keras_spm.transplantation.transplant.__globals__,
        "ShiftedBatches",
        lambda images, *rest: collected.append(images) or original(images, *rest),
    )
    for name, source in _sources(images, tmp_path):
        collected.clear()
        keras_spm.transplant(student, source, teacher, steps=1, verbose=False)
        training, held_out, _ = collected
        found = {image.tobytes() for image in (*training, *held_out)}
        if name in ("folder", "paths", "arrays", "examples"):  # Resized and cropped.
            assert len(found) == 12
        else:
            assert found == {image.tobytes() for image in images}, name


@on_torch
def test_invalid_arguments(tmp_path):
    (student, teacher), (_, quantized) = pair(), pair()
    quantized.quantize("int8")
    before = student.get_weights()
    for arguments, expected in (
        ({"steps": 0}, "`steps` must be an integer of at least 1. Received: steps=0"),
        ({"steps": (1, 0)}, "`steps[1]` must be an integer of at least 1"),
        ({"batch_size": 1}, "`batch_size` must be an integer of at least 2"),
        ({"validation_split": 0}, "`validation_split` must be a finite number, above 0"),
        ({"images": smooth_images(4)}, "`images` must be at least 8 images. Received: 4"),
        ({"images": 7}, "`images` must be an array, a folder of images"),
        ({"images": tmp_path}, "`images` must be at least 8 images. Received: 0"),
        ({"teacher": None}, "`teacher` must be given"),
        ({"teacher": student}, "`teacher` must have other mergings than the student"),
        ({"teacher": conv_backbone()}, "`teacher` must be a backbone of this package"),
        ({"student": conv_backbone()}, "`student` must be a backbone of this package"),
        (
            {"teacher": golden.backbone("pvt_v2")},
            "`teacher` must have the student's architecture but for its mergings",
        ),
        ({"student": keras_spm.fuse(student)}, "`student` must be a network that is not fused"),
        ({"teacher": quantized}, "`teacher` must be a network that is not quantized"),
    ):
        named = {"student": student, "images": smooth_images(8), "teacher": teacher}
        assert expected in error_message(keras_spm.transplant, **{**named, **arguments})
    for weight, value in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@on_torch
def test_failure_keeps_the_weights(monkeypatch):
    student, teacher = pair()
    before, settings = student.get_weights(), settings_of(student)

    def stop(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Networks, "settle", stop)
    with pytest.raises(KeyboardInterrupt):
        keras_spm.transplant(student, smooth_images(16), teacher, steps=2, verbose=False)
    for weight, value in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert settings_of(student) == settings


@on_torch
def test_batches_are_repeatable_and_differ_between_epochs():
    images = smooth_images(10)
    first, second = (ShiftedBatches(images, 4, 3, False) for _ in range(2))
    assert len(first) == 2 and first[0].shape == (4, 32, 32, 3)
    assert difference(first[1], second[1]) == 0
    second.on_epoch_end()
    assert difference(first[1], second[1]) > 0
    assert first[0].min() >= 0 and first[0].max() <= 255
    plain = ShiftedBatches(images, 4, None, False)
    assert difference(np.concatenate(plain.all()), images) == 0


# Presets


@on_torch
@pytest.mark.filterwarnings("error::UserWarning")
def test_from_preset_in_one_line(tmp_path, monkeypatch):
    teacher = randomize(classifier())
    teacher.save_to_preset(tmp_path / "teacher")
    limited = functools.partial(keras_spm.transplant, steps=4, verbose=False)
    monkeypatch.setitem(
        keras_spm.presets.loading.load_preset.__globals__,
        "transplant",
        lambda model, images, teacher: limited(model, images, teacher),
    )
    load = keras_spm.ImageClassifier.from_preset
    images = smooth_images(16)
    model = load(tmp_path / "teacher", merging="spm", transplant=images)
    assert model.backbone.merging == "spm"
    report = model.transplant_report
    assert all(fit.before < fit.after for fit in report.mergings.values())
    assert {path.split("/")[1] for path in model.load_report.missing_keys} == {"merging"}
    # The teacher is found again by the name of the preset.
    again = limited(model, images)
    for stage, fit in again.mergings.items():
        assert fit.before == pytest.approx(report.mergings[stage].after, abs=1e-5)
    message = error_message(load, name=tmp_path / "teacher", transplant=images)
    assert "`transplant` must be `None` unless" in message


@on_torch
@pytest.mark.filterwarnings("error::UserWarning")  # Nothing is random.
def test_gated_preset(tmp_path):
    teacher = randomize(classifier())
    teacher.save_to_preset(tmp_path / "teacher")
    load = keras_spm.ImageClassifier.from_preset
    gated = load(tmp_path / "teacher", merging="default+spm")
    images = smooth_images(8)
    assert difference(gated(images), teacher(images)) == 0
    missing = {path.split("/")[2] for path in gated.load_report.missing_keys}
    assert missing == {"spm", "gate", "default_share"}


@on_torch
@pytest.mark.filterwarnings("error::UserWarning")
def test_recipe_transplants_before_the_training(tmp_path):
    teacher = randomize(classifier())
    teacher.backbone.save_to_preset(tmp_path / "teacher")
    settings = [f"preset={tmp_path / 'teacher'}", "merging=spm", "load_weights=True"]
    settings += ["transplant_images=16", "transplant_steps=1", "drop_path_rate=0"]
    recipe = keras_spm.trainer.load_recipe("classification_digits", settings)
    setup = recipe.setup()
    merging = setup.model.backbone.stages[1].merging
    before = merging.get_weights()
    setup.prepare(False)
    assert any((new != old).any() for new, old in zip(merging.get_weights(), before, strict=True))
    for name in ("classification_transplant", "classification_distill"):
        assert keras_spm.trainer.load_recipe(name).transplant_images > 0
