"""The benchmark: the textbook implementation, its measures, tables and targets."""

import dataclasses

import accelerator
import benchmark
import numpy as np
import pytest
import report
import suite
import torch
from case import Case
from textbook import TextbookMerging

from keras_spm.layers import StepwisePatchMerging
from tests import golden
from tests.helpers import difference

pytestmark = pytest.mark.only("torch")  # Independent of the backend.

# {module of the textbook implementation: module of the reference}
_NAMES = {
    "scales.0": "msa.local_conv_3",
    "scales.1": "msa.local_conv_5",
    "scales.2": "msa.local_conv_7",
    "scales.3": "msa.local_conv_9",
    "grouped": "msa.proj.0",
    "norm": "msa.proj.1",
    "projection": "msa.proj.3",
    "guide_norm": "gle.gtg.0",
    "guide": "gle.gtg.2",
    "token_norm": "gle.norm0",
    "qkv": "gle.attn.qkv",
    "output_norm": "gle.norm1",
}


def _reference_name(name):
    module, _, leaf = name.rpartition(".")
    return f"{_NAMES[module]}.{leaf}"


@pytest.mark.parametrize("name", golden.LAYERS)
def test_textbook_equals_the_reference(name):
    arrays, _ = golden.read(name)
    layer = TextbookMerging(arrays["input"].shape[-1], golden.LAYERS[name])
    state = golden.state(name)
    layer.load_state_dict(
        {own: torch.tensor(state[_reference_name(own)]) for own in layer.state_dict()}
    )
    with torch.no_grad():
        outputs = layer.eval()(torch.tensor(arrays["input"]))
    assert difference(outputs, arrays["output"]) <= 1e-5

    inputs = torch.tensor(arrays["input"], requires_grad=True)
    outputs = layer.train()(inputs)
    (outputs * torch.tensor(arrays["train.cotangent"])).sum().backward()
    assert difference(outputs.detach(), arrays["train.output"]) <= 1e-5
    gradients = {_reference_name(own): each.grad for own, each in layer.named_parameters()}
    gradients["input"] = inputs.grad
    assert len(gradients) == sum(key.startswith("train.grad.") for key in arrays)
    for path, gradient in gradients.items():
        reference = arrays[f"train.grad.{path}"]
        error = np.linalg.norm(gradient - reference)
        assert error <= 1e-4 * np.linalg.norm(reference) + 1e-4, (path, error)
    for own, buffer in layer.named_buffers():
        key = f"train.after.{_reference_name(own)}"
        assert key not in arrays or difference(buffer, arrays[key]) <= 1e-6


# Runs


# Memory is that of a process of its own for each case.
_ON_CPU = [name for name in report.MEASURES if name != "device memory"]


