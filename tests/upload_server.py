"""A local server with the hub's upload protocol, for small files in one commit."""

import base64
import contextlib
import http.server
import json
import pathlib
import re
import threading

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
_ADDRESS = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)/(?P<call>preupload|commit)/main")


@contextlib.contextmanager
def upload_server(root):
    """Runs the server; yields (url, {repository: whether it is private}).

    Args:
        root: folder for the uploaded files, in `owner/name`.
    """
    created = {}
    handler = type("Handler", (_Handler,), {"root": pathlib.Path(root), "created": created})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", created
    finally:
        server.shutdown()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_POST(self):  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self._answer({"error": "Invalid username or password."}, status=401)
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        match = _ADDRESS.fullmatch(self.path.partition("?")[0])
        if match["call"] == "commit":
            return self._commit(match["repository"], map(json.loads, body.splitlines()))
        files = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
            for file in json.loads(body)["files"]
        ]
        return self._answer({"files": files})

    def _create(self, asked):
        repository = f"{asked['organization']}/{asked['name']}"
        url = f"http://{self.headers['Host']}/{repository}"
        if repository in self.created:
            return self._answer({"error": "You already created this.", "url": url}, status=409)
        self.created[repository] = asked.get("private", asked.get("visibility") == "private")
        return self._answer({"url": url})

    def _commit(self, repository, lines):
        for line in lines:
            if line["key"] == "file":
                path = self.root / repository / line["value"]["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(line["value"]["content"]))
        url = f"http://{self.headers['Host']}/{repository}/commit/{COMMIT}"
        return self._answer({"success": True, "commitOid": COMMIT, "commitUrl": url})

    def _answer(self, contents, status=200):
        body = json.dumps(contents).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
