"""Writes the picture of the README: the last one of the guide on instances, from its notebook."""

import pathlib

from generators import guides

TARGET = pathlib.Path(__file__).parent / "pages" / "assets" / "predictions.png"


def picture() -> bytes:
    """Returns the PNG file."""
    files = guides.pages()
    names = [name for name in files if name.startswith("guides/instances-")]
    return files[max(names, key=lambda name: int(name.split("-")[1].removesuffix(".png")))]


if __name__ == "__main__":
    TARGET.write_bytes(picture())
