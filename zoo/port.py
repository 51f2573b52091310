"""Converts a checkpoint to a preset folder: `python zoo/port.py PRESET FOLDER`.

The folder contains the model in this library's format (`config.json`, `model.safetensors`)
and its card, `card.json`, with the revision and sha256 of the checkpoint. `--update-card` also
writes both to the card in the library.

The checkpoint is the one on the preset's card, or with `--source` any file that
`keras_spm.load_torch_weights` reads. `zoo/verify.py` verifies the result.

`--transplant IMAGES`, for a preset with Stepwise Patch Merging, trains its mergings to replace
those of the checkpoint, from a folder of a few hundred images without labels, see
`keras_spm.transplant`. The card then has the explained variance of each merging.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import keras_spm
from keras_spm.cards import Card, card_path, read_card, write_card
from keras_spm.weights import hub
from keras_spm.weights.formats import sha256_of


def port_published(preset: str) -> tuple[keras_spm.ImageClassifier, Card]:
    """Loads the published weights of a preset.

    Args:
        preset: long name.

    Returns:
        (classifier, card): the card has the revision and sha256 of the weights.

    Raises:
        ValueError: if no weights are published.
        keras_spm.weights.WeightsError: if they cannot be downloaded or do not fit.
    """
    model = keras_spm.ImageClassifier.from_preset(preset)
    _check_complete(model.load_report, preset)
    card = read_card(preset)
    snapshot = hub.fetch_snapshot(card.address)
    weights = hub.fetch_weights(snapshot, card.sha256)
    return model, dataclasses.replace(card, revision=snapshot.commit, sha256=sha256_of(weights))


def port_file(
    preset: str, source: str, class_names: Sequence[str] | None = None
) -> tuple[keras_spm.ImageClassifier, Card]:
    """Loads a checkpoint of a preset's variant.

    Args:
        preset: long name.
        source: path of a file that `load_torch_weights` reads.
        class_names: list of strings; those of the preset's card by default.

    Returns:
        (classifier, card): the card has the sha256 of the checkpoint.

    Raises:
        ValueError: if the checkpoint lacks weights of the classifier.
        keras_spm.weights.WeightsError: if it does not fit.
    """
    classes = {} if class_names is None else _classes(class_names)
    model = keras_spm.ImageClassifier.from_preset(preset, load_weights=False, **classes)
    _check_complete(keras_spm.load_torch_weights(model, source), source)
    published = read_card(preset)
    card = Card(
        sha256=sha256_of(source),
        preprocessing=published.preprocessing,
        classes=published.classes if class_names is None else None,
    )
    return model, card


def port_transplanted(
    preset: str, images: str, source: str | None = None, class_names: Sequence[str] | None = None
) -> tuple[keras_spm.ImageClassifier, Card]:
    """Loads the checkpoint of the original family into a preset with Stepwise Patch Merging.

    Args:
        preset: long name of a preset with Stepwise Patch Merging.
        images: folder of images.
        source, class_names: as in `port_file`; without `source`, the published weights.

    Returns:
        (classifier, card): the card has what was measured, and the license of the weights.

    Raises:
        ValueError: if the checkpoint lacks weights, or has nothing to replace.
        keras_spm.weights.WeightsError: if it does not fit.
    """
    classes = {} if class_names is None else _classes(class_names)
    model = keras_spm.ImageClassifier.from_preset(
        preset, weights=source, transplant=images, **classes
    )
    _check_complete(model.load_report, source or preset, but_for="/merging/")
    print(report := model.transplant_report)
    published = read_card(preset.replace("_spm_", "_"))
    measured = {
        "images": report.images,
        "held_out_images": report.held_out_images,
        "steps": list(report.steps),
        "explained_variance": {
            stage: round(fit.after, 4) for stage, fit in report.mergings.items()
        },
    }
    card = Card(
        sha256=None if source is None else sha256_of(source),
        license=published.license if source is None else None,
        preprocessing=published.preprocessing,
        classes=published.classes if class_names is None else None,
        transplant=measured,
    )
    return model, card


def _classes(class_names):
    return {"num_classes": len(class_names), "class_names": class_names}


def _check_complete(report, source, but_for="\0"):
    print(report)
    missing = [path for path in report.missing_keys if but_for not in path]
    if missing:
        raise ValueError(f"{source} lacks the weights of {', '.join(missing)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", help="long name of a preset, see keras_spm.list_presets()")
    parser.add_argument("folder", help="folder to write")
    parser.add_argument("--source", help=".safetensors, .pth, .pt or .bin file")
    parser.add_argument("--transplant", metavar="IMAGES", help="folder of images without labels")
    parser.add_argument("--classes", help="text file with one class name per line")
    parser.add_argument("--update-card", action="store_true", help="update the library's card")
    options = parser.parse_args(arguments)
    folder = pathlib.Path(options.folder)
    try:
        # Before a download and a conversion that would be lost.
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise FileExistsError(f"{folder} must be a new or an empty folder.")
        names = options.classes and pathlib.Path(options.classes).read_text().splitlines()
        if options.transplant is not None:
            model, card = port_transplanted(
                options.preset, options.transplant, options.source, names
            )
        elif options.source is None:
            model, card = port_published(options.preset)
        else:
            model, card = port_file(options.preset, options.source, names)
        model.save_to_preset(folder)
        write_card(card, folder / "card.json")
        if options.update_card:
            write_card(card, card_path(options.preset))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(f"{options.preset} written to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
