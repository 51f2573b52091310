"""Draws every page of the built site, and checks it: `python docs/screenshots.py FOLDER`.

Each page is drawn by Chromium in light and dark, as on a desktop and on a phone. The exit status
is 1 if a page scrolls sideways, a picture is broken, or a script fails. Needs Chromium, its driver,
and `pip install selenium`. Before: `make docs`.
"""

import argparse
import base64
import contextlib
import functools
import http.server
import itertools
import pathlib
import shutil
import sys
import threading
from collections.abc import Iterator

from selenium import webdriver

SITE = pathlib.Path(__file__).parents[1] / "build" / "site"
WIDTHS = {"desktop": 1280, "phone": 390}
_HEIGHT = 900
_MAX_HEIGHT = 12_000  # Of a picture of a long page.
_CHECK = """
const pictures = [...document.images].filter(each => each.complete && !each.naturalWidth);
return {
  width: document.documentElement.scrollWidth,
  height: document.documentElement.scrollHeight,
  broken: pictures.map(each => each.src),
};
"""


def open_browser() -> webdriver.Chrome:
    """Starts Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    # Otherwise selenium looks for a driver on the internet.
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    return webdriver.Chrome(options, service)


@contextlib.contextmanager
def served_site() -> Iterator[str]:
    """Serves the site on this machine, and gives its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Handler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def draw(browser: webdriver.Chrome, url: str, width: int, scheme: str, path: pathlib.Path) -> list:
    """Draws a page to a PNG file, and returns what is wrong with it."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    _resize(browser, width, _HEIGHT)
    browser.get(url)
    found = browser.execute_script(_CHECK)
    _resize(browser, width, min(found["height"], _MAX_HEIGHT))
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(picture["data"]))
    problems = [f"broken picture {each}" for each in found["broken"]]
    if found["width"] > width:
        problems.append(f"scrolls sideways: {found['width']} of {width} pixels")
    problems += [each["message"] for each in browser.get_log("browser")]
    return problems


def _resize(browser, width, height):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Draws and checks every page of the site.")
    parser.add_argument("folder", type=pathlib.Path, help="for the pictures")
    text = "address of a page, such as the demo's, instead of the site"
    parser.add_argument("--url", help=text)
    text = "part of the names of the pages to draw"
    parser.add_argument("--only", default="", help=text)
    options = parser.parse_args()
    files = [] if options.url else sorted(SITE.rglob("*.html"))
    names = [str(file.relative_to(SITE)) for file in files if options.only in str(file)]
    count = 0
    with served_site() as address:
        pages = {name: f"{address}/{name}" for name in names} or {"page": options.url}
        for scheme in ("light", "dark"):
            with open_browser() as browser:  # It remembers the scheme of its first page.
                for (name, url), (device, width) in itertools.product(
                    pages.items(), WIDTHS.items()
                ):
                    stem = name.removesuffix(".html").replace("/", "-")
                    path = options.folder / f"{stem}-{device}-{scheme}.png"
                    for problem in draw(browser, url, width, scheme, path):
                        print(f"{name}, {device}, {scheme}: {problem}")
                        count += 1
    print(f"{len(pages)} pages, {count} problems")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
