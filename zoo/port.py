"""Turns a checkpoint into a preset folder: `python zoo/port.py PRESET FOLDER`.

The folder then holds the model in this library's own form (`config.json`,
`model.safetensors`) and its card, `card.json`, with the revision and sha256 of what was
ported. `--update-card` writes these two into the library's card as well.

The checkpoint is the one that the preset's card names, or with `--source` any other that
`keras_spm.load_torch_weights` reads, in any layout. `zoo/verify.py` checks the result.
"""

import argparse
import dataclasses
import pathlib
import sys

import keras_spm
from keras_spm.cards import Card
from keras_spm.cards import card_path
from keras_spm.cards import read_card
from keras_spm.cards import write_card
from keras_spm.weights import hub
from keras_spm.weights.formats import sha256_of


def port_published(preset):
    """Returns (classifier, card) of what a preset's card names on the hub.

    Raises:
        ValueError: where it names nothing.
        keras_spm.weights.WeightsError: where the weights cannot be had or do not fit.
    """
    model = keras_spm.ImageClassifier.from_preset(preset)
    _check_complete(model.load_report, preset)
    card = read_card(preset)
    snapshot = hub.fetch_snapshot(card.address)
    weights = hub.fetch_weights(snapshot, card.sha256)
    return model, dataclasses.replace(card, revision=snapshot.commit, sha256=sha256_of(weights))


def port_file(preset, source, class_names=None):
    """Returns (classifier, card) of a checkpoint of this preset's variant.

    Args:
        preset: long name.
        source: path of a file that `load_torch_weights` reads.
        class_names: list of strings; by default those of the preset's card.

    Raises:
        ValueError: where the checkpoint leaves a part of the classifier fresh.
        keras_spm.weights.WeightsError: where it does not fit.
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


def _classes(class_names):
    return {"num_classes": len(class_names), "class_names": class_names}


def _check_complete(report, source):
    print(report)
    if report.missing_keys:
        raise ValueError(f"{source} leaves these without weights: {', '.join(report.missing_keys)}")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", help="long name, as keras_spm.list_presets() has it")
    parser.add_argument("folder", help="the folder to write")
    parser.add_argument("--source", help="a .safetensors, .pth, .pt or .bin file")
    parser.add_argument("--classes", help="a text file with a class name a line")
    parser.add_argument("--update-card", action="store_true", help="write revision and sha256")
    options = parser.parse_args(arguments)
    try:
        if options.source is None:
            model, card = port_published(options.preset)
        else:
            names = options.classes and pathlib.Path(options.classes).read_text().splitlines()
            model, card = port_file(options.preset, options.source, names)
        model.save_to_preset(options.folder)
        write_card(card, pathlib.Path(options.folder, "card.json"))
        if options.update_card:
            write_card(card, card_path(options.preset))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.preset} written to {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
