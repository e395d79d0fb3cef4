"""``python -m mnistdist run``: the command ``mnistdist run``, where that is not on the path."""

import sys

from mnistdist.cli import main

if __name__ == "__main__":
    sys.exit(main())
