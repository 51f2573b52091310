"""A small server on loopback in the hub's own protocol, that also fails on purpose."""

import contextlib
import hashlib
import http.server
import re
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_ADDRESS = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class Hub:
    """Repositories, faults and a log of what was asked.

    Attributes:
        repositories: {"owner/name": folder}.
        faults: {file name: fault}, a key of `FAULTS`.
        asked: list of (method, path).
        url: of the running server.
    """

    def __init__(self):
        self.repositories, self.faults, self.asked, self.url = {}, {}, [], None

    @contextlib.contextmanager
    def running(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):  # noqa: N802
        self._answer(with_body=False)

    def do_GET(self):  # noqa: N802
        self._answer(with_body=True)

    def _answer(self, with_body):
        self.hub.asked.append((self.command, self.path))
        match = _ADDRESS.fullmatch(self.path)
        folder = self.hub.repositories.get(match["repository"]) if match else None
        if folder is None:
            return self._refuse(404, "RepoNotFound")
        if match["revision"] not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        path = folder / match["file"]
        fault = self.hub.faults.get(match["file"])
        if fault in REFUSALS:
            return self._refuse(*REFUSALS[fault])
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        contents = path.read_bytes()
        declared = hashlib.sha256(contents).hexdigest()
        if fault in BODIES and with_body:
            contents = BODIES[fault](contents)
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{declared}"')
        self.send_header("X-Linked-Size", str(path.stat().st_size))
        length = path.stat().st_size if fault in DROPS else len(contents)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "none")
        self.end_headers()
        if with_body:
            self.wfile.write(contents)
        if fault in DROPS:
            self.close_connection = True

    def _refuse(self, status, code):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()


# Statuses with the hub's own error codes.
REFUSALS = {
    "404": (404, "EntryNotFound"),
    "gated": (403, "GatedRepo"),
    "429": (429, ""),
    "500": (500, ""),
}


def _part(share):
    return lambda contents: contents[: int(len(contents) * share)]


def _other_bytes(contents):
    middle = len(contents) // 2
    return contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1 :]


# The connection ends early; the length was announced rightly.
DROPS = {"dropped at 0 %": _part(0), "dropped at 50 %": _part(0.5), "dropped at 99 %": _part(0.99)}
BODIES = {
    **DROPS,
    "wrong length": lambda contents: contents + b"more",
    "wrong bytes": _other_bytes,
}
FAULTS = (*REFUSALS, *BODIES)
