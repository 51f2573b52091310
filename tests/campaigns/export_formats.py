"""The campaign of exports: every task, head and backbone, in every format of a backend.

Run with `KERAS_BACKEND=torch python -m tests.campaigns.export_formats [FORMAT …]`. Every model is
exported plain and fused, opened by the format's own runtime in a process without this package,
and compared with the model on 1 image of 64×64 pixels, 2 of 65×47, 3 of 33×32 and 1 of 256×320.
An export is right if outputs differ by at most 1e-4 of their largest value. A format that the
backend does not write, or not for a task, must be refused, with a backend that does, and leave no
file.

The results are rows of `export_formats.csv`, and the table in docs/pages/exports.md is written from
them; `--check` only compares the table. The exit status is 1 if an export is not right.
"""

import argparse
import csv
import functools
import pathlib
import sys
import tempfile
import time

import keras

from keras_spm import fuse
from keras_spm.export import FORMATS, ExportError, export_verified
from tests.exported import MODELS, TASKS

RESULT = pathlib.Path(__file__).with_suffix(".csv")
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "pages" / "exports.md"
BEGIN, END = (
    "<!-- formats: written by tests/campaigns/export_formats.py -->",
    "<!-- end of formats -->",
)
TOLERANCE = 1e-4
KEYS = ("backend", "format", "model", "form")
COLUMNS = (*KEYS, "difference", "seconds", "result")
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
FILES = {
    "onnx": "ONNX, `.onnx`",
    "tf_saved_model": "SavedModel, folder",
    "torch": "`torch.export`, `.pt2`",
    "stablehlo": "`jax.export`, `.stablehlo`",
    "litert": "LiteRT, `.tflite`",
    "openvino": "OpenVINO, `.xml`",
}


# {(backend, format): tasks that this backend does not write}. OpenVINO's reader of ONNX does not
# take the loops of tf2onnx.
UNSUPPORTED = {("tensorflow", "openvino"): ("ObjectDetector", "InstanceSegmenter")}


def build_form(build, form):
    """Builds a model, "plain" or "fused"."""
    return fuse(build()) if form == "fused" else build()


def export(name, build, form, folder):
    """Exports one model, and returns its row.

    Args:
        name: of a format.
        build: function () → model.
        form: "plain" or "fused".
        folder: path.
    """
    model = build_form(build, form)
    path = folder / f"model{FORMATS[name].suffix}"
    began = time.monotonic()
    row = {"difference": "", "result": "right"}
    try:
        difference = export_verified(model, path, name, tolerance=float("inf"))
        row["difference"] = f"{difference:.1e}"
        if not difference <= TOLERANCE:
            row["result"] = "differs"
    except Exception as error:
        row["result"] = f"{type(error).__name__}: {error}"[:300]
    return {**row, "seconds": f"{time.monotonic() - began:.0f}"}


def refuse(name, build, form, folder):
    """Exports in a format that this backend does not write, and returns the row."""
    path, result = folder / f"model{FORMATS[name].suffix}", "not refused"
    others = [each for each in FORMATS[name].writers if each != keras.config.backend()]
    try:
        build_form(build, form).export(path, format=name)
    except (ValueError, ExportError) as error:
        alternative = f"KERAS_BACKEND={' or '.join(others)}"
        result = "refused" if alternative in str(error) else f"without alternative: {error}"
    if any(folder.iterdir()):
        result = "leaves a file"
    return {"difference": "", "seconds": "", "result": result}


def can_be_fused(build):
    try:
        fuse(build())
    except ValueError:
        return False
    return True


def read():
    """Returns {key: row} of all results."""
    if not RESULT.exists():
        return {}
    with RESULT.open(newline="") as file:
        return {tuple(row[key] for key in KEYS): row for row in csv.DictReader(file)}


def write(rows):
    """Writes all rows, sorted."""
    with RESULT.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: [row[key] for key in KEYS]))


def table(rows):
    """Returns the Markdown table: the backends on which tasks, and a backbone, are verified."""
    columns = (*TASKS, "PVTv2SPM")
    lines = [
        f"| format | {' | '.join(f'`{name}`' for name in columns)} |",
        f"| --- | {' | '.join(['---'] * len(columns))} |",
    ]
    for name, title in FILES.items():
        cells = [_verified(rows, name, task) for task in columns]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _verified(rows, name, task):
    """The backends on which every recorded model of a task is right, and how many those are."""
    found = []
    for backend, title in BACKENDS.items():
        results = [
            row["result"]
            for row in rows
            if (row["backend"], row["format"]) == (backend, name)
            and (row["model"].partition(",")[0] if row["model"] != "any" else "") == task
        ]
        if results and set(results) == {"right"}:
            found.append(f"{title} ({len(results)})")
    return ", ".join(found) or "–"


def _cases(formats, models):
    """Yields (format, model, form, function of a folder)."""
    backend = keras.config.backend()
    for name in formats:
        if backend not in FORMATS[name].writers:
            build = TASKS["ImageClassifier"]
            yield name, "any", "plain", functools.partial(refuse, name, build, "plain")
            continue
        for model in models:
            build, task = MODELS[model], model.partition(",")[0]
            run = refuse if task in UNSUPPORTED.get((backend, name), ()) else export
            for form in ("plain", "fused") if can_be_fused(build) else ("plain",):
                yield name, model, form, functools.partial(run, name, build, form)


def main():
    """Runs the campaign on this backend, or checks the table, and returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("formats", nargs="*", help="all by default")
    parser.add_argument("--model", action="append", help="of a row; all by default")
    parser.add_argument("--check", action="store_true", help="only compare the table")
    options = parser.parse_args()
    results, wrong = read(), 0
    for name, model, form, run in (
        () if options.check else _cases(options.formats or FORMATS, options.model or MODELS)
    ):
        with tempfile.TemporaryDirectory() as folder:
            row = run(pathlib.Path(folder))
        key = (keras.config.backend(), name, model, form)
        results[key] = {**dict(zip(KEYS, key, strict=True)), **row}
        wrong += row["result"] not in ("right", "refused")
        print(*results[key].values(), sep="  ", flush=True)
        write(results.values())
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    written = f"{before}{BEGIN}\n{table(results.values())}\n{END}{after}"
    if options.check:
        return 0 if written == text else f"{PAGE.name} is outdated: run {__spec__.name}"
    PAGE.write_text(written)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
