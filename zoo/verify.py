"""Verifies the outputs of a preset's weights: `python zoo/verify.py MODEL [checks]`.

MODEL is the long name of a preset, a folder written by `zoo/port.py`, or an address on the hub.
The names and shapes of tensors do not reveal swapped tensors of the same shape or a transposed
square matrix; the outputs do. Checks:

--reference FILE    compare with the outputs of the original code: a .safetensors file with
                    `images` (normalized) and any of `P2` to `P5`, `pooled` and `logits`, see
                    `keras_spm.compare`. Needs no network.
--image FILE        compare the first logits with those on the card, for image 000000039769 of
                    COCO's validation split.
--imagenet FOLDER   measure top-1 accuracy on ImageNet-1K's validation images, in one folder per
                    class, sorted in the order of the classes.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import keras
import numpy as np
from safetensors.numpy import load_file

import keras_spm
from keras_spm.cards import Card, read_card, read_card_file

LOGITS_TOLERANCE = 1e-4  # The logits on the cards have four decimals.
TOP1_TOLERANCE = 0.1  # Percentage points, for differences between JPEG decoders.
_BATCH = 64


def check_reference(model: keras_spm.ImageClassifier, file: str) -> bool:
    """Returns whether the outputs equal those in a reference file."""
    comparison = keras_spm.compare(model, load_file(file))
    print(comparison)
    return comparison.first_mismatch is None


def check_first_logits(model: keras_spm.ImageClassifier, card: Card, file: str) -> bool:
    """Returns whether the first logits of an image equal those on the card.

    Raises:
        ValueError: if the card has no logits.
    """
    if card.first_logits is None:
        raise ValueError("The card has no `first_logits` to compare with.")
    preprocessing = keras_spm.data.ImagePreprocessing((224, 224), interpolation="bilinear")
    logits = model.predict(preprocessing([file]), verbose=0)[0, : len(card.first_logits)]
    difference = np.abs(logits - card.first_logits).max()
    print(f"first logits {logits}, card {card.first_logits}, largest difference {difference:.1e}")
    return difference <= LOGITS_TOLERANCE


def check_top1(model: keras_spm.ImageClassifier, card: Card, folder: str) -> bool:
    """Measures top-1 accuracy; returns whether it equals the published one, if there is one."""
    measured = measure_top1(model, folder)
    print(f"top-1 {measured:.3f} %, published {card.published_top1} % ({card.published_by})")
    return card.published_top1 is None or abs(measured - card.published_top1) <= TOP1_TOLERANCE


def measure_top1(model: keras_spm.ImageClassifier, folder: str) -> float:
    """Returns the top-1 accuracy on a folder of images in percent.

    Raises:
        ValueError: if the number of subfolders is not the number of classes, or they are empty.
    """
    classes = sorted(path for path in pathlib.Path(folder).iterdir() if path.is_dir())
    if len(classes) != model.num_classes:
        raise ValueError(
            f"{folder} must have {model.num_classes} folders, one per class. "
            f"Received: {len(classes)}"
        )
    files = [(file, label) for label, path in enumerate(classes) for file in sorted(path.iterdir())]
    if not files:
        raise ValueError(f"The folders of {folder} contain no images.")
    progress, correct = keras.utils.Progbar(len(files)), 0
    for start in range(0, len(files), _BATCH):
        paths, labels = zip(*files[start : start + _BATCH], strict=True)
        outputs = model.predict_on_batch(model.preprocessing(paths))
        correct += int((np.argmax(outputs, axis=-1) == labels).sum())
        progress.add(len(labels))
    return 100 * correct / len(files)


def _card(name):
    """Returns the card of a ported folder or a preset; an empty card for other models."""
    if (path := pathlib.Path(name, "card.json")).is_file():
        return read_card_file(path)
    return read_card(name) if name in keras_spm.list_presets() else Card()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--reference", metavar="FILE")
    parser.add_argument("--image", metavar="FILE")
    parser.add_argument("--imagenet", metavar="FOLDER")
    options = parser.parse_args(arguments)
    if not (options.reference or options.image or options.imagenet):
        parser.error("at least one check is required: --reference, --image or --imagenet")
    try:
        card = _card(options.model)
        model = keras_spm.ImageClassifier.from_preset(options.model)
        passed = []
        if options.reference:
            passed.append(check_reference(model, options.reference))
        if options.image:
            passed.append(check_first_logits(model, card, options.image))
        if options.imagenet:
            passed.append(check_top1(model, card, options.imagenet))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print("verified" if all(passed) else "FAILED: the outputs differ")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
