"""Trains by a recipe: `python training/train.py classification_digits`."""

import sys

try:
    from keras_spm.cli import main
except ImportError as error:
    sys.exit(f"error: {error}")

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
