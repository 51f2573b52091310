"""Evaluates a model on a data set: `python training/evaluate.py runs/… --data photos`."""

import sys

try:
    from keras_spm.cli import main
except ImportError as error:
    sys.exit(f"error: {error}")

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
