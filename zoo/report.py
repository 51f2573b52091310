"""Results of the benchmark: a CSV file, Markdown tables and a plot."""

import csv
import dataclasses
import pathlib
import statistics
from collections.abc import Sequence

import suite
from case import RUNTIMES

BEGIN, END = "<!-- benchmark: written by zoo/benchmark.py -->", "<!-- end of benchmark -->"

# {measure: (heading, unit in seconds or bytes, format)}
MEASURES = {
    "forward": ("forward, ms", 1e-3, ".1f"),
    "train": ("training step, ms", 1e-3, ".1f"),
    "memory": ("memory, MB", 1e6, ".0f"),
    "device memory": ("device memory, MB", 1e6, ".0f"),
    "first step": ("first step, s", 1, ".1f"),
}
# {measure: MACs relative to a forward pass}; a backward pass counts twice, as is customary.
PASSES = {"forward": 1, "train": 3}


@dataclasses.dataclass(frozen=True)
class Row:
    """One measure of one case.

    Attributes:
        comparison: title of the comparison; its cases were measured in one run.
        library, model, backend, compiled, dtype, batch, size: see `case.Case`.
        measure: a key of `MEASURES`.
        median, lower, upper: median and quartiles of all rounds, in seconds or bytes.
        rounds: number of rounds.
        ratio: median over the rounds of the time relative to that of the first case; 0 if it was
            not measured.
        macs: MACs of a forward pass on one example; 0 if they were not counted.
        peak: MACs per second of the fastest matrix product in this run.
        date, machine: date of the run, hardware and software.
    """

    comparison: str
    library: str
    model: str
    backend: str
    compiled: bool
    dtype: str
    batch: int
    size: int
    measure: str
    median: float
    lower: float
    upper: float
    rounds: int
    ratio: float
    macs: int
    peak: float
    date: str
    machine: str

    @property
    def name(self) -> str:
        """Library, backend, and what differs from the usual case."""
        special = [", compiled" * self.compiled, ", int8" * (self.dtype == "int8")]
        return f"{self.library}, {self.backend}{''.join(special)}"

    @property
    def speed(self) -> float:
        """MACs per second."""
        return PASSES[self.measure] * self.macs * self.batch / self.median


def summary(values: Sequence[float]) -> dict[str, float]:
    """Returns the fields `median`, `lower`, `upper` and `rounds` of a `Row`."""
    if len(values) == 1:
        lower = median = upper = values[0]
    else:
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "lower": lower, "upper": upper, "rounds": len(values)}


# === CSV ===


def read(path: pathlib.Path) -> list[Row]:
    """Returns the rows of a CSV file, or an empty list if it does not exist.

    Raises:
        ValueError: if the columns are not the fields of a `Row`.
    """
    if not path.exists():
        return []
    fields = dataclasses.fields(Row)
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != [field.name for field in fields]:
            raise ValueError(
                f"{path} must have the columns of a benchmark. Received: {reader.fieldnames}"
            )
        return [Row(*(_PARSE[field.type](row[field.name]) for field in fields)) for row in reader]


_PARSE = {str: str, int: int, float: float, bool: {"True": True, "False": False}.__getitem__}


