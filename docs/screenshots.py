"""Draws every page of the built site, and checks it: `python docs/screenshots.py FOLDER`.

Each page is drawn by Chromium in light and dark, as on a desktop and on a phone. The exit status
is 1 if a page scrolls sideways, a picture is broken, or a script fails. Needs Debian's `chromium`
and `chromium-driver`. Before: `make docs`.
"""

import argparse
import itertools
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.append(str(ROOT))

from tests.browser import Browser, browser, served  # noqa: E402

SITE = ROOT / "build" / "site"
WIDTHS = {"desktop": 1280, "phone": 390}
_HEIGHT = 900
_MAX_HEIGHT = 12_000  # Of a picture of a long page.
# Elements that scroll by themselves may be wider than the page.
_CHECK = """
const pictures = [...document.images].filter(each => !each.complete || !each.naturalWidth);
return {
  width: document.documentElement.scrollWidth,
  height: document.documentElement.scrollHeight,
  broken: pictures.map(each => each.src),
};
"""


def check(page: Browser, url: str, width: int) -> tuple[list[str], int]:
    """Opens a page, and returns (what is wrong with it, its height)."""
    page.set_size(width, _HEIGHT, mobile=width < 500)
    page.open(url)
    found = page.run(_CHECK)
    problems = [f"broken picture {each}" for each in found["broken"]]
    if found["width"] > width:
        problems.append(f"scrolls sideways: {found['width']} of {width} pixels")
    return problems + page.errors(), found["height"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Draws and checks every page of the site.")
    parser.add_argument("folder", type=pathlib.Path, help="for the pictures")
    text = "address of a page, such as the demo's, instead of the site"
    parser.add_argument("--url", help=text)
    parser.add_argument("--only", default="", help="part of the names of the pages to draw")
    parser.add_argument("--check", action="store_true", help="draw nothing")
    options = parser.parse_args()
    files = [] if options.url else sorted(SITE.rglob("*.html"))
    names = [str(file.relative_to(SITE)) for file in files if options.only in str(file)]
    options.folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with served(SITE) as address:
        pages = {name: f"{address}/{name}" for name in names} or {"page": options.url}
        for scheme in ("light", "dark"):
            with browser() as page:  # It remembers the scheme of its first page.
                page.set_scheme(scheme)
                for (name, url), (device, width) in itertools.product(
                    pages.items(), WIDTHS.items()
                ):
                    problems, height = check(page, url, width)
                    for problem in problems:
                        print(f"{name}, {device}, {scheme}: {problem}", flush=True)
                    count += len(problems)
                    if not options.check:
                        page.set_size(width, min(height, _MAX_HEIGHT), mobile=width < 500)
                        stem = name.removesuffix(".html").replace("/", "-")
                        path = options.folder / f"{stem}-{device}-{scheme}.png"
                        path.write_bytes(page.screenshot())
    print(f"{len(pages)} pages, {count} problems")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
