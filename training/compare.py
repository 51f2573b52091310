"""Compares Stepwise Patch Merging with the family's own merging.

    python training/compare.py --data FOLDER   trains missing runs, writes the tables and the plot
    python training/compare.py camvid --data FOLDER   of these studies only
    python training/compare.py --check         only compares the tables with the results

FOLDER has the data sets that are files, a folder for each: `camvid` and `cifar10`. Without it,
only the scenes of digits are trained on. Finished runs are rows of results.csv and are not trained
again, so the comparison can be interrupted, and several can run side by side. The tables in
README.md and the plot, comparison.png, are made from the rows.
"""

import argparse
import collections
import collections.abc
import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys

import filelock
import scipy.stats
from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).parent
RESULTS, README, PLOT = (HERE / name for name in ("results.csv", "README.md", "comparison.png"))
BEGIN, END = "<!-- results: written by compare.py -->", "<!-- end of results -->"
FOLDER = HERE.parent / "runs" / "compare"

# Columns that identify a run, and columns of its result.
KEYS = ("study", "backend", "merging", "start", "seed")
MEASURED = (
    *("test_accuracy", "test_mean_iou", "test_pixel_accuracy"),
    *("test_AP", "test_AP50", "test_mask_AP", "seconds"),
)
FASTEST = "tensorflow"


@dataclasses.dataclass(frozen=True)
class Study:
    """A training that is repeated.

    Attributes:
        recipe: name of the recipe.
        metric: that is compared.
        settings: values of the recipe's keys.
        data: name of the data set's folder; empty for data that a recipe composes itself.
    """

    recipe: str
    metric: str
    settings: tuple[str, ...] = ()
    data: str = ""


def _camvid(preset, *settings, epochs=30):
    return Study(
        *("segmentation_folder", "test_mean_iou"),
        (
            *(f"preset={preset}", "load_weights=false", "pyramid_channels=64", *settings),
            *("head_channels=64", "image_size=160", "test_min_size=180", "test_max_size=240"),
            *(f"epochs={epochs}", "learning_rate=0.001"),
        ),
        "camvid",
    )


