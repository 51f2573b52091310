"""Checks a preset's weights by what they compute: `python zoo/verify.py MODEL [checks]`.

MODEL is the long name of a preset, a folder of `zoo/port.py`, or an address on the hub.
Names and shapes of tensors say nothing of two equal-shaped ones that were swapped, or of a
square matrix that was transposed; numbers do. The checks:

--reference FILE    what the original code computed, stage by stage: a .safetensors file with
                    `images` (normalized) and any of `P2` to `P5`, `pooled` and `logits`, as
                    `keras_spm.compare` takes them. Needs no network.
--image FILE        the first logits on the card, for image 000000039769 of COCO's validation
                    part.
--imagenet FOLDER   top-1 accuracy on ImageNet-1K's validation images, in one folder a class,
                    sorted as the classes are.
"""

import argparse
import pathlib
import sys

import keras
import numpy as np
from safetensors.numpy import load_file

import keras_spm
from keras_spm.cards import Card
from keras_spm.cards import read_card
from keras_spm.cards import read_card_file

LOGITS_TOLERANCE = 1e-4  # The logits on the cards have four digits.
TOP1_TOLERANCE = 0.1  # Percent; decoders of JPEG differ by so much.
_BATCH = 64


def check_reference(model, file):
    """Compares all outputs with a reference file's; returns whether they agree."""
    comparison = keras_spm.compare(model, load_file(file))
    print(comparison)
    return comparison.first_mismatch is None


def check_first_logits(model, card, file):
    """Compares the first logits with the card's; returns whether they agree."""
    if card.first_logits is None:
        raise ValueError("The card has no `first_logits` to compare with.")
    preprocessing = keras_spm.data.ImagePreprocessing((224, 224), interpolation="bilinear")
    logits = model.predict(preprocessing([file]), verbose=0)[0, : len(card.first_logits)]
    largest = np.abs(logits - card.first_logits).max()
    print(f"first logits {logits}, on the card {card.first_logits}: {largest:.1e} apart")
    return largest <= LOGITS_TOLERANCE


def check_top1(model, card, folder):
    """Measures top-1 accuracy; returns whether it is the published one, where one is."""
    measured = measure_top1(model, folder)
    print(f"top-1 {measured:.3f} %, published {card.published_top1} % ({card.published_by})")
    return card.published_top1 is None or abs(measured - card.published_top1) <= TOP1_TOLERANCE


def measure_top1(model, folder):
    """Returns the percentage of images whose likeliest class is their folder's.

    Raises:
        ValueError: where there are not as many folders as classes.
    """
    classes = sorted(path for path in pathlib.Path(folder).iterdir() if path.is_dir())
    if len(classes) != model.num_classes:
        raise ValueError(
            f"{folder} must hold one folder a class, {model.num_classes}. It holds {len(classes)}."
        )
    files = [(file, label) for label, path in enumerate(classes) for file in sorted(path.iterdir())]
    progress, right = keras.utils.Progbar(len(files)), 0
    for start in range(0, len(files), _BATCH):
        paths, labels = zip(*files[start : start + _BATCH], strict=True)
        outputs = model.predict_on_batch(model.preprocessing(paths))
        right += int((np.argmax(outputs, axis=-1) == labels).sum())
        progress.add(len(labels))
    return 100 * right / len(files)


def _card(name):
    """The card of a ported folder, of a preset, or an empty one."""
    if (path := pathlib.Path(name, "card.json")).is_file():
        return read_card_file(path)
    return read_card(name) if name in keras_spm.list_presets() else Card()


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--reference", metavar="FILE")
    parser.add_argument("--image", metavar="FILE")
    parser.add_argument("--imagenet", metavar="FOLDER")
    options = parser.parse_args(arguments)
    if not (options.reference or options.image or options.imagenet):
        parser.error("name a check: --reference, --image or --imagenet")
    try:
        card = _card(options.model)
        model = keras_spm.ImageClassifier.from_preset(options.model)
        agree = []
        if options.reference:
            agree.append(check_reference(model, options.reference))
        if options.image:
            agree.append(check_first_logits(model, card, options.image))
        if options.imagenet:
            agree.append(check_top1(model, card, options.imagenet))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("verified" if all(agree) else "NOT what the original computes")
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
