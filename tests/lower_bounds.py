"""Prints the lower bounds in pyproject.toml as pip constraints.

python tests/lower_bounds.py > minimum.txt
pip install --constraint minimum.txt ".[data,jax]"
"""

import pathlib
import re
import tomllib

PYPROJECT = pathlib.Path(__file__).parents[1] / "pyproject.toml"


def main() -> None:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(each for extra in extras for each in extra)]
    for requirement in requirements:
        if match := re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement):
            print(f"{match[1]}=={match[2]}")


if __name__ == "__main__":
    main()
