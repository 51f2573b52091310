"""Everything that was measured, from the files that the measurements wrote."""

import ast
import csv
import pathlib
import re

import report

from generators.tables import markdown
from tests.campaigns import export_formats

ROOT = pathlib.Path(__file__).parents[2]
TRAINING, ZOO = ROOT / "training", ROOT / "zoo"
CAMPAIGNS = ROOT / "tests" / "campaigns"
# Have a section of their own.
_KNOWN = {
    *(TRAINING / name for name in ("results.csv", "fine_tuning.csv", "transplanting.csv")),
    *(ZOO / name for name in ("benchmark.csv", "quantization.csv")),
    CAMPAIGNS / "export_formats.csv",
}
_RELATIVE_LINK = re.compile(r"(?<!!)\[([^]]+)\]\((?!https?://|#)[^)]*\)")


def training() -> str:
    """Returns training/README.md without its title."""
    return _without_links((TRAINING / "README.md").read_text().partition("\n")[2].strip())


def devices() -> str:
    """Returns the section on several devices of training/README.md."""
    found = (section(TRAINING / "README.md", heading) for heading in ("device", "distributed"))
    return next(filter(None, found), "Training on several devices is not part of this version.")


def serving() -> str:
    """Returns the README of docs/serving, if there is one, and what its scripts are for."""
    readme = ROOT / "docs" / "serving" / "README.md"
    parts = [_without_links(readme.read_text().partition("\n")[2])] if readme.exists() else []
    for path in sorted((ROOT / "docs" / "serving").glob("*.py")):
        parts += [f"## {path.name}", ast.get_docstring(ast.parse(path.read_text())) or ""]
    return "\n\n".join(parts)


def recipes() -> str:
    """Returns the table of the recipes: hardware and result, as they state or as was measured."""
    rows = [["recipe", "hardware", "result"]]
    with (TRAINING / "results.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    for path in sorted((TRAINING / "recipes").glob("[!_]*.py")):
        fields = _fields(ast.get_docstring(ast.parse(path.read_text())))
        result = _measured(path.stem, runs) or fields.get("Result", "–")
        rows.append([f"`{path.stem}`", fields.get("Hardware", "–"), result])
    return markdown(rows)


def _measured(recipe, runs):
    """Returns the metrics of a recipe on each backend, from the runs of its study."""
    texts = []
    for row in runs:
        own = (row["study"], row["merging"], row["start"], row["seed"])
        if own == (recipe, "spm", "random", "0"):
            metrics = (name for name in row if name.startswith("test_") and row[name])
            values = (f"{name[5:].replace('_', ' ')} {float(row[name]):.3f}" for name in metrics)
            minutes = float(row["seconds"]) / 60
            texts.append(f"{row['backend']}: test {', '.join(values)} in {minutes:.0f} minutes")
    return "; ".join(texts)


def exports() -> str:
    """Returns the table of every verified export."""
    return _csv_table(list(export_formats.read().values()))


def results() -> str:
    """Returns all other measurements."""
    rows = report.read(ZOO / "benchmark.csv")
    parts = [
        "## Speed and memory",
        "`zoo/README.md` describes the benchmark, and explains what missed its target.",
        "![The tables below as bar charts](assets/benchmark.png)",
        report.targets_table(rows),
        re.sub(r"^\*\*(.+)\*\*$", r"### \1", report.markdown(rows), flags=re.MULTILINE),
        section(ZOO / "README.md", "Quantization", level=2),
        _csv_file(ZOO / "quantization.csv"),
        section(TRAINING / "README.md", "LoRA", level=2),
        _csv_file(TRAINING / "fine_tuning.csv"),
        section(TRAINING / "README.md", "Stepwise Patch Merging in a trained network"),
        _csv_file(TRAINING / "transplanting.csv"),
        section(TRAINING / "README.md", "Stepwise Patch Merging against the default merging"),
    ]
    for path in sorted([*TRAINING.glob("*.csv"), *ZOO.glob("*.csv"), *CAMPAIGNS.glob("*.csv")]):
        if path not in _KNOWN:
            title = path.stem.replace("_", " ").capitalize()
            parts += [f"## {title}", _csv_file(path)]
    parts.append("## Campaigns")
    for path in sorted(CAMPAIGNS.glob("*.md")):
        parts.append(_campaign(path))
    return "\n\n".join(filter(None, parts))


def section(path: pathlib.Path, heading: str, level: int = 2) -> str:
    """Returns a section of a Markdown file, or "" if there is none.

    Args:
        path: of the file.
        heading: part of the heading.
        level: of the heading in the result; 0 leaves it out.
    """
    sections = re.split(r"^(?=## )", path.read_text(), flags=re.MULTILINE)[1:]
    for text in sections:
        title, _, body = text.partition("\n")
        if heading.lower() in title.lower():
            start = f"{'#' * level} {title.lstrip('# ')}\n" if level else ""
            return _without_links(f"{start}{body}".strip())
    return ""


def _without_links(text):
    """Replaces links to files of the repository, which are not in the site, by their text.

    Pictures are in its assets.
    """
    text = re.sub(r"<!--.*?-->\n?", "", text)
    text = re.sub(r"(!\[[^]]+\])\((\w+\.png)\)", r"\1(assets/\2)", text)
    return _RELATIVE_LINK.sub(r"\1", text)


def _fields(docstring):
    """Returns {field: text} of the lines "Field: text" in a recipe's docstring."""
    fields, name = {}, None
    for line in docstring.splitlines():
        start = re.match(r"(\w+): +(.*)", line)
        if start:
            name, text = start.groups()
            fields[name] = text
        elif name and line.startswith(" "):
            fields[name] += f" {line.strip()}"
        else:
            name = None
    return fields


def _csv_file(path):
    with path.open(newline="") as file:
        return _csv_table(list(csv.DictReader(file)))


def _csv_table(rows):
    names = list(rows[0])
    return markdown([names, *([row[name] for name in names] for row in rows)])


def _campaign(path):
    """The title, the introduction and the first table of a campaign's report."""
    title, *blocks = path.read_text().strip().split("\n\n")
    kept = []
    for block in blocks:
        if block.startswith("|") and len(block.splitlines()) > 40:
            continue  # Every single file: the table before has their numbers.
        kept.append(re.sub(r"^## ", "#### ", block, flags=re.MULTILINE))
    heading = title.lstrip("# ").removeprefix("Campaign: ")
    return _without_links("\n\n".join([f"### {heading[0].upper()}{heading[1:]}", *kept]))
