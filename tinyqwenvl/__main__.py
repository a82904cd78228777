"""Entry point of ``python -m tinyqwenvl``; :mod:`tinyqwenvl.cli.main` lists the commands."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
