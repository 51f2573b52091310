"""Writes the README's table of models from the code: `python zoo/table.py [--check]`."""

import argparse
import math
import pathlib
import sys

import keras_spm

README = pathlib.Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- models: written by zoo/table.py -->", "<!-- end of models -->"
INPUT_SHAPE = (1, 224, 224, 3)
CLASSES = 1000


def table():
    """Returns the Markdown table: every PVT v2 variant without and with SPM."""
    lines = [
        "| variant | `PVTv2`: parameters, M | multiply-adds, G "
        "| `PVTv2SPM`: parameters, M | multiply-adds, G |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in keras_spm.PVTv2.presets:
        cells = [name]
        for cls in (keras_spm.PVTv2, keras_spm.PVTv2SPM):
            backbone = cls.from_preset(name, load_weights=False)
            model = keras_spm.ImageClassifier(backbone, CLASSES)
            parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
            multiply_adds = model.multiply_adds(INPUT_SHAPE)
            cells += [f"{parameters / 1e6:.3f}", f"{multiply_adds / 1e9:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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
