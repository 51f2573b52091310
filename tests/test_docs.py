"""The documentation: what a strict build would refuse, and every guide with little data."""

import functools
import inspect
import re
import tomllib

import keras
import nbformat
import numpy as np
import pytest
import yaml
from generators import ROOT, api, guides, messages
from PIL import Image

import keras_spm
from tests.helpers import tiny_backbone

pytestmark = pytest.mark.only("torch")

DOCS = ROOT / "docs"
GUIDES = guides.guide_paths()


def _navigation(entry):
    if isinstance(entry, dict):
        entry = list(entry.values())
    if isinstance(entry, list):
        return {page for each in entry for page in _navigation(each)}
    return {entry}


@pytest.fixture(scope="module")
def navigation():
    return _navigation(yaml.safe_load((DOCS / "mkdocs.yml").read_text())["nav"])


def test_every_public_name_has_its_place_in_the_reference(navigation):
    pages = api.pages()
    assert set(pages) <= navigation
    reference = "\n".join(pages.values())
    for module in (keras_spm, *api.public_modules()):
        for name in api.public_names(module):
            value = getattr(module, name)
            if inspect.ismodule(value):
                assert f"api/{name}.md" in pages, name
            else:
                place = api.place_of(value, f"{module.__name__}.{name}")
                assert f"::: {place}\n" in reference, f"{module.__name__}.{name}"


def test_every_public_name_has_a_docstring():
    assert api.undocumented() == []


def test_every_page_is_in_the_navigation(navigation):
    written = {str(path.relative_to(DOCS / "pages")) for path in DOCS.glob("pages/**/*.md")}
    written |= {f"guides/{path.stem}.md" for path in GUIDES}
    assert written <= navigation


def test_links_of_the_readme():
    for document in ("README.md", "CONTRIBUTING.md", "SECURITY.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / document).read_text()):
            assert (ROOT / target).exists(), f"{document}: {target}"


_MEASURED = re.compile(
    r"\d[\d.,]* ?(?:%|ms\b|MB\b|GFLOP/s|images per second|times (?:as|slower|faster))"
)
# Their numbers are written by hand, from runs whose results are not in a file.
_BY_HAND = {("training/README.md", "Several devices"), ("zoo/README.md", "Exported files")}
_BY_HAND |= {("zoo/README.md", "Quantization")}  # Of exported files.


def test_measured_numbers_are_generated():
    """None is in the text of a page: it would stay when the measurement is repeated."""
    names = ["README.md", "training/README.md", "zoo/README.md"]
    names += [str(path.relative_to(ROOT)) for path in DOCS.glob("pages/**/*.md")]
    for name in names:
        text = (ROOT / name).read_text()
        text = re.sub(r"<!-- (\w+): written by .*?<!-- end of \1 -->", "", text, flags=re.DOTALL)
        text = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
        for section in re.split(r"^## ", text, flags=re.MULTILINE):
            found = _MEASURED.findall(section)
            assert not found or (name, section.partition("\n")[0]) in _BY_HAND, (name, found)


def test_extras_are_pinned():
    """What `make docs` installs is what was tested."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = (ROOT / "constraints.txt").read_text()
    for requirement in extras["optional-dependencies"]["docs"]:
        name = re.split(r"[>=\[]", requirement)[0]
        assert re.search(rf"^{name}==", pins, re.MULTILINE), name


def test_messages():
    """Some that are written in different ways are found, once each and whole."""
    found = messages.find_messages()
    assert len(found) == len(set(found))
    texts = {(each.module, each.function, each.kind, each.text) for each in found}
    for expected in (
        ("parity", "compare", "ValueError", "`model` must be a backbone or an ImageClassifier. "
         "Received: model=…"),
        ("fusion", "fuse", "ValueError", "`model` is fused already. Received: …"),
    ):  # fmt: skip
        assert expected in texts
    for start in messages.REMEDIES:
        assert any(start in each.text for each in found), f"no message has {start!r}"


# Guides


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_notebooks_have_the_code_of_their_guide(path):
    notebook, guide = nbformat.read(path.with_suffix(".ipynb"), 4), guides.read_guide(path)
    nbformat.validate(notebook)
    texts = [[(cell.cell_type, cell.source) for cell in each.cells] for each in (notebook, guide)]
    assert texts[0] == texts[1], f"run `python docs/execute.py {path.stem}`"
    errors = [o for cell in notebook.cells for o in cell.get("outputs", []) if "ename" in o]
    assert not errors


def test_links_to_colab():
    """Only if there is a repository to open, which is then also what the notebook installs."""
    assert "Colab" not in guides.links("photos", "")
    assert "Colab" not in guides.links("photos", "https://example.org/someone/keras_spm")
    address = "https://github.com/someone/keras_spm"
    start = "(https://colab.research.google.com/github/someone/keras_spm/blob/main/docs/guides/"
    assert f"{start}photos.ipynb)" in guides.links("photos", address)
    installs = [
        [cell.source for cell in notebook.cells if guides.is_install(cell)]
        for notebook in (guides.read_guide(GUIDES[0], url) for url in ("", address))
    ]
    assert installs[0] == [] and f"@ git+{address}" in installs[1][0]


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_guides_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(guides.smoke_source(path), path.name, "exec"), {"__name__": path.stem})


@pytest.mark.release
def test_a_notebook_runs_as_it_is(tmp_path):
    """In a kernel of Jupyter, as a reader who downloads it."""
    client = pytest.importorskip("nbclient")
    notebook = nbformat.read(guides.FOLDER / "port.ipynb", 4)
    cells = [cell for cell in notebook.cells if not guides.is_install(cell)]
    notebook.cells, resources = cells, {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=600, resources=resources).execute()
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")


def _blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def test_the_readme_runs(tmp_path, monkeypatch, capsys):
    """The lines for each task, with a small network, on arrays of noise."""
    monkeypatch.setattr(keras_spm.PVTv2SPM, "from_preset", lambda name: tiny_backbone())
    small = dict.fromkeys(("rpn_channels", "box_head_channels", "mask_head_channels"), 8)
    mask_rcnn = functools.partial(keras_spm.heads.MaskRCNN, max_proposals=8, **small)
    monkeypatch.setattr(keras_spm.heads, "MaskRCNN", mask_rcnn)
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (2, 64, 64, 3)).astype("float32")
    for name in ("heron.jpg", "street.jpg"):
        Image.fromarray(images[0].astype("uint8")).save(name)
    masks = np.zeros((2, 1, 64, 64), bool)
    masks[:, :, 8:40, 8:40] = True
    variables = {
        "images": images,
        "labels": np.array([0, 1]),
        "boxes": np.array([[[8, 8, 40, 40]]] * 2, "float32"),
        "masks": masks,
        "segmentation_maps": np.zeros((2, 64, 64), int),
    }
    blocks = [block for block in _blocks(ROOT / "README.md") if ".fit(" in block]
    assert [block.count("\n") for block in blocks] == [5, 4, 4, 4]
    for block in blocks:
        if '"labels"' in block:
            variables["labels"] = np.array([[0], [1]])
        exec(block, {"keras_spm": keras_spm, **variables})
    assert keras.saving.load_model("birds.keras").num_classes == 10
