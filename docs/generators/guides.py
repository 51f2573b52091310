"""Guides: from a script in percent format to an executed notebook, and from that to a page.

python docs/execute.py [NAME …]    executes guides/NAME.py and writes guides/NAME.ipynb
"""

import base64
import pathlib
import re
from typing import Any

import jupytext
import nbformat
import yaml

DOCS = pathlib.Path(__file__).parents[1]
FOLDER = DOCS / "guides"
# Key of the notebook's metadata with the run: backend, versions, seconds, date.
RUN = "run"
_INSTALL = "install"
_LONGEST = 32  # Lines of an output on a page; the notebook has all.
_EXTRAS = "coco,data,export,plot,torch"
_GITHUB = "https://github.com/"
_COLAB = "https://colab.research.google.com/github/{repository}/blob/main/docs/guides/{name}.ipynb"


def repository() -> str:
    """Returns the `repo_url` of mkdocs.yml, or "" if the repository has no address."""
    configuration = yaml.safe_load((DOCS / "mkdocs.yml").read_text())
    return (configuration.get("repo_url") or "").rstrip("/")


def guide_paths() -> list[pathlib.Path]:
    """Returns the scripts of all guides."""
    return sorted(FOLDER.glob("*.py"))


def read_guide(path: pathlib.Path, repo_url: str | None = None) -> nbformat.NotebookNode:
    """Returns a guide as a notebook without outputs.

    If the repository has an address, the first cell of code installs the package from it.

    Args:
        path: of the guide.
        repo_url: address of the repository, or ""; by default `repository()`.
    """
    notebook = jupytext.read(path)
    repo_url = repository() if repo_url is None else repo_url
    if repo_url:
        source = f'%pip install --quiet "keras-spm[{_EXTRAS}] @ git+{repo_url}"'
        install = nbformat.v4.new_code_cell(source, metadata={"tags": [_INSTALL]})
        notebook.cells.insert(1, install)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


def is_install(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell installs packages: it is not executed here, and not part of the page."""
    return _INSTALL in cell.metadata.get("tags", [])


def smoke_source(path: pathlib.Path) -> str:
    """Returns a guide's code, with the values of `smoke` in place of those of its settings.

    The first cell of code has the metadata `smoke={"name": value}`; its assignments are replaced.
    """
    cells = [cell for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    settings: dict[str, Any] = cells[0].metadata.get("smoke", {})
    lines = [f"{name} = {value!r}" for name, value in settings.items()]
    return "\n\n".join([cells[0].source, *lines, *(cell.source for cell in cells[1:])])


def pages() -> dict[str, str | bytes]:
    """Returns {path in the site: contents} of pages, pictures and notebooks."""
    found = {}
    for path in guide_paths():
        notebook = path.with_suffix(".ipynb")
        found |= _page(nbformat.read(notebook, 4), path.stem)
        found[f"guides/{notebook.name}"] = notebook.read_bytes()
    return found


def _page(notebook, name):
    """Returns {path: contents} of the page and its pictures."""
    parts, pictures = [], {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif not is_install(cell):
            parts.append(f"```python\n{cell.source}\n```")
            parts += [_output(output, name, pictures) for output in _merged(cell.outputs)]
    title, _, text = "\n\n".join(filter(None, parts)).partition("\n")
    page = f"{title}\n\n{links(name, repository())}\n{text}\n\n{_run(notebook.metadata.get(RUN))}\n"
    return {f"guides/{name}.md": page, **pictures}


def _merged(outputs):
    """Returns the outputs with consecutive texts as one, and without exit statuses of commands."""
    merged = []
    for output in outputs:
        if output.output_type == "stream":
            if merged and merged[-1].output_type == "stream":
                merged[-1].text += output.text
            else:
                merged.append(output.copy())
        elif output.get("data", {}).get("text/plain") != "0":
            merged.append(output)
    return merged


def _output(output, name, pictures):
    if output.output_type == "stream":
        return _text(output.text)
    data = output.get("data", {})
    if "image/png" in data:
        file = f"{name}-{len(pictures) + 1}.png"
        pictures[f"guides/{file}"] = base64.b64decode(data["image/png"])
        return f"![Picture that the code above draws]({file})"
    return _text(data["text/plain"]) if "text/plain" in data else ""


def _text(text):
    lines = re.sub(r"\x1b\[[\d;]*m", "", text).strip("\n").splitlines()  # Without colors.
    if len(lines) > _LONGEST:
        half = _LONGEST // 2
        lines = [*lines[:half], "…", *lines[-half:]]
    return "\n".join(["```text", *lines, "```"]) if lines else ""


def links(name: str, repo_url: str) -> str:
    """Returns the links of a guide's page; to Colab only for a repository on GitHub."""
    found = [f"[Notebook]({name}.ipynb)"]
    if repo_url.startswith(_GITHUB):
        address = _COLAB.format(repository=repo_url.removeprefix(_GITHUB), name=name)
        found.append(f"[Open in Colab]({address})")
    return " · ".join(found) + "\n{ .guide-links }\n"


def _run(run):
    seconds = f", in {run['cpu_seconds']} CPU seconds" if "cpu_seconds" in run else ""
    return (
        f"---\n\nThis page is a notebook that was run on {run['date']} with {run['versions']} on "
        f"{run['machine']}{seconds}."
    )
