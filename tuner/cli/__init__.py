"""The command line. ``tuner.cli:main`` is the `tuner` script; `python -m tuner.cli` is the same."""

__all__ = ["main"]


def main() -> None:
    """Run the command of ``sys.argv``. Nothing is imported before, see ``__main__``."""
    try:
        from tuner.cli.app import main as run
    except KeyboardInterrupt:  # within the first half second
        import os

        os.write(2, b"Error: interrupted\n")
        raise SystemExit(130) from None
    run()
