"""Where a step's time goes, by the profiler of its framework."""

import collections
import gzip
import json
import pathlib
import tempfile
from collections.abc import Callable

STEPS = 3
ROWS = 20


def profile(step: Callable[[], None], backend: str) -> str:
    """Returns a table of the operations that take the most time in a few steps."""
    step()
    return _jax(step) if backend == "jax" else _torch(step)


def _torch(step):
    import torch

    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(STEPS):
            step()
    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=order, row_limit=ROWS)


def _jax(step):
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            for _ in range(STEPS):
                step()
        (path,) = pathlib.Path(folder).rglob("perfetto_trace.json.gz")
        with gzip.open(path) as file:
            events = json.load(file)["traceEvents"]
    processes = {
        event["pid"]: event["args"]["name"]
        for event in events
        if event.get("name") == "process_name"
    }
    # Those of the devices, if there are any.
    devices = {pid for pid, name in processes.items() if "/device:" in name} or set(processes)
    totals = collections.Counter()
    for event in events:
        if "dur" in event and event["pid"] in devices:
            totals[event["name"]] += event["dur"]
    lines = [f"{total / STEPS / 1e3:10.3f} ms  {name}" for name, total in totals.most_common(ROWS)]
    return "\n".join(lines)
