"""The command `keras-spm`, also for `torchrun -m keras_spm train …`."""

import sys

from keras_spm.cli import main

if __name__ == "__main__":
    sys.exit(main())