@pytest.mark.release
@pytest.mark.parametrize("measures", [report.PASSES, _ON_CPU])
def test_benchmark_of_one_model(measures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suite, "BACKENDS", ("torch",))  # For the peak speed.
    (tmp_path / "README.md").write_text(f"before\n{report.BEGIN}\n{report.END}\nafter\n")
    arguments = ["--model", "merging_16_32", "--backend", "torch", "--batch", "2", "--size", "4"]
    budget = ["--rounds", "3", "--seconds", "0", "--output", str(tmp_path)]
    # Compilation takes long.
    monkeypatch.setattr(suite, "references", _eager(suite.references))
    assert benchmark.main([*arguments, "--measure", *measures, *budget]) == 0

    rows = report.read(tmp_path / "benchmark.csv")
    measured = {(row.library, row.measure) for row in rows}
    assert measured == {
        (library, measure) for library in ("keras_spm", "textbook") for measure in measures
    }
    layer = StepwisePatchMerging(32)
    layer.build((2, 4, 4, 16))
    # The textbook implementation projects all five tokens to queries, keys and values.
    saved = 4 * (12 * 32**2 + 2 * 25 * 32 - 2 * 5 * 8 * 32)
    own = layer.macs((2, 4, 4, 16))
    for row in rows:
        if row.measure in report.PASSES:
            assert row.rounds == 3 and 0 < row.lower <= row.median <= row.upper
            assert row.macs == own + (saved if row.library == "textbook" else 0)
            assert row.peak > row.speed > 0
        else:
            assert row.rounds == 1 and row.median > 0
    text = (tmp_path / "README.md").read_text()
    assert text == f"before\n{report.BEGIN}\n{report.markdown(rows)}\n{report.END}\nafter\n"
    assert report.markdown(rows) in capsys.readouterr().out
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    # `--table` writes the same tables.
    (tmp_path / "README.md").write_text(text.replace("| keras_spm", "| lost"))
    assert benchmark.main(["--table", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_text() == text


def test_the_folder_of_results_is_made_before_the_measurements(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "new/results"
    arguments = ["--model", "merging_16_32", "--output"]
    existed = []

    def run(*_):
        existed.append(folder.is_dir())
        yield [_row()]

    monkeypatch.setattr(benchmark, "_run", run)
    assert benchmark.main([*arguments, str(folder)]) == 0
    assert existed == [True] and len(report.read(folder / "benchmark.csv")) == 1
    # A file in its place.
    assert benchmark.main([*arguments, str(folder / "benchmark.csv/x")]) == 2
    assert "error: " in capsys.readouterr().err and len(existed) == 1

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "_run", interrupted)
    assert benchmark.main([*arguments, str(folder)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_no_model_that_runs(monkeypatch):
    monkeypatch.setattr(benchmark, "successful", lambda workers, prepare: [])
    assert benchmark.measure_in_turns([], "forward", 3, 1.0) == {}


def _eager(references):
    return lambda case: tuple(each for each in references(case) if not each.compiled)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "nan"], "argument --seconds: must be at least 0 and finite. Received: nan"),
        (["--batch", "0"], "argument --batch: must be an int of at least 1. Received: 0"),
        (["--backend", "theano"], "invalid choice: 'theano'"),
        (["--only", "everything"], "invalid choice: 'everything'"),
        (["--model", "swin_tiny", "--table"], "--only and --table belong to the suite"),
        (["--table", "--output", "nowhere"], "nowhere has no benchmark.csv"),
        (["--model", "merging_16"], "must be named like merging_64_128. Received: merging_16"),
    ],
)
def test_invalid_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(arguments)
    assert message in capsys.readouterr().err


def test_unavailable_models(tmp_path, capsys):
    """Those of other libraries are skipped, those of this library are an error."""
    with benchmark.started([Case("timm", "merging_8_8")], tmp_path) as workers:
        assert workers == []
    assert "skipped: timm merging_8_8 (torch): " in capsys.readouterr().err
    with (
        pytest.raises(benchmark.WorkerError, match="'pvt_v2_b17'"),
        benchmark.started([Case("keras_spm", "pvt_v2_b17")], tmp_path),
    ):
        pass


# Rows, tables and targets


def _row(comparison="A layer", library="keras_spm", median=0.02, **fields):
    spread = {"lower": median / 2, "upper": median * 2, "rounds": 5}
    row = report.Row(
        *(comparison, library, "merging_64_128", "torch", False, "float32", 8, 56, "forward"),
        *(median, *spread.values(), 0.0, 25_000_000, 4e10, "2026-01-31", "a machine"),
    )
    return dataclasses.replace(row, **fields)


ROWS = [
    _row(),
    _row(measure="train", median=0.1),
    _row(library="textbook", compiled=True, median=0.05),
    _row("Memory", measure="memory", median=3e9, rounds=1, macs=0),
]

TABLE = """\
Measured on a machine; 2026-01-31.

**A layer**

|  | batch × size | MACs, G | forward, ms | GFLOP/s | of peak \
| training step, ms | GFLOP/s | of peak |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| keras_spm, torch | 8 × 56² | 0.03 | 20.0 (10.0–40.0) | 20 | 25% | 100.0 (50.0–200.0) | 12 | 15% |
| textbook, torch, compiled | 8 × 56² | 0.03 | 50.0 (25.0–100.0) | 8 | 10% | – | – | – |

**Memory**

|  | batch × size | MACs, G | memory, MB |
| --- | --- | ---: | ---: |
| keras_spm, torch | 8 × 56² | – | 3000 |"""


def test_csv_and_markdown(tmp_path):
    report.write(tmp_path / "rows.csv", ROWS)
    assert report.read(tmp_path / "rows.csv") == ROWS
    assert report.markdown(report.read(tmp_path / "rows.csv")) == TABLE
    (tmp_path / "rows.csv").write_text("speed\n3\n")
    with pytest.raises(ValueError, match=r"columns of a benchmark. Received: \['speed'\]"):
        report.read(tmp_path / "rows.csv")


