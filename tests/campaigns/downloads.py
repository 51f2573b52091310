"""The download campaign: after any failure, the cache has correct files or none.

Run with `KERAS_BACKEND=torch python -m tests.campaigns.downloads`. Each client is a process and
uses a local hub that fails on purpose. After each case, a client without the fault must load
the published values from the same cache. The result is written to `downloads.md` next to this
file. The exit status is 1 if a case fails.
"""

import collections
import dataclasses
import hashlib
import pathlib
import platform
import re
import signal
import sys
import tempfile
import time
from importlib import metadata

from tests.campaigns import client, published
from tests.campaigns.client import Outcome
from tests.campaigns.processes import PROCESSES
from tests.campaigns.published import CONFIG, PROCESSOR, REPOSITORIES, SHARDS, WEIGHTS
from tests.hub_server import FAULTS, Hub, declared_hash

RESULT = pathlib.Path(__file__).with_suffix(".md")
LIMIT = 60  # Seconds that a client may take.


@dataclasses.dataclass(frozen=True)
class Case:
    """A failure, and the expected outcome of the clients.

    Attributes:
        name: name of the failure.
        file: the file with the fault. Its repository is loaded.
        reason: regular expression that must match the error.
        end: expected `end` of every `Outcome`.
        lacking: file that the loaded model lacks, or None.
        fault: fault of the server, a key of `FAULTS`, or None.
        clients: number of processes that load at the same time.
        disk_full: whether the file is one byte larger than the free space.
        filled: whether the cache already has all files.
        read_only: whether the cache is read-only.
        killed: whether the client is killed when the download stalls.
    """

    name: str
    file: str
    reason: str = ""
    end: str = "DownloadError"
    lacking: str | None = None
    fault: str | None = None
    clients: int = 1
    disk_full: bool = False
    filled: bool = False
    read_only: bool = False
    killed: bool = False


# {fault: regular expression of the error}; the other faults are harmless.
_REASONS = {
    "401": "401 Unauthorized",
    "404": "there is no such file|has none of",
    "429": "429 Too Many Requests",
    "500": "500 Internal Server Error",
    "gated": "access is restricted",
    "private": "or it is private",
    "hangs up": "without sending a response",
    **{
        f"dropped at {share} %": "without sending complete message body" for share in (0, 1, 50, 99)
    },
    "stalls at 50 %": "timed out",
    "too long": "Consistency check failed",
    "too short": "Consistency check failed",
    "wrong bytes": "download incomplete or corrupt",
}


def _cases():
    for fault in FAULTS:
        for file in REPOSITORIES:
            if (fault, file) == ("404", PROCESSOR):  # It is optional.
                yield Case(fault, file, end="loaded", lacking=PROCESSOR, fault=fault)
            elif fault in _REASONS:
                yield Case(fault, file, _REASONS[fault], fault=fault)
            else:
                yield Case(fault, file, end="loaded", fault=fault)
    for file in REPOSITORIES:
        yield Case("killed at 50 %", file, end="SIGKILL", fault="stalls at 50 %", killed=True)
    for file in REPOSITORIES:
        if file != PROCESSOR:  # The configuration is larger and fails first.
            yield Case("disk full", file, "File too large", disk_full=True)
    for clients in (2, 8):
        for file in (WEIGHTS, SHARDS[1]):
            yield Case(f"{clients} processes", file, end="loaded", clients=clients)
    for clients in (2, 8):
        for file in (WEIGHTS, SHARDS[1]):
            # One process may remove the file while another one reads it.
            reason = f"{_REASONS['wrong bytes']}|No such file"
            name = f"{clients} processes, wrong bytes"
            yield Case(name, file, reason, fault="wrong bytes", clients=clients)
    for file in (WEIGHTS, SHARDS[1]):
        yield Case("read-only cache, filled", file, end="loaded", filled=True, read_only=True)
    yield Case("read-only cache, empty", CONFIG, "Permission denied", read_only=True)