STUDIES = {
    "classification_digits": Study("classification_digits", "test_accuracy"),
    "segmentation_digit_scenes": Study("segmentation_digit_scenes", "test_mean_iou"),
    "detection_digit_scenes": Study("detection_digit_scenes", "test_AP"),
    "instances_digit_scenes": Study("instances_digit_scenes", "test_AP"),
    "camvid": _camvid("pvt_v2_mini"),
    # A step with Stepwise Patch Merging takes 1.26 times the processor time (median of 9
    # alternating measurements, one core of an AMD EPYC).
    "camvid_equal_time": _camvid("pvt_v2_mini", epochs=38),
    "camvid_pvt": _camvid("pvt_mini"),
    "camvid_swin": _camvid("swin_mini", "pyramid_norms=true"),
    "cifar10": Study(
        *("classification_folder", "test_accuracy"),
        (
            *("preset=pvt_v2_mini", "load_weights=false", "layer_decay=1", "image_size=64"),
            *("crop_pct=1", "crop_scale=0.6", "randaugment_magnitude=0", "epochs=5"),
            *("batch_size=64", "verify_images=false"),
        ),
        "cifar10",
    ),
}
# Studies of the default merging alone. Their runs take as long as those of another study with
# Stepwise Patch Merging, and are compared with them.
EQUAL_TIME = {"camvid_equal_time": "camvid"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training. `start` is `"random"`, or the study whose backbone the run starts from."""

    study: str
    backend: str
    merging: str
    start: str = "random"
    seed: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        """The row's columns `KEYS`."""
        return tuple(str(getattr(self, name)) for name in KEYS)

    @property
    def folder(self) -> pathlib.Path:
        """The run folder."""
        return FOLDER / "-".join(self.key)


def _pairs(study, seeds, start="random"):
    """Yields runs of both mergings."""
    for seed in seeds:
        for merging in ("spm", "default"):
            yield Run(study, FASTEST, merging, start, seed)


RUNS = (
    *_pairs("segmentation_digit_scenes", range(3)),
    *_pairs("detection_digit_scenes", range(3)),
    *(
        Run(f"{task}_digit_scenes", backend, "spm")
        for task in ("segmentation", "detection", "instances")
        for backend in ("jax", "tensorflow", "torch")
    ),
    *(Run("classification_digits", backend, "spm") for backend in ("jax", "tensorflow", "torch")),
    *_pairs("camvid", range(5)),
    *_pairs("cifar10", range(3)),
    *_pairs("camvid", range(5), start="cifar10"),
    *(
        Run("camvid", FASTEST, merging, seed=seed)
        for seed in range(3)
        for merging in ("msa", "gle", "default+spm")
    ),
    *(Run("camvid_equal_time", FASTEST, "default", seed=seed) for seed in range(5)),
    *_pairs("camvid_swin", range(3)),
    *_pairs("camvid_pvt", range(3)),
)


def train(run: Run, data: pathlib.Path | None) -> dict[str, str]:
    """Trains in a new process. Returns the row of the run."""
    study = STUDIES[run.study]
    settings = [*study.settings, f"merging={run.merging}", f"seed={run.seed}"]
    if run.start != "random":
        settings += [f"preset={backbone(run, data)}", "load_weights=true"]
    command = [sys.executable, HERE / "train.py", study.recipe, "--output", run.folder]
    command += [part for each in settings for part in ("--set", each)]
    command += ["--data", data / study.data] if study.data else []
    subprocess.run(command, env={**os.environ, "KERAS_BACKEND": run.backend}, check=True)
    result = json.loads((run.folder / "result.json").read_text())
    row = dict(zip(KEYS, run.key, strict=True))
    return row | {name: f"{result[name]:.5g}" for name in MEASURED if name in result}


def trained(run: Run, data: pathlib.Path | None) -> pathlib.Path:
    """Returns the file of a run's best model, trained if it is missing."""
    file = run.folder / "best.keras"
    with lock(run.folder.name):
        if run.key not in read_results() or not file.exists():
            add_row(train(run, data))
    return file


def backbone(run: Run, data: pathlib.Path | None) -> pathlib.Path:
    """Returns the preset folder of the backbone that a run starts from, trained if it is missing.

    There are three such backbones for each merging.
    """
    source = dataclasses.replace(run, study=run.start, start="random", seed=run.seed % 3)
    preset = source.folder / "backbone"
    if not preset.exists():
        program = (
            "import keras, keras_spm, sys; "
            "keras.saving.load_model(sys.argv[1]).backbone.save_to_preset(sys.argv[2])"
        )
        environment = {**os.environ, "KERAS_BACKEND": run.backend}
        command = [sys.executable, "-c", program, trained(source, data), preset]
        subprocess.run(command, env=environment, check=True)
    return preset


def read_results(
    path: pathlib.Path = RESULTS, keys: tuple[str, ...] = KEYS
) -> dict[tuple[str, ...], dict[str, str]]:
    """Returns {run: row} of all finished runs of a file, by the columns that identify a run."""
    with path.open(newline="") as file:
        return {tuple(row[key] for key in keys): row for row in csv.DictReader(file)}


def add_row(
    row: dict[str, str], path: pathlib.Path = RESULTS, keys: tuple[str, ...] = KEYS
) -> None:
    """Writes all rows of a file atomically, sorted by run, with another one."""
    with lock(path.stem):
        rows = [*(read_results(path, keys) | {tuple(row[key] for key in keys): row}).values()]
        columns = dict.fromkeys(name for each in rows for name in each)
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: [row[key] for key in keys]))
        unfinished.replace(path)


