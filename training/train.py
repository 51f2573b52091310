"""Trains by a recipe: `python training/train.py classification_digits`."""

import pathlib
import sys

try:
    from keras_spm.trainer import main
except ImportError as error:
    sys.exit(f"error: {error}")

if __name__ == "__main__":
    sys.exit(main(pathlib.Path(__file__).parent / "recipes"))
