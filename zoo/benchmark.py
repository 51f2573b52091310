"""Benchmarks this library against other implementations of the same models.

    python zoo/benchmark.py                      runs the standard suite and writes
                                                 benchmark.csv, benchmark.png and the tables
                                                 in README.md
    python zoo/benchmark.py --only layers        runs some parts of the suite
    python zoo/benchmark.py --table              writes tables and plot from the CSV file
    python zoo/benchmark.py --model swin_tiny --backend jax --batch 1 --size 448
                                                 benchmarks one model and prints the table

Each model runs in its own process, which sleeps while others run. README.md in this folder
describes the measures.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import math
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import deployed
import report
import suite
from case import Case, cores
from processes import Worker, WorkerError, started, successful

HERE = pathlib.Path(__file__).parent
LIBRARIES = ("textbook", "transformers", "timm", "keras_hub", "zeromodels")
PACKAGES = (
    *("keras", "tensorflow", "jax", "torch"),
    *("transformers", "keras-hub", "zeromodels", "timm"),
)
MIN_ROUNDS = 3
FIRST_STEPS = 3  # Training steps in which memory is measured.
MATRIX_SIZE = "2048"  # Of the product that measures the peak speed of the machine.
PAUSE = 0.02  # Seconds between two turns, for the threads of the last process to go to sleep.


# === Measures ===


def measure_in_turns(
    workers: Sequence[Worker], request: str, rounds: int, seconds: float
) -> dict[Case, list[float]]:
    """Returns {case: seconds of each round}. In a round, each worker runs once.

    After the first rounds, workers that ran longer than `seconds` in total are skipped.
    """
    workers = successful(workers, lambda worker: worker.ask(request))  # Warmup, compilation.
    times = {worker.case: [] for worker in workers}
    for number in range(rounds if workers else 0):
        first = number % len(workers)
        for worker in (*workers[first:], *workers[:first]):
            values = times[worker.case]
            if len(values) < MIN_ROUNDS or sum(values) < seconds:
                time.sleep(PAUSE)
                values.append(worker.ask(request))
    return times


def measure_first_steps(case: Case) -> dict[str, float]:
    """Returns {measure: value} of the first training steps of a new process."""
    with tempfile.TemporaryDirectory() as folder, started([case], folder) as workers:
        if not workers:
            return {}
        first, *_ = (workers[0].ask("train") for _ in range(FIRST_STEPS))
        memory, device_memory = (workers[0].ask(name) for name in ("memory", "device memory"))
        values = {"first step": first, "memory": memory, "device memory": device_memory}
        return {name: value for name, value in values.items() if value}


def peak_speed(
    dtype: str, rounds: int, seconds: float, backends: Sequence[str] | None = None
) -> float:
    """Returns the MACs per second of a matrix product on the fastest backend."""
    backends = backends or suite.BACKENDS
    products = [Case("matrix product", MATRIX_SIZE, backend, dtype=dtype) for backend in backends]
    with tempfile.TemporaryDirectory() as folder, started(products, folder) as workers:
        times = measure_in_turns(workers, "forward", rounds, seconds)
        if not times:
            raise WorkerError("The matrix product, the peak speed, runs on no backend.")
        fastest = min(map(statistics.median, times.values()))
        return workers[0].ask("macs") / fastest


def _measure(comparison, rounds, seconds, folder):
    """Yields (case, measure, values, MACs or 0, ratio or 0) of a comparison."""
    deployed.write_all(comparison.cases, folder)
    timed = [name for name in comparison.measures if name in report.PASSES]
    if timed:
        for shape in dict.fromkeys((case.batch, case.size) for case in comparison.cases):
            cases = [case for case in comparison.cases if (case.batch, case.size) == shape]
            with started(cases, folder) as workers:
                macs = {worker.case: worker.ask("macs") for worker in workers}
                for name in timed:
                    times = measure_in_turns(workers, name, rounds, seconds)
                    first = next(iter(times.values()), [])
                    for case, values in times.items():
                        yield case, name, values, macs[case], ratio(values, first)
    if len(timed) < len(comparison.measures):
        for case in comparison.cases:
            for name, value in measure_first_steps(case).items():
                if name in comparison.measures:
                    yield case, name, [value], 0, 0.0


def ratio(values: Sequence[float], first: Sequence[float]) -> float:
    """Returns the median over the rounds of a case's time relative to the first case's."""
    return statistics.median(mine / other for mine, other in zip(values, first, strict=False))


def measure_comparison(
    comparison: suite.Comparison,
    peaks: dict[str, float],
    rounds: int,
    seconds: float,
    folder: str | os.PathLike,
) -> list[report.Row]:
    """Returns the rows of a comparison.

    Args:
        comparison: the comparison.
        peaks: {dtype: MACs per second}, see `peak_speed`.
        rounds: highest number of rounds.
        seconds: time after which a case runs in no more rounds.
        folder: see `Worker`.
    """
    date, description = datetime.date.today().isoformat(), machine()
    return [
        report.Row(
            comparison.title,
            **dataclasses.asdict(case),
            measure=name,
            **report.summary(values),
            ratio=relative,
            macs=macs,
            peak=peaks.get(case.dtype, 0.0),
            date=date,
            machine=description,
        )
        for case, name, values, macs, relative in _measure(comparison, rounds, seconds, folder)
    ]


# === The machine ===


def machine() -> str:
    """Returns processor, cores, accelerators, system and package versions in one line."""
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    hardware = [_processor(), f"{cores()} cores", *_accelerators(), platform.system()]
    return f"{', '.join(hardware)}; {', '.join(versions)}"


def _processor():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _accelerators():
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.splitlines()


# === Command line ===


def save(rows: Sequence[report.Row], folder: pathlib.Path) -> None:
    """Writes the CSV file, the plot, and the tables in the folder's README, if it has one."""
    report.write(folder / "benchmark.csv", rows)
    report.plot(folder / "benchmark.png", rows)
    readme = folder / "README.md"
    if readme.exists() and report.BEGIN in (text := readme.read_text()):
        before, rest = text.split(report.BEGIN)
        _, after = rest.split(report.END)
        tables = "\n\n".join(filter(None, (report.targets_table(rows), report.markdown(rows))))
        readme.write_text(f"{before}{report.BEGIN}\n{tables}\n{report.END}{after}")