CASES = tuple(_cases())


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a case.

    Attributes:
        case: the case.
        outcome: outcome of its clients, as text.
        seconds: duration.
        cached: contents of the cache afterwards, as text.
        complaints: list of errors.
    """

    case: Case
    outcome: str
    seconds: float
    cached: str
    complaints: list


def run(case, repositories):
    """Runs a case, and then a client without the fault with the same cache.

    Args:
        case: a `Case`.
        repositories: {name: folder}, from `published.publish`.

    Returns:
        The `Result`.
    """
    with tempfile.TemporaryDirectory() as temporary, Hub().running() as hub:
        hub.repositories = repositories
        site = Site(hub, pathlib.Path(temporary), REPOSITORIES[case.file])
        if case.filled:
            site.start().outcome()
        site.set_mode(0o555 if case.read_only else 0o755)
        started = time.monotonic()
        outcomes = _attempt(case, site)
        seconds = time.monotonic() - started
        cached = site.cached()
        complaints = [each for outcome in outcomes for each in _complaints(case, outcome, site)]
        complaints += site.wrong_files()
        hub.faults.clear()
        site.set_mode(0o755)
        again = Case("no fault", case.file, end="loaded")
        complaints += _complaints(again, site.start().outcome(), site)
        complaints += site.wrong_files(at_the_end=True)
    return Result(case, _in_words(case, outcomes), seconds, cached, complaints)


def _attempt(case, site):
    """Returns the outcomes of a case's clients."""
    site.hub.faults = {case.file: case.fault}
    room = (site.repository / case.file).stat().st_size - 1 if case.disk_full else None
    clients = [site.start(room, unprivileged=case.read_only) for _ in range(case.clients)]
    if case.killed and site.hub.stalled.wait(LIMIT):
        clients[0].process.kill()
    return [each.outcome() for each in clients]


def _complaints(case, outcome, site):
    """Yields the errors of a client's outcome."""
    if outcome.end != case.end:
        first_line, _, _ = outcome.detail.partition("\n")
        yield f"ended with {outcome.end}, not {case.end}: {first_line}"
    elif outcome.end == "loaded":
        if outcome.detail != published.digest(site.repository, case.lacking):
            yield "the loaded values differ from the published ones"
    elif outcome.end == "DownloadError":
        parts = {
            "address": re.escape(site.address),
            "file": re.escape(case.file),
            "reason": case.reason,
            "path": re.escape(str(site.cache)),
            "remedy": "HF_HOME.*load_weights=False",
        }
        for part, pattern in parts.items():
            if not re.search(pattern, outcome.detail):
                yield f"the error does not name the {part}"
    if outcome.strays:
        yield f"wrote outside the cache: {', '.join(outcome.strays)}"


def _in_words(case, outcomes):
    """Returns the ends and reasons of the outcomes as text, with their counts."""
    found = collections.Counter()
    for outcome in outcomes:
        reason = re.search(case.reason, outcome.detail)
        found[f"{outcome.end}: {reason[0]}" if reason and reason[0] else outcome.end] += 1
    several = len(outcomes) > 1
    return "; ".join(f"{count} × {end}" if several else end for end, count in found.items())


