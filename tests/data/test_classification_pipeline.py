"""Order, augmentation and mixing of the training data of classifiers."""

import copy
import math

import keras
import numpy as np
import pytest
from PIL import Image, ImageOps

from keras_spm.backend.placement import own_rows
from keras_spm.data.classification_augmentation import (
    ClassificationAugmentation,
    Mixing,
    operations,
    rand_augment,
    random_crop,
)
from keras_spm.data.pipeline import EvaluationBatches, repeated_batches

pytestmark = pytest.mark.only("torch")  # Nothing here depends on the backend.

COUNT = 23
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.1)
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype="uint8")


def _numbered(example, generator):
    return example, int(generator.integers(10**9))


def _order(passes, shards=1, repeats=1, seed=0):
    """[(example, random number)] of the first passes, merged from all shards."""
    positions = {}
    for shard in range(shards):
        batches = iter(
            repeated_batches(range(COUNT), _numbered, list, 3, seed, repeats, None, shard, shards)
        )
        for position in range(shard, passes * COUNT, shards * 3):
            for offset, example in enumerate(next(batches)):
                positions[position + offset * shards] = example
    return [positions[position] for position in range(passes * COUNT)]


@pytest.mark.parametrize("shards", [1, 2, 3, 4])
def test_each_pass_has_every_example_once_for_any_number_of_shards(shards):
    order = _order(3, shards)
    passes = [[example for example, _ in order[start : start + COUNT]] for start in (0, 23, 46)]
    assert all(sorted(each) == list(range(COUNT)) for each in passes)
    assert passes[0] != passes[1] != passes[2] != passes[0]
    assert len({number for _, number in order}) == 3 * COUNT
    assert order == _order(3) != _order(3, seed=1)


def test_repeated_augmentation_repeats_a_subset():
    order = _order(40, shards=2, repeats=3)
    seen = np.zeros(COUNT, int)
    for start in range(0, 40 * COUNT, COUNT):
        examples = [example for example, _ in order[start : start + COUNT]]
        runs = [examples[position : position + 3] for position in range(0, COUNT, 3)]
        assert all(len(set(run)) == 1 for run in runs)
        assert len({run[0] for run in runs}) == math.ceil(COUNT / 3)
        seen += np.bincount(examples, minlength=COUNT)
    assert len({number for _, number in order}) == 40 * COUNT
    # Each example is one of 8 in 23, chosen anew in each of 40 passes.
    assert seen.min() > 0 and seen.max() < 90


def test_position_is_saved_and_restored():
    def noisy(batch, generator):
        return batch, int(generator.integers(10**9))

    data = repeated_batches(range(COUNT), _numbered, list, 5, 0, 3, noisy)
    iterator = iter(data)
    for _ in range(7):
        next(iterator)
    state = iterator.get_state()
    expected = [next(iterator) for _ in range(10)]
    other = iter(repeated_batches(range(COUNT), _numbered, list, 5, 0, 3, noisy))
    other.set_state(state)
    assert [next(other) for _ in range(10)] == expected


@pytest.mark.parametrize("shards", [2, 3])
def test_processes_together_mix_as_one(shards):
    def mixed(batch, generator):
        number = int(generator.integers(10**9))
        return [(example, other, number) for example, other in zip(batch, batch[::-1], strict=True)]

    def first(batch_size, shard=0, shards=1, seed=0):
        arguments = {"batch_transform": mixed, "shard": shard, "shards": shards}
        data = iter(repeated_batches(range(COUNT), _numbered, list, batch_size, seed, **arguments))
        return [row for _ in range(5) for row in sorted(next(data))]

    whole = first(4 * shards)
    assert sorted(row for shard in range(shards) for row in first(4, shard, shards)) == sorted(
        whole
    )
    assert first(4 * shards, seed=1) != whole
    with pytest.raises(ValueError, match="must be even to be mixed.*batch_size=3, shards=2"):
        first(3, 0, 2)
    with pytest.raises(ValueError, match="shard=2, shards=2"):
        first(2, 2, 2)


