"""Results of campaigns that run on one backend: a Markdown file with a section for each."""

import datetime
import os
import platform
from importlib import metadata

import keras

_ORDER = ("torch", "jax", "tensorflow")


def write(path, rows, about, keys=1):
    """Updates the section of this process's backend; other sections and rows stay.

    Args:
        path: of the result file, next to the module of the campaign.
        rows: list of {column: value}, rows of the table. They replace rows of the same key.
        about: a sentence about sizes and seeds.
        keys: number of columns that are the key.
    """
    backend = keras.config.backend()
    sections = {}
    if path.exists():
        _, *found = path.read_text().split("\n## ")
        sections = {section.partition("\n")[0]: section for section in found}
    lines = {
        tuple(line.split(" | ")[:keys]): line
        for line in sections.get(backend, "").splitlines()
        if line.startswith("| ")
    }
    header, ruler = _line(rows[0]), _line(["---"] * len(rows[0]))
    for line in (header, ruler, *(_line(row.values()) for row in rows)):
        lines[tuple(line.split(" | ")[:keys])] = line
    packages = ("keras-spm", "keras", backend)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    described = (
        f"{datetime.date.today()}. {about} Python {platform.python_version()} on "
        f"{platform.system()}, {platform.machine()}, {len(os.sched_getaffinity(0))} CPU cores "
        f"shared with other work; {versions}."
    )
    sections[backend] = "\n".join([backend, "", described, "", *lines.values(), ""])
    name = path.stem
    header = "\n".join(
        (
            f"# Campaign: {name.replace('_', ' ')}",
            "",
            f"Written by `KERAS_BACKEND=… python -m tests.campaigns.{name}`. The docstring of the "
            "module describes the cases.",
            "",
        )
    )
    ordered = [sections[each] for each in _ORDER if each in sections]
    path.write_text("\n## ".join([header, *ordered]))


def _line(cells):
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
