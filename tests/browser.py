"""Headless Chromium, and a server of a folder for it.

It needs Debian's `chromium` and `chromium-driver`, and no package of Python.
"""

import base64
import contextlib
import functools
import http.server
import json
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator

_ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")


class Browser:
    """A session of Chromium, by the WebDriver protocol.

    Args:
        port: of the driver, on this machine.
    """

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}/session"
        options = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": list(_ARGUMENTS)},
            "goog:loggingPrefs": {"browser": "SEVERE"},
        }
        session = self._post("", {"capabilities": {"alwaysMatch": options}})
        self._address += f"/{session['sessionId']}"

    def open(self, address: str) -> None:
        self._post("/url", {"url": address})

    def run(self, script: str, *arguments: object) -> object:
        """Runs the body of a JavaScript function, and returns its result."""
        return self._post("/execute/sync", {"script": script, "args": arguments})

    def errors(self) -> list[str]:
        """Returns what failed since the last call: scripts, files that were not loaded."""
        return [each["message"] for each in self._post("/se/log", {"type": "browser"})]

    def set_scheme(self, scheme: str) -> None:
        """Prefers `"light"` or `"dark"` from the next page on."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._command("Emulation.setEmulatedMedia", features=features)

    def set_size(self, width: int, height: int, mobile: bool = False) -> None:
        """Sets the size of the page in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self._command("Emulation.setDeviceMetricsOverride", **size)

    def screenshot(self) -> bytes:
        """Returns the visible part of the page as a PNG file."""
        return base64.b64decode(self._command("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        request = urllib.request.Request(self._address, method="DELETE")
        urllib.request.urlopen(request).close()

    def _command(self, name, **params):
        """Runs a command of the DevTools protocol."""
        return self._post("/goog/cdp/execute", {"cmd": name, "params": params})

    def _post(self, path, body):
        request = urllib.request.Request(f"{self._address}{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request) as response:
            return json.load(response)["value"]


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Context manager for a `Browser`."""
    command = [shutil.which("chromedriver"), "--port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = next(
            line.split("port ")[1].strip(" .\n")
            for line in process.stdout
            if "started successfully on port" in line
        )
        opened = Browser(int(port))
        try:
            yield opened
        finally:
            opened.close()
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def served(folder: object) -> Iterator[str]:
    """Context manager for the address of a folder."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