def test_evaluation_reads_all_examples_in_order():
    data = EvaluationBatches(range(COUNT), lambda example: -example, list, 5)
    for _ in range(2):
        batches = [data[index] for index in range(len(data))]
        assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
        assert sum(batches, []) == [-example for example in range(COUNT)]


def test_processes_read_their_rows_of_evaluation_batches():
    read = []
    arguments = {"collate": list, "batch_size": 4, "own_rows": lambda size: range(size // 2, size)}
    data = EvaluationBatches(range(6), lambda example: read.append(example) or example, **arguments)
    assert [data[0], data[1]] == [[2, 2, 2, 3], [5, 5]]
    assert sorted(read) == [2, 3, 5]
    assert list(own_rows(8)) == list(range(8))  # Of the only process.


def test_crops_are_of_random_area_and_ratio():
    generator = np.random.default_rng(0)
    boxes = np.array([random_crop(300, 400, generator, 0.08) for _ in range(4000)])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 400 and boxes[:, 3].max() <= 300
    shares, ratios = sides.prod(-1) / 120000, sides[:, 0] / sides[:, 1]
    assert 0.079 < shares.min() < 0.09 and 0.97 < shares.max() <= 1
    assert 0.74 < ratios.min() < 0.76 and 1.31 < ratios.max() < 1.35
    # Small crops always fit: the area and the logarithm of the ratio are uniform.
    small = shares < 0.5
    assert abs(shares[small].mean() - 0.29) < 0.01
    assert abs(np.log(ratios[small]).mean()) < 0.02
    # No crop with an allowed ratio has half of this area.
    assert random_crop(10, 200, generator, 0.5) == (93, 0, 106, 10)
    assert random_crop(200, 10, generator, 0.5) == (0, 93, 10, 106)


def _augmentation(size=16, crop_scale=0.2, flip=0.0, magnitude=0.0, erasing=0.0):
    return ClassificationAugmentation(size, crop_scale, flip, magnitude, erasing, MEAN, STD)


def test_crops_are_resized_bicubically_and_flipped():
    for seed in range(5):
        generator = np.random.default_rng(seed)
        box = random_crop(40, 60, copy.deepcopy(generator), 0.2)
        expected = Image.fromarray(PIXELS).crop(box).resize((16, 16), Image.Resampling.BICUBIC)
        found = _augmentation()(PIXELS, generator)
        np.testing.assert_array_equal(found, expected)
        mirrored = _augmentation(flip=1.0)(PIXELS, np.random.default_rng(seed))
        np.testing.assert_array_equal(mirrored, found[:, ::-1])


def test_large_files_are_decoded_at_lower_resolution(tmp_path):
    smooth = Image.fromarray(PIXELS[:4, :6]).resize((1200, 800), Image.Resampling.BICUBIC)
    turned = smooth.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # Rotated by 90 degrees.
    smooth.save(tmp_path / "plain.jpg", quality=95)
    turned.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    for seed in range(5):
        whole = np.asarray(Image.open(tmp_path / "plain.jpg"))
        expected = _augmentation(64)(whole, np.random.default_rng(seed)).astype(float)
        for name in ("plain.jpg", "turned.jpg"):
            found = _augmentation(64)(tmp_path / name, np.random.default_rng(seed))
            # Boxes are rounded to pixels of the smaller image; neighbors differ by 2 to 4.
            assert np.abs(found - expected).mean() < 3, name


def test_random_erasing_fills_a_rectangle_with_noise():
    image = np.full((40, 60, 3), 255, "uint8")
    shares, noise = [], []
    for seed in range(300):
        found = _augmentation(32, erasing=1.0)(image, np.random.default_rng(seed))
        changed = (found != 255).any(-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        part = found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        shares.append(part.shape[0] * part.shape[1] / 32**2)
        noise.append(part.reshape(-1, 3))
    assert 0.015 < min(shares) < 0.05 and 0.3 < max(shares) < 0.36
    # Uniform from 0.02 to 1/3.
    assert abs(np.mean(shares) - (0.02 + 1 / 3) / 2) < 4 * 0.09 / math.sqrt(300)
    noise = np.concatenate(noise)
    expected = np.random.default_rng(0).normal(MEAN, STD, (200000, 3)) * 255
    expected = expected.round().clip(0, 255)
    np.testing.assert_allclose(noise.mean(0), expected.mean(0), rtol=0, atol=0.8)
    np.testing.assert_allclose(noise.std(0), expected.std(0), rtol=0, atol=0.8)
    untouched = _augmentation(32)(image, np.random.default_rng(0))
    assert (untouched == 255).all()


def _operated(name, strength, sign=1, pixels=PIXELS):
    image = operations()[name](Image.fromarray(pixels), strength, sign, (9, 8, 7))
    return np.asarray(image).astype(int)


def test_randaugment_operations_on_colors():
    levels = PIXELS.astype(int)
    np.testing.assert_array_equal(_operated("invert", 0.3), 255 - levels)
    inverted = np.where(levels < 256 - 230, levels, 255 - levels)
    np.testing.assert_array_equal(_operated("solarize", 0.9), inverted)
    brighter = np.where(levels < 128, np.minimum(levels + 99, 255), levels)
    np.testing.assert_array_equal(_operated("solarize_add", 0.9), brighter)
    np.testing.assert_array_equal(_operated("posterize", 0.9), levels & 0b10000000)
    np.testing.assert_array_equal(_operated("posterize", 0.2), levels & 0b11110000)
    np.testing.assert_array_equal(_operated("posterize", 1.0), 0 * levels)
    two_bits = ImageOps.posterize(Image.fromarray(PIXELS), 2)
    np.testing.assert_array_equal(_operated("posterize", 0.5), two_bits)
    for name in operations():  # All accept the highest strength.
        assert _operated(name, 1.0).shape == (40, 60, 3)
    for sign in (1, -1):
        factor = max(0.1, 1 + 0.81 * sign)
        expected = np.clip(levels * factor, 0, 255)
        assert np.abs(_operated("brightness", 0.9, sign) - expected).max() <= 1
        gray = np.asarray(Image.fromarray(PIXELS).convert("L"), float)[..., None]
        expected = np.clip(gray + factor * (levels - gray), 0, 255)
        assert np.abs(_operated("color", 0.9, sign) - expected).max() <= 1
        expected = np.clip(round(gray.mean()) + factor * (levels - round(gray.mean())), 0, 255)
        assert np.abs(_operated("contrast", 0.9, sign) - expected).max() <= 1
    assert _operated("sharpness", 1, 1).std() > levels.std() > _operated("sharpness", 1, -1).std()
    dim = (PIXELS // 4 + 60).astype("uint8")
    for name in ("auto_contrast", "equalize"):
        stretched = _operated(name, 0.5, pixels=dim)
        assert stretched.min() == 0 and stretched.max() == 255


def test_randaugment_operations_on_geometry():
    """The position of a dot shows the transform; pixels from outside have the fill color."""
    dot = np.full((41, 41, 3), 100, "uint8")
    dot[10, 30] = 255

    def position(name, strength, sign):
        moved = _operated(name, strength, sign, dot)
        return np.unravel_index(moved[..., 0].argmax(), (41, 41)), (moved == (9, 8, 7)).all(-1)

    shift = 4 / (0.45 * 41)
    assert position("translate_x", shift, 1)[0] == (10, 26)
    found, filled = position("translate_y", shift, -1)
    assert found == (14, 30) and filled[:4].all() and not filled[5:].any()
    # Source column = column + 0.3 * strength * row; rows are unchanged.
    assert position("shear_x", 1.0, 1)[0] == (10, 27)
    assert position("shear_y", 3 / (0.3 * 30.5), -1)[0] == (13, 30)
    (row, column), filled = position("rotate", 1.0, 1)
    # By 30 degrees counterclockwise around the center, (20, 20).
    assert abs(column - 20 - (10 * math.cos(math.pi / 6) - 10 * 0.5)) <= 1
    assert abs(20 - row - (10 * 0.5 + 10 * math.cos(math.pi / 6))) <= 1
    assert filled[0, 0] and filled[-1, -1]


def test_randaugment_draws_uniformly_and_applies_half(monkeypatch):
    drawn = []

    def recorded(name):
        def apply(image, strength, sign, fill):
            drawn.append((name, strength, sign))
            return image

        return apply

    names = list(operations())
    assert len(names) == 15
    table = {name: recorded(name) for name in names}
    monkeypatch.setattr("keras_spm.data.classification_augmentation.operations", lambda: table)
    generator = np.random.default_rng(0)
    for _ in range(6000):
        rand_augment(None, generator, 9.0, (0, 0, 0))
    assert abs(len(drawn) - 6000) < 4 * math.sqrt(12000 / 4)
    counts = np.array([sum(name == each for each, *_ in drawn) for name in names])
    assert np.abs(counts - 400).max() < 5 * math.sqrt(400)
    strengths = np.array([strength for _, strength, _ in drawn])
    # Normal with mean 0.9 and standard deviation 0.05, clipped two deviations above.
    assert strengths.max() == 1 and abs((strengths == 1).mean() - 0.0228) < 0.008
    assert abs(np.median(strengths) - 0.9) < 0.004
    assert abs(np.mean([sign for *_, sign in drawn])) < 0.05


def _batch(count=6, size=16):
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (count, size, size, 3), dtype="uint8")
    return images, np.eye(count, dtype="float32")


def test_mixup_equals_keras_for_the_same_weight():
    images, labels = _batch()
    layer = keras.layers.MixUp(0.8)
    weights = []
    for seed in range(400):
        mixed, mixed_labels = Mixing(0.8, 0.0)((images, labels), np.random.default_rng(seed))
        weight = mixed_labels[0, 0]
        weights.append(weight)
        if seed < 5:
            transformation = {
                "mix_weight": np.full(6, weight, "float32"),
                "permutation_order": np.arange(6)[::-1].copy(),
            }
            expected = layer.transform_images(images, transformation)
            np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-4)
            expected = layer.transform_labels(keras.ops.array(labels), transformation)
            np.testing.assert_allclose(mixed_labels, expected, rtol=0, atol=1e-6)
            assert mixed.dtype == mixed_labels.dtype == "float32"
    # A beta distribution of 0.8 and 0.8 has mean 1/2 and variance 1 / (4 * 2.6).
    assert abs(np.mean(weights) - 0.5) < 4 * math.sqrt(1 / 10.4 / 400)
    assert abs(np.var(weights) - 1 / 10.4) < 0.012


def test_cutmix_replaces_a_box_and_the_same_fraction_of_the_label():
    images, labels = _batch()
    areas = []
    for seed in range(400):
        mixed, mixed_labels = Mixing(0.0, 1.0)((images, labels), np.random.default_rng(seed))
        replaced = (mixed != images).any(axis=(0, 3))
        assert replaced.sum() == replaced.any(0).sum() * replaced.any(1).sum()
        np.testing.assert_array_equal(mixed[:, replaced], images[::-1][:, replaced])
        weight = 1 - replaced.mean()
        expected = weight * labels + (1 - weight) * labels[::-1]
        np.testing.assert_allclose(mixed_labels, expected, rtol=0, atol=1e-6)
        areas.append(replaced.mean())
    # A box of side s around a random point has s - s² / 4 of each side inside; s² is uniform.
    shares = np.sqrt(np.random.default_rng(0).random(100000))
    assert abs(np.mean(areas) - np.mean((shares - shares**2 / 4) ** 2)) < 0.06


def test_a_batch_uses_either_mixup_or_cutmix():
    images, labels = _batch()
    ways = []
    for seed in range(200):
        mixed, _ = Mixing(0.8, 1.0)((images, labels), np.random.default_rng(seed))
        ways.append(((mixed == images) | (mixed == images[::-1])).all())
    assert abs(np.mean(ways) - 0.5) < 4 * math.sqrt(0.25 / 200)