def lock(name: str) -> filelock.FileLock:
    """Returns a lock between processes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(FOLDER / f"{name}.lock")


def by_seed(
    rows: collections.abc.Iterable[dict[str, str]],
) -> dict[tuple[str, str, str], dict[str, dict[str, float]]]:
    """Returns {(study, backend, start): {merging: {seed: metric}}}.

    Only where a merging can be compared with the default. The default merging is the first.
    """
    found: dict = collections.defaultdict(lambda: collections.defaultdict(dict))
    for row in rows:
        value = float(row[STUDIES[row["study"]].metric])
        studies = [row["study"]]
        if row["merging"] == "spm":
            studies += [study for study, other in EQUAL_TIME.items() if other == row["study"]]
        for study in studies:
            found[study, row["backend"], row["start"]][row["merging"]][row["seed"]] = value
    return {
        key: {"default": mergings["default"], **mergings}
        for key, mergings in found.items()
        if len(mergings) > 1 and "default" in mergings
    }


def summary(rows: collections.abc.Iterable[dict[str, str]]) -> str:
    """Returns the Markdown table of means over seeds, and of the differences of equal seeds."""
    lines = [
        "| study | start | merging | metric | seeds | mean ± standard deviation | default "
        "| difference of equal seeds | p |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (study, _, start), mergings in by_seed(rows).items():
        for name in [*mergings][1:]:
            seeds = sorted(mergings["default"].keys() & mergings[name].keys())
            if not seeds:
                continue
            own, default = ([mergings[key][seed] for seed in seeds] for key in (name, "default"))
            cells = [
                *(study, start, name, STUDIES[study].metric.removeprefix("test_")),
                *(str(len(seeds)), _spread(own), _spread(default)),
                _spread([left - right for left, right in zip(own, default, strict=True)], "+"),
                f"{scipy.stats.ttest_rel(own, default).pvalue:.2f}" if len(seeds) > 2 else "–",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values, sign=""):
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.3f}{deviation}"


def table(rows: collections.abc.Iterable[dict[str, str]]) -> str:
    """Returns the Markdown table of all runs."""
    titles = ("accuracy", "mIoU", "pixel accuracy", "AP", "AP50", "mask AP", "minutes")
    lines = [
        f"| {' | '.join([*KEYS, *titles])} |",
        f"| {' | '.join(['---'] * 4 + ['---:'] * (1 + len(titles)))} |",
    ]
    for row in rows:
        values = (f"{float(row[name]):.3f}" if row[name] else "" for name in MEASURED[:-1])
        cells = [*(row[key] for key in KEYS), *values, f"{float(row['seconds']) / 60:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(rows: collections.abc.Iterable[dict[str, str]]) -> Figure:
    """Returns a panel for each comparison: the mergings beside each other, a line for each seed."""
    comparisons = by_seed(rows)
    figure = Figure(figsize=(3 * len(comparisons), 3), layout="constrained")
    panels = figure.subplots(1, len(comparisons), squeeze=False)[0]
    for panel, ((study, _, start), mergings) in zip(panels, comparisons.items(), strict=True):
        for seed in sorted(set().union(*mergings.values())):
            found = [(i, each[seed]) for i, each in enumerate(mergings.values()) if seed in each]
            panel.plot(*zip(*found, strict=True), "o-", color="#219ebc")
        panel.set_xticks(range(len(mergings)), [*mergings], fontsize=8)
        panel.set_title(f"{study}\n{start} weights", fontsize=9)
        panel.set_ylabel(STUDIES[study].metric.removeprefix("test_"))
        panel.margins(x=0.3, y=0.3)
    return figure


def missing(runs: collections.abc.Iterable[Run]) -> str:
    """Returns the sentence on runs without a row."""
    counts = collections.Counter((run.study, run.start) for run in runs)
    if not counts:
        return "All runs of the comparison are finished."
    cells = (f"{study} from {start} weights ({count})" for (study, start), count in counts.items())
    return f"Not run yet: {', '.join(cells)}."


def with_tables() -> str:
    """Returns README.md with the present tables."""
    results = read_results()
    rows = [*results.values()]
    open_runs = (run for run in dict.fromkeys(RUNS) if run.key not in results)
    before, rest = README.read_text().split(BEGIN)
    _, after = rest.split(END)
    parts = (before + BEGIN, f"{summary(rows)}\n", f"{missing(open_runs)}\n", table(rows), END)
    return "\n".join(parts) + after


def write_tables() -> None:
    """Writes the tables and the plot."""
    README.write_text(with_tables())
    plot(read_results().values()).savefig(PLOT, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares mergings of patches.")
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"of {', '.join(STUDIES)}")
    parser.add_argument("--data", type=pathlib.Path, help="folder of the data sets that are files")
    parser.add_argument("--check", action="store_true", help="only compare, exit 1 if it differs")
    options = parser.parse_args()
    unknown = set(options.studies) - STUDIES.keys()
    if unknown:
        parser.error(f"There is no study {', '.join(sorted(unknown))}.")
    if options.check:
        sys.exit(
            None
            if README.read_text() == with_tables()
            else "README.md differs: run python training/compare.py"
        )
    write_tables()  # Of rows that were added by hand, too.
    for run in RUNS:
        wanted = not options.studies or run.study in options.studies
        available = options.data or not STUDIES[run.study].data
        if not (wanted and available):
            continue
        # Another process may be training this run.
        with contextlib.suppress(filelock.Timeout), lock(run.folder.name).acquire(timeout=0):
            if run.key not in read_results():
                add_row(train(run, options.data))
                write_tables()


if __name__ == "__main__":
    main()
