"""Results of campaigns that run on one backend: a Markdown file with a section for each."""

import datetime
import os
import platform
from importlib import metadata

import keras

_ORDER = ("torch", "jax", "tensorflow")


def write(path, rows, about, seconds):
    """Replaces the section of this process's backend, and keeps those of the others.

    Args:
        path: of the result file, next to the module of the campaign.
        rows: list of {column: value}, a table.
        about: a sentence about sizes and seeds.
        seconds: that the campaign took.
    """
    backend = keras.config.backend()
    sections = {}
    if path.exists():
        _, *found = path.read_text().split("\n## ")
        sections = {section.partition("\n")[0]: section for section in found}
    packages = ("keras-spm", "keras", backend)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    lines = [
        backend,
        "",
        f"{datetime.date.today()}. {about} Python {platform.python_version()} on "
        f"{platform.system()}, {platform.machine()}, {len(os.sched_getaffinity(0))} CPU cores "
        f"shared with other work; {versions}. {seconds / 60:.1f} minutes.",
        "",
        _line(rows[0]),
        _line(["---"] * len(rows[0])),
        *(_line(row.values()) for row in rows),
        "",
    ]
    sections[backend] = "\n".join(lines)
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
