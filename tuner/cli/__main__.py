"""`python -m tuner.cli`."""

import sys

from tuner.cli import main

# `python -m` looks into the current folder first, where a user's random.py would replace the standard library's.
if not sys.flags.safe_path and sys.path[0] != __file__.removesuffix("/tuner/cli/__main__.py"):
    sys.path.append(sys.path.pop(0))

main()