def write(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """Writes rows to a CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(Row))
        writer.writerows(map(dataclasses.astuple, rows))


def merge(old: list[Row], new: list[Row]) -> list[Row]:
    """Returns all rows; new rows of a comparison replace its old ones at their position."""
    replaced = {row.comparison for row in new}
    kept = [row for row in old if row.comparison not in replaced]
    order = {title: index for index, title in enumerate(dict.fromkeys(_titles(old + new)))}
    return sorted(kept + new, key=lambda row: order[row.comparison])


def _titles(rows):
    return [row.comparison for row in rows]


# === Tables ===


def markdown(rows: Sequence[Row]) -> str:
    """Returns a Markdown table for each comparison, with the machine and the date."""
    lines, last_run = [], None
    for title in dict.fromkeys(_titles(rows)):
        members = [row for row in rows if row.comparison == title]
        run = f"{members[0].machine}; {members[0].date}"
        if run != last_run:
            last_run = run
            lines += [f"Measured on {run}.", ""]
        lines += [f"**{title}**", "", *_table(members), ""]
    return "\n".join(lines).strip()


def _table(rows):
    measures = [name for name in MEASURES if any(row.measure == name for row in rows)]
    headings, alignment = ["", "batch × size", "MACs, G"], ["---", "---", "---:"]
    for measure in measures:
        headings.append(MEASURES[measure][0])
        headings += ["GFLOP/s", "of peak"] if measure in PASSES else []
        headings += _RELATIVE if _has_ratios(rows, measure) else []
    alignment += ["---:"] * (len(headings) - len(alignment))
    lines = [f"| {' | '.join(each)} |" for each in (headings, alignment)]
    labels = dict(zip(map(_case, rows), _labels(rows), strict=True))
    for case, label in labels.items():
        by_measure = {row.measure: row for row in rows if _case(row) == case}
        first = next(iter(by_measure.values()))
        cells = [label, f"{first.batch} × {first.size}²"]
        cells.append(_number(first.macs / 1e9, ".2f"))
        for measure in measures:
            cells += _cells(measure, by_measure.get(measure))
            if _has_ratios(rows, measure):
                cells += _relative_cells(by_measure.get(measure))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


_RELATIVE = ["images/s", "× first"]


def _has_ratios(rows, measure):
    """Only for exported files: what a process of its own adds is small there."""
    return any(row.measure == measure and row.backend in RUNTIMES for row in rows)


def _relative_cells(row):
    if row is None:
        return ["–"] * len(_RELATIVE)
    return [f"{row.batch / row.median:.1f}", _number(row.ratio, ".2f")]


def _case(row):
    return row.library, row.model, row.backend, row.compiled, row.dtype, row.batch, row.size


def _cells(measure, row):
    """Median and quartiles; for times also the speed and its fraction of the peak."""
    _, unit, form = MEASURES[measure]
    if row is None:
        return ["–"] * (3 if measure in PASSES else 1)
    cell = _number(row.median / unit, form)
    if row.rounds > 1:
        cell += f" ({row.lower / unit:{form}}–{row.upper / unit:{form}})"
    if measure not in PASSES:
        return [cell]
    fraction = row.speed / row.peak if row.peak else 0
    # A MAC is two floating-point operations.
    return [cell, _number(2e-9 * row.speed, ".0f"), _number(fraction, ".0%")]


def _number(value, form):
    return f"{value:{form}}" if value else "–"


# === Targets ===


def targets_table(rows: Sequence[Row]) -> str:
    """Returns the Markdown table of targets; empty if no row belongs to one."""
    lines = [
        f"| speedup (≥) or cost ratio (≤) | {' | '.join(suite.BACKENDS)} | target |",
        f"| --- |{' ---: |' * len(suite.BACKENDS)} --- |",
    ]
    for target in suite.targets():
        ratios = {backend: _ratio(target, backend, rows) for backend in suite.BACKENDS}
        if any(ratios.values()):
            cells = [f"{ratio:.2f}" if ratio else "–" for ratio in ratios.values()]
            lines.append(f"| {target.title} | {' | '.join(cells)} | {_result(target, ratios)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _ratio(target, backend, rows):
    """Returns the speedup or the cost ratio; `None` if it was not measured."""
    rows = [row for row in rows if row.measure == target.measure]
    for own in rows:
        if (own.library, own.model, own.backend) != ("keras_spm", target.model, backend):
            continue
        baselines = [
            row.median
            for row in rows
            if row.comparison == own.comparison
            and (row.library, row.model, row.compiled) in target.baselines
        ]
        if baselines:
            best = min(baselines)
            return own.median / best if target.at_most else best / own.median
    return None


def _result(target, ratios):
    """Returns the bounds and the backends that miss them."""
    bounds = target.at_most or target.at_least
    sign = "≤" if target.at_most else "≥"
    measured = {name: bound for name, bound in bounds.items() if bound and ratios.get(name)}
    missed = [
        name
        for name, bound in measured.items()
        if (ratios[name] > bound if target.at_most else ratios[name] < bound)
    ]
    numbers = [f"{bound:g}" if bound else "–" for bound in bounds.values()]
    text = f"{sign} {numbers[0] if len(set(numbers)) == 1 else ' / '.join(numbers)}"
    if target.any_backend:
        text += " on the best backend"
        missed = missed if len(missed) == len(measured) else []
    return f"{text}; missed on {', '.join(missed)}" if missed else text


# === Plot ===

OWN_COLOR, OTHER_COLOR = "#2a9d8f", "#b8b8d1"


def plot(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """Draws forward passes in the left column, training steps in the right one.

    Each comparison has a bar per case, with quartiles; if its input shapes differ, a line per
    model over the number of pixels in a batch.
    """
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.measure in PASSES]
    titles = list(dict.fromkeys(_titles(rows)))
    if not titles:
        return
    members = [[row for row in rows if row.comparison == title] for title in titles]
    labels = [list(dict.fromkeys(_labels(each))) for each in members]
    heights = [4 + len(each) for each in labels]
    figure = Figure(figsize=(11, 0.24 * sum(heights)), layout="constrained")
    grid = figure.subplots(
        len(titles), len(PASSES), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axes, title, group, names in zip(grid, titles, members, labels, strict=True):
        shapes_differ = len({(row.batch, row.size) for row in group}) > 1
        axes[0].set_title(title, fontsize=9, loc="left")
        for axis, measure in zip(axes, PASSES, strict=True):
            if all(row.measure != measure for row in group):
                axis.set_axis_off()
                continue
            (_lines if shapes_differ else _bars)(axis, group, measure, names)
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
        if not shapes_differ:
            axes[1].set_yticklabels([])
    figure.savefig(path, dpi=100)


def _labels(rows):
    """The label of each row in its comparison, with the model if there is more than one."""
    same = len({row.model for row in rows}) == 1
    return [row.name if same else f"{row.model}, {row.name}" for row in rows]


def _bars(axis, rows, measure, names):
    for label, row in zip(_labels(rows), rows, strict=True):
        if row.measure == measure:
            middle, low, high = (value * 1e3 for value in (row.median, row.lower, row.upper))
            color = OWN_COLOR if row.library == "keras_spm" else OTHER_COLOR
            spread = [[middle - low], [high - middle]]
            axis.barh(names.index(label), middle, xerr=spread, color=color, error_kw={"lw": 0.8})
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel(MEASURES[measure][0], fontsize=7)


def _lines(axis, rows, measure, names):
    for name in names:
        points = sorted(
            (row.batch * row.size**2, row.median * 1e3)
            for label, row in zip(_labels(rows), rows, strict=True)
            if (label, row.measure) == (name, measure)
        )
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("pixels in a batch", fontsize=7)
    axis.set_ylabel(MEASURES[measure][0], fontsize=7)
    axis.legend(fontsize=6, frameon=False)
