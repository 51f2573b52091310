"""The help of every command."""

import argparse
import os

from keras_spm import cli

_WIDTH = "96"  # Characters in a line of a code block.


def commands() -> str:
    """Returns a section for each command of `keras-spm`, with its help."""
    os.environ["COLUMNS"] = _WIDTH
    parser = cli._parser()
    (subparsers,) = (
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    sections = [
        f"## keras-spm {name}\n\n```text\n{command.format_help().strip()}\n```"
        for name, command in subparsers.choices.items()
    ]
    return "\n\n".join(sections)
