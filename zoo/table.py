"""Writes the README's table of models from the code: `python zoo/table.py [--check]`."""

import argparse
import math
import pathlib
import sys

import keras_spm
from keras_spm.cards import read_card

README = pathlib.Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- models: written by zoo/table.py -->", "<!-- end of models -->"
INPUT_SHAPE = (1, 224, 224, 3)
CLASSES = 1000
FAMILIES = (
    (keras_spm.PVT, keras_spm.PVTSPM),
    (keras_spm.PVTv2, keras_spm.PVTv2SPM),
    (keras_spm.Swin, keras_spm.SwinSPM),
)


def table():
    """Returns the Markdown table: every variant without and with SPM."""
    lines = [
        "| variant | parameters | MACs, G "
        "| with SPM: parameters | MACs, G | in the reference's form, G "
        "| published weights | top-1, % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for plain, spm in FAMILIES:
        for name in plain.presets:
            model, spm_model = (_classifier(cls, name) for cls in (plain, spm))
            cells = [
                f"`{plain.__name__}` {name}",
                *_figures(model),
                *_figures(spm_model),
                _billions(spm_model.macs(INPUT_SHAPE) + _spared(spm_model.backbone)),
                *_published(f"{plain.preset_prefix}{name}"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _classifier(cls, name):
    return keras_spm.ImageClassifier(cls.from_preset(name, load_weights=False), CLASSES)


def _figures(model):
    parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return f"{parameters:,}", _billions(model.macs(INPUT_SHAPE))


def _published(preset):
    card = read_card(preset)
    if card.repository is None:
        return "–", "–"
    return f"`{card.repository}`", f"{card.published_top1:.1f}"


def _spared(backbone):
    """What guided attention spends more where keys, values and all queries are made."""
    spared, size = 0, INPUT_SHAPE[1] // 4
    for stage in backbone.stages[1:]:
        size //= 2
        enhancement = stage.merging.guided_local_enhancement
        channels, tokens = stage.merging.output_dim, 5
        ours = 3 * channels**2 + 2 * tokens * enhancement.num_heads * channels
        reference = 3 * tokens * channels**2 + 2 * tokens**2 * channels
        spared += size**2 * (reference - ours)
    return spared


def _billions(count):
    return f"{count / 1e9:.2f}"


def main():
    parser = argparse.ArgumentParser(description="Writes the README's table of models.")
    parser.add_argument("--check", action="store_true", help="only compare, exit 1 if it differs")
    options = parser.parse_args()
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    written = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if options.check:
        sys.exit(0 if written == text else f"{README.name} differs: run python zoo/table.py")
    README.write_text(written)


if __name__ == "__main__":
    main()
