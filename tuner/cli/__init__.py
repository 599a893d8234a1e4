"""The command line. ``tuner.cli:main`` is the `tuner` script; `python -m tuner.cli` is the same."""

__all__ = ["main"]


def main() -> None:
    """Run the command of ``sys.argv``. Nothing is imported before, see ``__main__``."""
    from tuner.cli.app import main as run

    run()
