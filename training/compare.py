"""Compares Stepwise Patch Merging with the family's own merging on scenes of digits.

    python training/compare.py            trains missing runs and writes the table
    python training/compare.py --check    only compares the table with the results

Finished runs are rows of results.csv and are not trained again. The table in README.md is
generated from them.
"""

import argparse
import collections.abc
import csv
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
RESULTS, README = HERE / "results.csv", HERE / "README.md"
BEGIN, END = "<!-- results: written by compare.py -->", "<!-- end of results -->"

# Columns that identify a run, and columns of its result.
KEYS = ("recipe", "backend", "merging", "seed")
MEASURED = (
    *("test_mean_iou", "test_pixel_accuracy", "test_AP", "test_AP50", "test_mask_AP"),
    "seconds",
)
SEGMENTATION, DETECTION = "segmentation_digit_scenes", "detection_digit_scenes"
INSTANCES = "instances_digit_scenes"
FASTEST = "tensorflow"
RUNS = (
    *(
        (SEGMENTATION, FASTEST, merging, seed)
        for seed in range(3)
        for merging in ("spm", "default")
    ),
    *((DETECTION, FASTEST, merging, 0) for merging in ("spm", "default")),
    *((task, each, "spm", 0) for task in (SEGMENTATION, DETECTION) for each in ("jax", "torch")),
    *((INSTANCES, each, "spm", 0) for each in ("jax", "tensorflow", "torch")),
)


def train(recipe: str, backend: str, merging: str, seed: int) -> dict[str, str]:
    """Trains in a new process. Returns the row of the run."""
    folder = HERE.parent / "runs" / "compare" / f"{recipe}-{backend}-{merging}-{seed}"
    settings = ["--set", f"merging={merging}", "--set", f"seed={seed}"]
    subprocess.run(
        [sys.executable, HERE / "train.py", recipe, "--output", folder, *settings],
        env={**os.environ, "KERAS_BACKEND": backend},
        check=True,
    )
    result = json.loads((folder / "result.json").read_text())
    row = dict(zip(KEYS, (recipe, backend, merging, str(seed)), strict=True))
    return row | {name: f"{result[name]:.5g}" for name in MEASURED if name in result}


def read_results() -> dict[tuple[str, ...], dict[str, str]]:
    """Returns {run: row} of all finished runs."""
    if not RESULTS.exists():
        return {}
    with RESULTS.open(newline="") as file:
        return {tuple(row[key] for key in KEYS): row for row in csv.DictReader(file)}


def write_results(rows: collections.abc.Iterable[dict[str, str]]) -> None:
    """Writes all rows atomically, sorted by run."""
    unfinished = RESULTS.with_suffix(".unfinished")
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*KEYS, *MEASURED], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: [row[key] for key in KEYS]))
    unfinished.replace(RESULTS)


def summary(rows: collections.abc.Iterable[dict[str, str]]) -> str:
    """Returns the Markdown table of mIoU or AP over the seeds, where both mergings were trained."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        mergings = values.setdefault((row["recipe"], row["backend"]), {})
        value = float(row["test_mean_iou"] or row["test_AP"])
        mergings.setdefault(row["merging"], []).append(value)
    lines = [
        "| recipe | backend | merging | seeds | mIoU or AP: mean | lowest | highest |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for run, mergings in values.items():
        for merging, found in mergings.items() if len(mergings) > 1 else ():
            shares = (f"{each:.3f}" for each in (sum(found) / len(found), min(found), max(found)))
            lines.append(f"| {' | '.join([*run, merging, str(len(found)), *shares])} |")
    return "\n".join(lines)


def table(rows: collections.abc.Iterable[dict[str, str]]) -> str:
    """Returns the Markdown table of all runs."""
    lines = [
        "| recipe | backend | merging | seed "
        "| mIoU | pixel accuracy | AP | AP50 | mask AP | minutes |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        shares = (f"{float(row[name]):.3f}" if row[name] else "" for name in MEASURED[:-1])
        cells = [*(row[key] for key in KEYS), *shares, f"{float(row['seconds']) / 60:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares mergings on the scenes of digits.")
    parser.add_argument("--check", action="store_true", help="only compare, exit 1 if it differs")
    options = parser.parse_args()
    results = read_results()
    if not options.check:
        for run in RUNS:
            key = tuple(map(str, run))
            if key not in results:
                results[key] = train(*run)
                write_results(results.values())
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    rows = read_results().values()
    written = f"{before}{BEGIN}\n{summary(rows)}\n\n{table(rows)}\n{END}{after}"
    if options.check:
        sys.exit(0 if written == text else "README.md differs: run python training/compare.py")
    README.write_text(written)


if __name__ == "__main__":
    main()
