"""Entry point of ``python -m tinyqwenvl.run``; the command is :mod:`tinyqwenvl.cli.run`."""

import sys

from .cli.request import images_and_prompt, parser
from .cli.run import main

__all__ = ["images_and_prompt", "main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