def _comparisons(options):
    if not options.model:
        names = options.only or suite.STANDARD
        return [comparison for name in names for comparison in suite.PARTS[name]()]
    size = options.size or (56 if options.model.startswith("merging") else 224)
    own = [
        Case("keras_spm", options.model, backend, False, options.dtype, options.batch, size)
        for backend in options.backend
    ]
    others = dict.fromkeys(reference for case in own for reference in suite.references(case))
    if options.against is not None:
        others = [case for case in others if case.library in options.against]
    backends = ", ".join(options.backend)
    title = f"{options.model} on {backends}, {options.dtype}, batch {options.batch}, {size}×{size}"
    return [suite.Comparison(title, (*own, *others), tuple(options.measure))]


def _make_writable(folder):
    """Makes the folder of the results, before the measurements."""
    folder.mkdir(parents=True, exist_ok=True)
    files = (folder / name for name in ("benchmark.csv", "benchmark.png", "README.md"))
    for path in (folder, *files):
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(f"{path} cannot be written: permission denied")


def _seconds(text):
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be at least 0 and finite. Received: {text}")
    return value


def _at_least_one(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an int of at least 1. Received: {text}")
    return int(text)


def _model(name):
    if name.startswith("merging") and not re.fullmatch(r"merging_[1-9]\d*_[1-9]\d*", name):
        raise argparse.ArgumentTypeError(
            f"a merging layer must be named like merging_64_128. Received: {name}"
        )
    return name


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=suite.PARTS, help="parts of the suite to run")
    text = "exported models in their runtimes, as --only deployed"
    add("--deployed", dest="only", action="store_const", const=["deployed"], help=text)
    add("--table", action="store_true", help="only write tables and plot from benchmark.csv")
    add("--rounds", type=_at_least_one, default=11, help="highest number of rounds")
    add("--seconds", type=_seconds, default=5.0, help="time limit per case and measure")
    add(
        "--output",
        type=pathlib.Path,
        metavar="FOLDER",
        help="folder of the results; zoo by default, or none with --model",
    )
    own = parser.add_argument_group("benchmark of one model")
    own.add_argument(
        "--model",
        type=_model,
        help="such as merging_64_128, pvt_v2_b1, segmenter:pvt_v2_b1 or detector:pvt_v2_b1",
    )
    own.add_argument("--backend", nargs="+", choices=suite.BACKENDS, default=list(suite.BACKENDS))
    own.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    own.add_argument("--batch", type=_at_least_one, default=8, help="batch size")
    own.add_argument("--size", type=_at_least_one, help="height and width")
    own.add_argument("--measure", nargs="+", choices=report.MEASURES, default=["forward", "train"])
    own.add_argument(
        "--against", nargs="*", choices=LIBRARIES, help="other libraries; all by default"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.model and (options.only or options.table):
        parser.error("--only and --table belong to the suite and cannot be used with --model")
    folder = options.output or (None if options.model else HERE)
    try:
        rows = report.read(folder / "benchmark.csv") if folder else []
        if not options.table:
            if folder:
                _make_writable(folder)
            for new_rows in _run(_comparisons(options), options.rounds, options.seconds):
                rows = report.merge(rows, new_rows)
                print(f"{report.markdown(new_rows)}\n", flush=True)
                if folder:
                    save(rows, folder)
        elif not rows:
            parser.error(f"{folder} has no benchmark.csv")
        else:
            save(rows, folder)
    except (ValueError, OSError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _run(comparisons, rounds, seconds):
    """Yields the rows of each comparison."""
    dtypes = {
        case.dtype
        for comparison in comparisons
        for case in comparison.cases
        if set(comparison.measures) & set(report.PASSES) and case.dtype != "int8"
    }
    peaks = {dtype: peak_speed(dtype, rounds, seconds) for dtype in dtypes}
    with tempfile.TemporaryDirectory() as folder:
        for comparison in comparisons:
            yield measure_comparison(comparison, peaks, rounds, seconds, folder)


if __name__ == "__main__":
    sys.exit(main())
