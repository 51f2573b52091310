"""Markdown tables."""

from collections.abc import Iterable, Sequence


def markdown(rows: Iterable[Sequence[object]]) -> str:
    """Returns the table of rows of cells; the first row is the heading."""
    heading, *rest = ([str(cell).replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rest))


def starting_with(table: str, cell: str) -> str:
    """Returns a Markdown table without the rows whose first cell does not start with a text."""
    heading, rule, *rows = table.splitlines()
    return "\n".join([heading, rule, *(row for row in rows if row.startswith(f"| {cell} "))])
