"""Benchmarks the models on one GPU or TPU, in at most ten minutes.

    python zoo/accelerator.py FOLDER
    python zoo/accelerator.py FOLDER --minutes 4 --models pvt_v2_b1 --batch 128 --dtype bfloat16

It measures forward passes and training steps of PVT v2 b1 and b2, with the default merging and
with Stepwise Patch Merging, on JAX and on PyTorch, eager and compiled, in bfloat16 and float32;
then timm's models and the textbook merging layer, where they are installed. The most important
comparisons come first, and none starts after the given time.

FOLDER gets `accelerator.csv`, `accelerator.md` with the tables, and `profile.txt`, where the time
of the slowest training step goes. The cases of a comparison are built and compiled at the same
time, and then take turns. On a machine without an accelerator it runs on the CPU.
"""

import argparse
import dataclasses
import datetime
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import benchmark
import report
from case import Case
from processes import WorkerError, started

MODELS = ("pvt_v2_b1", "pvt_v2_spm_b1", "pvt_v2_b2", "pvt_v2_spm_b2")
DTYPES = ("bfloat16", "float32")
BACKENDS = ("jax", "torch")
BATCHES = (128, 64, 256)
PASSES = ("forward", "train")
ROUNDS, SECONDS = 20, 2.0  # Of a case and a pass.
LAST_COMPARISON = 90  # Seconds that are kept for the comparison that runs, and the profile.


def comparisons(
    models: Sequence[str],
    dtypes: Sequence[str],
    backends: Sequence[str],
    batches: Sequence[int],
    size: int,
) -> Iterator[tuple[str, list[Case]]]:
    """Yields (title, cases), the most important first."""
    for batch in batches:
        for dtype in dtypes:
            for pair in (models[start : start + 2] for start in range(0, len(models), 2)):
                shape = {"dtype": dtype, "batch": batch, "size": size}
                cases = [
                    Case("keras_spm", model, backend, compiled, **shape)
                    for model in pair
                    for backend in backends
                    for compiled in ((True, False) if backend == "torch" else (False,))
                ]
                if "torch" in backends:
                    cases += [Case("timm", pair[0], compiled=True, **shape)]
                yield f"{', '.join(pair)}, {dtype}, batch {batch}, {size}×{size}", cases
    if "torch" not in backends:
        return
    for dtype in dtypes:
        shape = {"dtype": dtype, "batch": batches[0], "size": max(size // 4, 1)}
        cases = [Case("keras_spm", "merging_64_128", backend, **shape) for backend in backends]
        cases += [Case("textbook", "merging_64_128", "torch", each, **shape) for each in (0, 1)]
        yield f"Stepwise Patch Merging, 64 to 128 channels, {dtype}, batch {batches[0]}", cases


def measure(
    title: str, cases: Sequence[Case], peaks: dict[str, float], folder: str
) -> tuple[list[report.Row], dict[Case, str]]:
    """Returns the rows of a comparison, and the profile of its slowest training step."""
    rows, profiles = [], {}
    about = {"date": datetime.date.today().isoformat(), "machine": benchmark.machine()}
    with started(cases, folder) as workers:
        macs = {worker.case: worker.ask("macs") for worker in workers}
        slowest = None

        def add(case, name, values):
            values = {**report.summary(values), "macs": macs[case], "peak": peaks[case.dtype]}
            case = dataclasses.asdict(case)
            rows.append(report.Row(title, **case, measure=name, ratio=0.0, **values, **about))

        for name in PASSES:
            times = benchmark.measure_in_turns(workers, name, ROUNDS, SECONDS)
            for case, values in times.items():
                add(case, name, values)
            own = {case: min(each) for case, each in times.items() if case.library == "keras_spm"}
            slowest = max(own, key=own.get) if own else None
        for worker in workers:
            if memory := worker.ask("device memory"):
                add(worker.case, "device memory", [memory])
            if worker.case == slowest:
                profiles[slowest] = worker.ask("profile")
    return rows, profiles


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("folder", type=pathlib.Path, help="folder of the results")
    add("--minutes", type=float, default=9.5, help="time limit")
    add("--models", nargs="+", default=MODELS, help="long names of backbone presets")
    add("--dtype", nargs="+", choices=DTYPES, default=DTYPES, help="float32 or mixed bfloat16")
    add("--backend", nargs="+", choices=BACKENDS, default=BACKENDS)
    add("--batch", nargs="+", type=int, default=BATCHES, help="batch sizes")
    add("--size", type=int, default=224, help="height and width")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    rows, profiles, failed = [], {}, False
    with tempfile.TemporaryDirectory() as folder:
        peaks = {
            dtype: benchmark.peak_speed(dtype, ROUNDS, SECONDS, options.backend)
            for dtype in options.dtype
        }
        for title, cases in comparisons(
            options.models, options.dtype, options.backend, options.batch, options.size
        ):
            if time.monotonic() > end - LAST_COMPARISON and rows:
                print(f"no time for: {title}", file=sys.stderr)
                continue
            try:
                new_rows, new_profiles = measure(title, cases, peaks, folder)
            except WorkerError as error:  # Such as too little memory: the others may fit.
                print(f"failed: {title}: {error}", file=sys.stderr)
                failed = True
                continue
            rows += new_rows
            profiles |= new_profiles
            print(f"{report.markdown(new_rows)}\n", flush=True)
            _save(options.folder, rows, profiles)
    return int(failed)


def _save(folder, rows, profiles):
    report.write(folder / "accelerator.csv", rows)
    (folder / "accelerator.md").write_text(report.markdown(rows) + "\n")
    text = "\n\n".join(f"{case}\n{profile}" for case, profile in profiles.items())
    (folder / "profile.txt").write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
