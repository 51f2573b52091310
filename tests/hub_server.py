"""A local server with the hub's protocol that can fail on purpose."""

import contextlib
import dataclasses
import hashlib
import http.server
import re
import sys
import threading
import time
from collections.abc import Callable

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_ADDRESS = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_RANGE = re.compile(r"bytes=(?P<start>\d+)-")


@dataclasses.dataclass(frozen=True)
class Fault:
    """How the response to a request of a file differs from the correct one.

    Attributes:
        status: HTTP status to send instead of the file; None to send a body.
        code: the hub's error code of that status, in a header.
        change: function from the file's bytes to the bytes that are announced and sent.
        share: share of the body that is sent; the rest is announced, but not sent.
        once: whether only the first request fails.
        stalls: whether the connection stays open after the share, without sending anything.
        pause: seconds before each of the `PIECES` of the body.
        hangs_up: whether the connection is closed without a response.
    """

    status: int | None = None
    code: str = ""
    change: Callable[[bytes], bytes] = bytes
    share: float = 1.0
    once: bool = False
    stalls: bool = False
    pause: float = 0.0
    hangs_up: bool = False


def _other_bytes(contents):
    middle = len(contents) // 2
    return contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1 :]


NO_FAULT = Fault()
PIECES = 40
FAULTS = {
    "401": Fault(401),
    "404": Fault(404, "EntryNotFound"),
    "429": Fault(429),
    "500": Fault(500),
    "gated": Fault(403, "GatedRepo"),
    "private": Fault(401, "RepoNotFound"),
    "hangs up": Fault(hangs_up=True),
    "dropped at 0 %": Fault(share=0.0),
    "dropped at 1 %": Fault(share=0.01),
    "dropped at 50 %": Fault(share=0.5),
    "dropped at 99 %": Fault(share=0.99),
    "dropped once at 50 %": Fault(share=0.5, once=True),
    "stalls at 50 %": Fault(share=0.5, stalls=True),
    "slow drip": Fault(pause=0.02),
    "too long": Fault(change=lambda contents: contents + b"more"),
    "too short": Fault(change=lambda contents: contents[:-4]),
    "wrong bytes": Fault(change=_other_bytes),
}


def declared_hash(name, contents):
    """Returns the hash that the hub declares: git's of a small file, sha256 of a large one."""
    if name.endswith(".json"):
        blob = f"blob {len(contents)}\0".encode() + contents
        return hashlib.sha1(blob, usedforsecurity=False).hexdigest()
    return hashlib.sha256(contents).hexdigest()


class Hub:
    """Repositories, faults and a log of the requests.

    Attributes:
        repositories: {"owner/name": folder}.
        faults: {file name: fault}, a key of `FAULTS`.
        asked: list of (method, path).
        url: of the running server.
        stalled: event that is set when a download stalls.
        closing: event that is set when the server ends; it also ends stalled downloads.
    """

    def __init__(self):
        self.repositories, self.faults, self.asked, self.url = {}, {}, [], None
        self.stalled, self.closing = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def running(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield self
        finally:
            self.closing.set()
            server.shutdown()
            server.server_close()

    def settings(self, folder):
        """Returns huggingface_hub's constants for this hub and for caches in a folder.

        Args:
            folder: path. `hub/` in it is the cache, `assets/` the cache of derived files.

        Returns:
            {name in `huggingface_hub.constants`: value}.
        """
        return {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(folder / "hub"),
            "HF_ASSETS_CACHE": str(folder / "assets"),
            "HF_HUB_OFFLINE": False,
            "HF_TOKEN_PATH": str(folder / "token"),
        }


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # Clients may disconnect.
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):  # noqa: N802
        self._resolve()

    def do_GET(self):  # noqa: N802
        self._resolve()

    def _resolve(self):
        """Responds to a request of a file."""
        self.hub.asked.append((self.command, self.path))
        match = _ADDRESS.fullmatch(self.path)
        folder = self.hub.repositories.get(match["repository"]) if match else None
        if folder is None:
            return self._refuse(404, "RepoNotFound")
        if match["revision"] not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        path = folder / match["file"]
        fault = FAULTS.get(self.hub.faults.get(match["file"]), NO_FAULT)
        if fault.hangs_up:
            self.close_connection = True
            return None
        if fault.status:
            return self._refuse(fault.status, fault.code)
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        return self._send(path, fault)

    def _send(self, path, fault):
        """Sends a file, or the rest of it from the requested position."""
        contents = path.read_bytes()
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        start = int(asked["start"]) if asked else 0
        body = fault.change(contents) if self.command == "GET" else contents
        if asked and start >= len(body):
            return self._refuse(416, "")
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{declared_hash(path.name, contents)}"')
        self.send_header("X-Linked-Size", str(len(contents)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "GET":
            if fault.once:
                del self.hub.faults[path.name]
            end = int(len(body) * fault.share)
            self._send_body(body[start:end], fault)
            self.close_connection = end < len(body)

    def _send_body(self, body, fault):
        size = -(-len(body) // PIECES) if fault.pause else len(body)
        for start in range(0, len(body), size or 1):
            time.sleep(fault.pause)
            self.wfile.write(body[start : start + size])
        if fault.stalls:
            self.hub.stalled.set()
            self.hub.closing.wait()

    def _refuse(self, status, code):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()
