"""`python -m frame`: the same as the command `frame`."""

import sys

from frame.cli import main

if __name__ == "__main__":
    sys.exit(main())
