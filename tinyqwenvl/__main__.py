"""The door of ``python -m tinyqwenvl``; the commands are listed in :mod:`tinyqwenvl.cli.main`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
