"""`python -m relscale` is the command `relscale`."""

import sys

from relscale.cli import main

if __name__ == "__main__":
    sys.exit(main())
