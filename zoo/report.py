"""What `benchmark.py` found: rows of a CSV file, tables of them, and a plot."""

import csv
import dataclasses
import statistics

import suite

BEGIN, END = "<!-- benchmark: written by zoo/benchmark.py -->", "<!-- end of benchmark -->"

# measure → (heading, what its unit is divided by, format). A training step is counted as
# three forward passes' MACs, as is the field's custom.
MEASURES = {
    "forward": ("forward, ms", 1e-3, ".1f"),
    "train": ("training step, ms", 1e-3, ".1f"),
    "memory": ("memory, MB", 1e6, ".0f"),
    "first step": ("first step, s", 1, ".1f"),
}
PASSES = {"forward": 1, "train": 3}


@dataclasses.dataclass(frozen=True)
class Row:
    """One measure of one contender.

    Attributes:
        comparison: its title; what stands under one title alternated in one run.
        library, model, backend, compiled, dtype, batch, size: see `contenders.Contender`.
        measure: a key of `MEASURES`.
        median, lower, upper: of all rounds, and the quartiles; seconds or bytes.
        rounds: how many there were.
        macs: of one example's forward pass; 0 where nobody counted.
        peak: MACs a second of a matrix product in this run, the best there was.
        date, machine: when and where.
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
    macs: int
    peak: float
    date: str
    machine: str

    @property
    def name(self):
        return f"{self.library}, {self.backend}{', compiled' if self.compiled else ''}"

    @property
    def speed(self):
        """MACs a second."""
        return PASSES[self.measure] * self.macs * self.batch / self.median


def summary(values):
    """Returns the fields of a `Row` that sum values up."""
    if len(values) == 1:
        lower = median = upper = values[0]
    else:
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "lower": lower, "upper": upper, "rounds": len(values)}


# === CSV ===


def read(path):
    """Returns the rows of a file; none where there is no file yet.

    Raises:
        ValueError: where the columns are not those of a `Row`.
    """
    if not path.exists():
        return []
    fields = dataclasses.fields(Row)
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != [field.name for field in fields]:
            raise ValueError(f"{path} is no result of this benchmark: {reader.fieldnames}")
        return [Row(*(_PARSE[field.type](row[field.name]) for field in fields)) for row in reader]


_PARSE = {str: str, int: int, float: float, bool: {"True": True, "False": False}.__getitem__}


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(Row))
        writer.writerows(map(dataclasses.astuple, rows))


def merged(old, new):
    """Returns old rows and new ones; a comparison that was made again replaces its old self."""
    again = {row.comparison for row in new}
    kept = [row for row in old if row.comparison not in again]
    places = {title: place for place, title in enumerate(dict.fromkeys(_titles(old + new)))}
    return sorted(kept + new, key=lambda row: places[row.comparison])


def _titles(rows):
    return [row.comparison for row in rows]


# === Tables ===


def markdown(rows):
    """Returns a table for each comparison, under when and where it was made."""
    lines, where = [], None
    for title in dict.fromkeys(_titles(rows)):
        members = [row for row in rows if row.comparison == title]
        here = f"{members[0].machine}; {members[0].date}"
        if here != where:
            where = here
            lines += [f"Measured on {here}.", ""]
        lines += [f"**{title}**", "", *_table(members), ""]
    return "\n".join(lines).strip()


def _table(rows):
    measures = [name for name in MEASURES if any(row.measure == name for row in rows)]
    headings, alignment = ["", "batch × size", "MACs, G"], ["---", "---", "---:"]
    for measure in measures:
        headings.append(MEASURES[measure][0])
        headings += ["GFLOP/s", "of peak"] if measure in PASSES else []
    alignment += ["---:"] * (len(headings) - len(alignment))
    lines = [f"| {' | '.join(each)} |" for each in (headings, alignment)]
    labels = dict(zip(map(_contender, rows), _labels(rows), strict=True))
    for contender in labels:
        by_measure = {row.measure: row for row in rows if _contender(row) == contender}
        first = next(iter(by_measure.values()))
        cells = [labels[contender], f"{first.batch} × {first.size}²"]
        cells.append(_number(first.macs / 1e9, ".2f"))
        for measure in measures:
            cells += _cells(measure, by_measure.get(measure))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _contender(row):
    return row.library, row.model, row.backend, row.compiled, row.dtype, row.batch, row.size


def _cells(measure, row):
    """The measure with its quartiles; of a time also the speed and its share of the peak."""
    _, unit, form = MEASURES[measure]
    if row is None:
        return ["–"] * (3 if measure in PASSES else 1)
    cell = _number(row.median / unit, form)
    if row.rounds > 1:
        cell += f" ({row.lower / unit:{form}}–{row.upper / unit:{form}})"
    if measure not in PASSES:
        return [cell]
    # Two operations each.
    share = row.speed / row.peak if row.peak else 0
    return [cell, _number(2e-9 * row.speed, ".0f"), _number(share, ".0%")]


def _number(value, form):
    return f"{value:{form}}" if value else "–"


# === Targets ===


def reached(rows):
    """Returns the table of targets; empty where no row speaks of one."""
    lines = [
        f"| times as fast, or times the cost of | {' | '.join(suite.BACKENDS)} | wanted |",
        f"| --- |{' ---: |' * len(suite.BACKENDS)} --- |",
    ]
    for target in suite.targets():
        ratios = {backend: _ratio(target, backend, rows) for backend in suite.BACKENDS}
        if any(ratios.values()):
            cells = [f"{ratio:.2f}" if ratio else "–" for ratio in ratios.values()]
            lines.append(f"| {target.title} | {' | '.join(cells)} | {_wanted(target, ratios)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _ratio(target, backend, rows):
    """How many times as fast, or as costly; None where nobody measured."""
    rows = [row for row in rows if row.measure == target.measure]
    for ours in rows:
        if (ours.library, ours.model, ours.backend) != ("keras_spm", target.model, backend):
            continue
        others = [
            row.median
            for row in rows
            if row.comparison == ours.comparison
            and (row.library, row.model, row.compiled) in target.against
        ]
        if others:
            return ours.median / min(others) if target.at_most else min(others) / ours.median
    return None


def _wanted(target, ratios):
    bounds = target.at_most or target.at_least
    sign = "≤" if target.at_most else "≥"
    known = {each: bound for each, bound in bounds.items() if bound and ratios.get(each)}
    misses = [
        each
        for each, bound in known.items()
        if (ratios[each] > bound if target.at_most else ratios[each] < bound)
    ]
    numbers = [f"{bound:g}" if bound else "–" for bound in bounds.values()]
    text = f"{sign} {numbers[0] if len(set(numbers)) == 1 else ' / '.join(numbers)}"
    if target.best_alone:
        text += " on the best backend"
        misses = misses if len(misses) == len(known) else []
    return f"{text}; missed on {', '.join(misses)}" if misses else text


# === Plot ===

OURS, THEIRS = "#2a9d8f", "#b8b8d1"


def plot(path, rows):
    """Draws forward passes on the left, training steps on the right.

    A comparison is a bar for each contender, with quartiles; where sizes differ in it, a
    line for each contender over the pixels of a batch.
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
    for line, title, here, names in zip(grid, titles, members, labels, strict=True):
        grows = len({(row.batch, row.size) for row in here}) > 1
        line[0].set_title(title, fontsize=9, loc="left")
        for axis, measure in zip(line, PASSES, strict=True):
            if all(row.measure != measure for row in here):
                axis.set_axis_off()
                continue
            (_lines if grows else _bars)(axis, here, measure, names)
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
        if not grows:
            line[1].set_yticklabels([])
    figure.savefig(path, dpi=100)


def _labels(rows):
    """What each row is called among its comparison's; the model where it is not the same."""
    same = len({row.model for row in rows}) == 1
    return [row.name if same else f"{row.model}, {row.name}" for row in rows]


def _bars(axis, rows, measure, names):
    for label, row in zip(_labels(rows), rows, strict=True):
        if row.measure == measure:
            middle, low, high = (value * 1e3 for value in (row.median, row.lower, row.upper))
            color = OURS if row.library == "keras_spm" else THEIRS
            spread = [[middle - low], [high - middle]]
            place = names.index(label)
            axis.barh(place, middle, xerr=spread, color=color, error_kw={"lw": 0.8})
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel(MEASURES[measure][0], fontsize=7)


def _lines(axis, rows, measure, names):
    for name in names:
        own = sorted(
            (row.batch * row.size**2, row.median * 1e3)
            for label, row in zip(_labels(rows), rows, strict=True)
            if (label, row.measure) == (name, measure)
        )
        axis.plot(*zip(*own, strict=True), marker="o", markersize=3, linewidth=1, label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("pixels in a batch", fontsize=7)
    axis.set_ylabel(MEASURES[measure][0], fontsize=7)
    axis.legend(fontsize=6, frameon=False)
