"""Pages of the site that are generated from the code, from guides and from measurements."""

import pathlib
import sys
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[2]
# The scripts that write tables for READMEs write them for pages too.
sys.path += [str(ROOT), str(ROOT / "zoo"), str(ROOT / "training")]

from generators import api, commands, families, guides, messages, results  # noqa: E402

# {name: function that returns the Markdown of <!-- generated: name -->}
PARTS: dict[str, Callable[[], str]] = {
    "commands": commands.commands,
    "dense_models": families.dense_models,
    "devices": results.devices,
    "exports": results.exports,
    "messages": messages.messages,
    "models": families.models,
    "recipes": results.recipes,
    "results": results.results,
    "serving": results.serving,
    "training": results.training,
}


def pages() -> dict[str, str | bytes]:
    """Returns {path in the site: contents} of all pages and files that are generated whole."""
    return {
        **api.pages(),
        **families.pages(),
        **guides.pages(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "assets/stepwise_patch_merging.png": (ROOT / "zoo/stepwise_patch_merging.png").read_bytes(),
        "assets/benchmark.png": (ROOT / "zoo/benchmark.png").read_bytes(),
        "assets/comparison.png": (ROOT / "training/comparison.png").read_bytes(),
    }
