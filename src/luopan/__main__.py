"""`python -m luopan` is the command line."""

import sys

from luopan.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
