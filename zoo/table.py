"""Writes the table of models in the README: `python zoo/table.py [--check]`.

On JAX and TensorFlow no weights are drawn.
"""

import argparse
import math
import pathlib
import sys
from collections.abc import Iterator

import keras_spm
from keras_spm.backbones import PyramidBackbone
from keras_spm.cards import read_card
from keras_spm.converters.validation import build_without_memory
from keras_spm.registry import BACKBONES

README = pathlib.Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- models: written by zoo/table.py -->", "<!-- end of models -->"
INPUT_SHAPE = (1, 224, 224, 3)
NUM_CLASSES = 1000


def families() -> Iterator[tuple[type[PyramidBackbone], type[PyramidBackbone]]]:
    """Yields each family's class and its subclass with Stepwise Patch Merging."""
    for spm in BACKBONES.values():
        if spm.default_merging == "spm":
            yield spm.__base__, spm


def table() -> str:
    """Returns the Markdown table of all variants, with and without SPM."""
    lines = [
        "| variant | parameters | MACs, G "
        "| with SPM: parameters | MACs, G | reference formulation, G "
        "| published weights | top-1, % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for family, spm in families():
        for name in family.presets:
            model, spm_model = (_classifier(cls, name) for cls in (family, spm))
            cells = [
                f"`{family.__name__}` {name}",
                *_figures(model),
                *_figures(spm_model),
                _billions(spm_model.macs(INPUT_SHAPE) + _saved_macs(spm_model.backbone)),
                *_published(f"{family.preset_prefix}{name}"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _classifier(cls, name):
    backbone = build_without_memory(lambda: cls.from_preset(name, load_weights=False))
    return keras_spm.ImageClassifier(backbone, NUM_CLASSES)


def _figures(model):
    parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return f"{parameters:,}", _billions(model.macs(INPUT_SHAPE))


def _published(preset):
    card = read_card(preset)
    if card.repository is None:
        return "–", "–"
    return f"`{card.repository}`", f"{card.published_top1:.1f}"


def _saved_macs(backbone):
    """MACs that the reference formulation of guided attention needs in addition.

    It projects all five tokens of a window to queries, keys and values.
    """
    saved, size = 0, INPUT_SHAPE[1] // 4
    for stage in backbone.stages[1:]:
        size //= 2
        enhancement = stage.merging.guided_local_enhancement
        channels, tokens = stage.merging.output_dim, 5
        own = 3 * channels**2 + 2 * tokens * enhancement.num_heads * channels
        reference = 3 * tokens * channels**2 + 2 * tokens**2 * channels
        saved += size**2 * (reference - own)
    return saved


def _billions(count):
    return f"{count / 1e9:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the table of models in the README.")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the table is outdated")
    options = parser.parse_args()
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    written = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if options.check:
        sys.exit(0 if written == text else f"{README.name} is outdated: run python zoo/table.py")
    README.write_text(written)


if __name__ == "__main__":
    main()