class Site:
    """The caches of a case, and the clients that load a repository into them.

    Args:
        hub: a running `Hub`.
        folder: empty folder for the caches.
        name: name of the repository.
    """

    def __init__(self, hub, folder, name):
        self.hub, self.folder = hub, folder
        self.address, self.repository = f"hf://{name}", hub.repositories[name]
        self.cache, self.assets = folder / "hub", folder / "assets"

    def start(self, room=None, unprivileged=False):
        """Starts a client, optionally with a limit on the size of files, or without privileges."""
        return _Client(self.address, self.hub.settings(self.folder), room, unprivileged)

    def set_mode(self, mode):
        """Sets the permissions of the folder and all folders in it."""
        for path in [self.folder, *self.folder.rglob("*")]:
            if path.is_dir():
                path.chmod(mode)

    def cached(self):
        """Returns the contents of the cache as text."""
        files = [path for path in self.cache.rglob("snapshots/*/*") if path.is_file()]
        unfinished = list(self.cache.rglob("*.incomplete"))
        published_files = len(list(self.repository.iterdir()))
        also = f", {len(unfinished)} unfinished" if unfinished else ""
        return f"{len(files)} of {published_files} files{also}"

    def wrong_files(self, at_the_end=False):
        """Yields errors of the finished files; at the end all files must be finished."""
        declared = {}
        for path in self.repository.iterdir():
            contents = path.read_bytes()
            declared[declared_hash(path.name, contents)] = contents
        for blob in self.cache.rglob("blobs/*"):
            if blob.suffix != ".incomplete" and blob.read_bytes() != declared.get(blob.name):
                yield f"the cache has wrong bytes in {blob.name[:12]}…"
        for path in self.assets.rglob("*.safetensors"):
            finished = at_the_end or not path.name.startswith(".")
            if finished and path.stem != hashlib.sha256(path.read_bytes()).hexdigest():
                yield f"the cache of converted files has wrong bytes in {path.name}"


class _Client:
    """A process that runs `client.load` with these arguments."""

    def __init__(self, *arguments):
        self._outcome, sender = PROCESSES.Pipe(duplex=False)
        self.process = PROCESSES.Process(target=client.load, args=(sender, *arguments))
        self.process.start()
        sender.close()  # So that the end of the process is the end of the pipe.

    def outcome(self):
        """Waits for the outcome; of a process that died, it is the signal or exit status."""
        try:
            if self._outcome.poll(LIMIT):
                return self._outcome.recv()
            return Outcome("timeout", f"after {LIMIT} s")
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            return Outcome(signal.Signals(-code).name if code < 0 else f"exit status {code}", "")
        finally:
            self.process.kill()
            self.process.join()


def _report(results, minutes):
    """Returns the results as Markdown."""
    failed = [result for result in results if result.complaints]
    packages = ("keras-spm", "huggingface_hub", "keras", "torch")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return "\n".join(
        (
            "# Download campaign",
            "",
            "Written by `KERAS_BACKEND=torch python -m tests.campaigns.downloads`; its docstring "
            "describes the checks. huggingface_hub waits at most "
            f"{client.LONGEST_WAIT} s between attempts, its read timeout is {client.READ_TIMEOUT} "
            f"s, and its chunks have {client.CHUNK_SIZE} bytes, so that it resumes small files.",
            "",
            f"{len(results)} cases, {len(failed)} failed, {minutes:.1f} minutes. "
            f"Python {platform.python_version()} on {platform.system()}, {versions}.",
            "",
            "| case | file | outcome | s | cache afterwards | verdict |",
            "| --- | --- | --- | ---: | --- | --- |",
            *(
                f"| {each.case.name} | `{each.case.file}` | {each.outcome} | {each.seconds:.1f} "
                f"| {each.cached} | {_verdict(each)} |"
                for each in results
            ),
            "",
        )
    )


def _verdict(result):
    return "; ".join(dict.fromkeys(result.complaints)) or "right"


def main():
    """Runs all cases and writes the report; returns the exit status."""
    results, started = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        repositories = published.publish(pathlib.Path(folder))
        for number, case in enumerate(CASES, start=1):
            result = run(case, repositories)
            results.append(result)
            print(
                f"{number}/{len(CASES)} {case.name}, {case.file}: {result.outcome}, "
                f"{result.seconds:.1f} s: {_verdict(result)}",
                flush=True,
            )
    RESULT.write_text(_report(results, (time.monotonic() - started) / 60))
    return int(any(result.complaints for result in results))


if __name__ == "__main__":
    sys.exit(main())
