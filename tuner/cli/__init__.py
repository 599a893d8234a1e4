"""The command line. ``tuner.cli:main`` is the `tuner` script; `python -m tuner.cli` is the same."""

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command of ``sys.argv``. Nothing is imported before, see ``__main__``."""
    _open_streams()
    try:
        from tuner.cli.app import main as run
    except KeyboardInterrupt:  # within the first half second
        os.write(2, b"Error: interrupted\n")
        raise SystemExit(130) from None
    run()


def _open_streams() -> None:
    """Where a shell has closed stdin, stdout or stderr (``>&-``), put /dev/null there: the next file that is opened
    would get its number, and what a library or a worker prints would go into it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # by number: opening takes the lowest
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode))
