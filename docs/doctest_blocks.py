"""An extension of griffe: examples in docstrings become blocks of code."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)


class DoctestBlocks(griffe.Extension):
    """Fences the lines of an example; Markdown would take `>>>` for quotations."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = obj.docstring.value.replace("  # doctest: +SKIP", "")
            # A heading right above its example: "Example:" alone would be a section.
            text = re.sub(r"^Example:\n+(?=>>>)", "**Example**\n\n", text, flags=re.MULTILINE)
            obj.docstring.value = _EXAMPLE.sub(r"```pycon\n\g<0>\n```", text)
