"""Times this library beside others that compute the same.

    python zoo/benchmark.py                      the standard suite: writes benchmark.csv,
                                                 benchmark.png and the tables in README.md
    python zoo/benchmark.py --only layers        makes a part of it again, or another
    python zoo/benchmark.py --table              only writes tables and plot from the CSV
    python zoo/benchmark.py --model swin_tiny --backend jax --batch 1 --size 448
                                                 answers a question of your own

Every contender is a process of its own, which sleeps while another has its turn. README.md
beside this file says how each measure is taken.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
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

import report
import suite
from contenders import Contender

HERE = pathlib.Path(__file__).parent
LIBRARIES = ("textbook", "transformers", "timm", "keras_hub", "zeromodels")
PACKAGES = (
    *("keras", "tensorflow", "jax", "torch"),
    *("transformers", "keras-hub", "zeromodels", "timm"),
)
FEWEST_ROUNDS = 3
STEPS_ALONE = 3
SIDE = "2048"  # Of the matrices whose product is the machine's limit.
# Between two turns, so that threads of the one before have stopped looking for work.
PAUSE = 0.02


# === Processes ===


class WorkerError(Exception):
    """A contender that could not be built or run; says why."""


class Worker:
    """A contender's process, and what it answers (see `worker.py`)."""

    def __init__(self, contender, folder):
        """Starts it. It may keep in `folder` what it compiles."""
        environment = {
            "KERAS_BACKEND": contender.backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TORCHINDUCTOR_CACHE_DIR": str(folder),
        }
        self.contender = contender
        self.messages = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, HERE / "worker.py", json.dumps(dataclasses.asdict(contender))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.messages,
            text=True,
            env={**os.environ, **environment},
        )

    def wait_until_built(self):
        if reason := self._answer().get("unavailable"):
            raise WorkerError(f"{self.contender}: {reason}")

    def ask(self, request):
        with contextlib.suppress(BrokenPipeError):  # The answer says what it died of.
            print(request, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.messages.seek(0)
        last = self.messages.read().strip().splitlines() or ["it ended without a word"]
        raise WorkerError(f"{self.contender}: {last[-1]}")

    def close(self):
        try:
            self.process.communicate(timeout=10)  # Its requests end, and so does it.
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        self.messages.close()


@contextlib.contextmanager
def started(contenders, folder):
    """Workers of those contenders that can be built; the others are named."""
    workers = [Worker(contender, folder) for contender in contenders]
    try:
        yield _able(workers, Worker.wait_until_built)
    finally:
        for worker in workers:
            worker.close()


def _able(workers, prepare):
    """Prepares workers, as many at a time as there are cores; returns those that are able.

    Raises:
        WorkerError: where one of ours is not.
    """
    with concurrent.futures.ThreadPoolExecutor(_cores()) as pool:
        outcomes = [pool.submit(prepare, worker) for worker in workers]
    able = []
    for worker, outcome in zip(workers, outcomes, strict=True):
        try:
            outcome.result()
            able.append(worker)
        except WorkerError as error:
            if worker.contender.library == "keras_spm":
                raise
            print(f"left out: {error}", file=sys.stderr)
    return able


# === Measures ===


def alternating(workers, request, rounds, seconds):
    """Returns {contender: seconds of every round}; all take one turn a round.

    Whoever has spent more than `seconds` in all sits out what follows the first rounds.
    """
    workers = _able(workers, lambda worker: worker.ask(request))  # Compiles; not counted.
    times = {worker.contender: [] for worker in workers}
    for number in range(rounds):
        first = number % len(workers)
        for worker in (*workers[first:], *workers[:first]):
            own = times[worker.contender]
            if len(own) < FEWEST_ROUNDS or sum(own) < seconds:
                time.sleep(PAUSE)
                own.append(worker.ask(request))
    return times


def alone(contender):
    """Returns {measure: value} of the first training steps of a fresh process."""
    with tempfile.TemporaryDirectory() as folder, started([contender], folder) as workers:
        if not workers:
            return {}
        first, *_ = (workers[0].ask("train") for _ in range(STEPS_ALONE))
        return {"first step": first, "memory": workers[0].ask("memory")}


def peak(dtype, rounds, seconds):
    """MACs a second of a matrix product, on the backend that does it best."""
    products = [Contender("matrix product", SIDE, each, dtype=dtype) for each in suite.BACKENDS]
    with tempfile.TemporaryDirectory() as folder, started(products, folder) as workers:
        times = alternating(workers, "forward", rounds, seconds)
        fastest = min(map(statistics.median, times.values()))
        return workers[0].ask("macs") / fastest


def measured(comparison, rounds, seconds, folder):
    """Yields (contender, measure, values, MACs or 0) of a comparison."""
    timed = [name for name in comparison.measures if name in report.PASSES]
    if timed:
        for shape in dict.fromkeys((each.batch, each.size) for each in comparison.contenders):
            members = [each for each in comparison.contenders if (each.batch, each.size) == shape]
            with started(members, folder) as workers:
                counts = {worker.contender: worker.ask("macs") for worker in workers}
                for name in timed:
                    times = alternating(workers, name, rounds, seconds)
                    for contender, values in times.items():
                        yield contender, name, values, counts[contender]
    if len(timed) < len(comparison.measures):
        for contender in comparison.contenders:
            for name, value in alone(contender).items():
                if name in comparison.measures:
                    yield contender, name, [value], 0


def rows_of(comparison, peaks, rounds, seconds, folder):
    """Returns the rows of a comparison."""
    date, here = datetime.date.today().isoformat(), machine()
    return [
        report.Row(
            comparison.title,
            **dataclasses.asdict(contender),
            measure=name,
            **report.summary(values),
            macs=macs,
            peak=peaks.get(contender.dtype, 0.0),
            date=date,
            machine=here,
        )
        for contender, name, values, macs in measured(comparison, rounds, seconds, folder)
    ]


# === The machine ===


def machine():
    """Returns processor, cores, accelerators and the versions of what runs, in one line."""
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    parts = [_processor(), f"{_cores()} cores", *_accelerators(), platform.system()]
    return f"{', '.join(parts)}; {', '.join(versions)}"


def _processor():
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _accelerators():
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.splitlines()


# === Command line ===


def save(rows, folder):
    """Writes the CSV, the plot, and the tables where the folder's README has their place."""
    report.write(folder / "benchmark.csv", rows)
    report.plot(folder / "benchmark.png", rows)
    readme = folder / "README.md"
    if readme.exists() and report.BEGIN in (text := readme.read_text()):
        before, rest = text.split(report.BEGIN)
        _, after = rest.split(report.END)
        tables = "\n\n".join(filter(None, (report.reached(rows), report.markdown(rows))))
        readme.write_text(f"{before}{report.BEGIN}\n{tables}\n{report.END}{after}")


def _comparisons(options):
    if not options.model:
        parts = options.only or suite.STANDARD
        return [comparison for part in parts for comparison in suite.PARTS[part]()]
    size = options.size or (56 if options.model.startswith("merging") else 224)
    ours = [
        Contender("keras_spm", options.model, backend, False, options.dtype, options.batch, size)
        for backend in options.backend
    ]
    others = dict.fromkeys(each for one in ours for each in suite.references(one))
    if options.against is not None:
        others = [each for each in others if each.library in options.against]
    backends = ", ".join(options.backend)
    title = f"{options.model} on {backends}, {options.dtype}, batch {options.batch}, {size}×{size}"
    return [suite.Comparison(title, (*ours, *others), tuple(options.measure))]


def _at_least_one(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an int of at least 1. Received: {text}")
    return int(text)


def _model(name):
    if name.startswith("merging") and not re.fullmatch(r"merging_[1-9]\d*_[1-9]\d*", name):
        raise argparse.ArgumentTypeError(f"a merging is merging_64_128 or such. Received: {name}")
    return name


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=suite.PARTS, help="parts of the suite")
    add("--table", action="store_true", help="measure nothing")
    add("--rounds", type=_at_least_one, default=11, help="at most so many")
    add("--seconds", type=float, default=5.0, help="that a contender may spend on a measure")
    add("--output", type=pathlib.Path, metavar="FOLDER", help="default: zoo; prints a --model's")
    own = parser.add_argument_group("a question of your own")
    own.add_argument(
        "--model",
        type=_model,
        help="merging_64_128, pvt_v2_b1, segmenter:…, detector:…, backbone:…",
    )
    own.add_argument("--backend", nargs="+", choices=suite.BACKENDS, default=list(suite.BACKENDS))
    own.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    own.add_argument("--batch", type=_at_least_one, default=8)
    own.add_argument("--size", type=_at_least_one, help="height and width")
    own.add_argument("--measure", nargs="+", choices=report.MEASURES, default=["forward", "train"])
    own.add_argument("--against", nargs="*", choices=LIBRARIES, help="default: all that can")
    return parser


def main(arguments=None):
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.model and (options.only or options.table):
        parser.error("--only and --table are about the suite, --model is a question of your own")
    folder = options.output or (None if options.model else HERE)
    try:
        rows = report.read(folder / "benchmark.csv") if folder else []
        if not options.table:
            for found in _found(_comparisons(options), options.rounds, options.seconds):
                rows = report.merged(rows, found)
                print(f"{report.markdown(found)}\n", flush=True)
                if folder:
                    save(rows, folder)
        elif not rows:
            parser.error(f"{folder} has no benchmark.csv")
        else:
            save(rows, folder)
    except (ValueError, OSError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _found(comparisons, rounds, seconds):
    """Yields the rows of each comparison."""
    dtypes = {
        contender.dtype
        for comparison in comparisons
        for contender in comparison.contenders
        if set(comparison.measures) & set(report.PASSES)
    }
    peaks = {dtype: peak(dtype, rounds, seconds) for dtype in dtypes}
    with tempfile.TemporaryDirectory() as folder:
        for comparison in comparisons:
            yield rows_of(comparison, peaks, rounds, seconds, folder)


if __name__ == "__main__":
    sys.exit(main())
