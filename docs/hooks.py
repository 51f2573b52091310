"""Adds the generated pages to the site, and fills the generated parts of the others."""

import re
from typing import Any

import generators
import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_GENERATED = re.compile(r"<!-- generated: (\w+) -->")
_MATH = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_INLINE_MATH = re.compile(r"(?<![\w$`])\$([^$\n`]+)\$(?![\w$])")
_FENCE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
# Browsers break lines after a hyphen: `--set` would be in two lines. Longer code needs the breaks.
_SHORT_CODE = re.compile(r"<code>([^<]{1,24})</code>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path, content in generators.pages().items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = _GENERATED.sub(lambda match: generators.PARTS[match[1]](), markdown)
    # Code is left as it is.
    parts = _FENCE.split(markdown)
    parts[::2] = [_with_math(part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(html: str, **_: Any) -> str:
    return _SHORT_CODE.sub(r'<code class="short">\1</code>', html)


def _with_math(text):
    """Replaces LaTeX by MathML, which browsers draw without a script."""
    convert = latex2mathml.converter.convert
    # In an element of its own, which scrolls on a phone.
    text = _MATH.sub(lambda match: f'<div class="math">{convert(match[1], "block")}</div>', text)
    return _INLINE_MATH.sub(lambda match: convert(match[1]), text)