def test_new_rows_replace_those_of_the_same_comparison():
    again = [_row(median=0.03, date="2026-02-01")]
    assert report.merge(ROWS, again) == [*again, ROWS[-1]]
    new = [_row("Another layer")]
    assert report.merge(ROWS, new) == [*ROWS, *new]


def test_targets_table():
    title = "SPM 64 to 128, forward, vs. textbook (PyTorch eager)"
    rows = [_row(), _row(library="textbook", median=0.04), _row(backend="jax", median=0.032)]
    assert report.targets_table(rows).splitlines() == [
        "| speedup (≥) or cost ratio (≤) | torch | tensorflow | jax | target |",
        "| --- | ---: | ---: | ---: | --- |",
        f"| {title} | 2.00 | – | 1.25 | ≥ 1.5; missed on jax |",
    ]
    # Rows of two comparisons are not compared.
    assert report.targets_table([_row(), _row("Elsewhere", library="textbook")]) == ""


def test_targets_of_costs_and_of_any_backend():
    def row(library, median, **fields):
        return _row(library=library, median=median, model="pvt_v2_b1", **fields)

    memory = {"measure": "memory"}
    rows = [row("keras_spm", 5.0, **memory), row("transformers", 4.0, **memory)]
    assert "| 1.25 | – | – | ≤ 1.1; missed on torch |" in report.targets_table(rows)
    rows = [row("keras_spm", 5.0), row("keras_spm", 2.0, backend="jax")]
    rows.append(row("transformers", 4.0, compiled=True))
    assert "| 0.80 | – | 2.00 | ≥ 1 on the best backend |" in report.targets_table(rows)


def test_every_target_is_measured_by_the_suite():
    """The model and the baselines of a target are in one comparison."""
    comparisons = [each for part in suite.STANDARD for each in suite.PARTS[part]()]
    rows = [
        _row(comparison.title, **dataclasses.asdict(case), measure=measure)
        for comparison in comparisons
        for case in comparison.cases
        for measure in comparison.measures
    ]
    assert len({comparison.title for comparison in comparisons}) == len(comparisons)
    lines = report.targets_table(rows).splitlines()[2:]
    assert len(lines) == len(list(suite.targets()))
    assert all("| 1.00 | 1.00 | 1.00 |" in line for line in lines)


def test_ratios_are_those_of_each_round():
    # The second round is slow for both.
    assert benchmark.ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == 3


@pytest.mark.release
def test_accelerator_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "ROUNDS", 3)
    monkeypatch.setattr(accelerator, "SECONDS", 0.0)
    # Without compilation, which takes a minute on a CPU.
    layer = Case("keras_spm", "merging_16_32", "torch", batch=2, size=8)
    monkeypatch.setattr(accelerator, "comparisons", lambda *_: [("A layer", [layer])])
    options = ["--backend", "torch", "--dtype", "float32"]
    assert accelerator.main([str(tmp_path), *options]) == 0
    rows = report.read(tmp_path / "accelerator.csv")
    assert [row.measure for row in rows] == ["forward", "train"]
    assert report.markdown(rows) in (tmp_path / "accelerator.md").read_text()
    assert "aten::" in (tmp_path / "profile.txt").read_text()


def test_accelerator_keeps_the_most_important():
    titles = [title for title, _ in accelerator.comparisons(*_ALL, size=224)]
    assert titles[0] == "pvt_v2_b1, pvt_v2_spm_b1, bfloat16, batch 128, 224×224"
    assert len(titles) == len(set(titles)) == 14
    assert all(len(cases) <= 7 for _, cases in accelerator.comparisons(*_ALL, size=224))


_ALL = (accelerator.MODELS, accelerator.DTYPES, accelerator.BACKENDS, accelerator.BATCHES)


@pytest.mark.release
def test_deployed(tmp_path):
    """A file runs in its runtime, in a process without Keras."""
    cases = [
        Case("keras_spm", "pvt_v2_mini", "onnxruntime", dtype=dtype, batch=2, size=64)
        for dtype in ("float32", "int8")
    ]
    comparison = suite.Comparison("deployed", tuple(cases), ("forward",))
    rows = benchmark.measure_comparison(comparison, {"float32": 1e9}, 3, 0.0, tmp_path)
    assert [row.dtype for row in rows] == ["float32", "int8"]
    assert rows[0].ratio == 1 and all(row.ratio > 0 and row.macs > 1e6 for row in rows)
    assert "images/s | × first" in report.markdown(rows)
