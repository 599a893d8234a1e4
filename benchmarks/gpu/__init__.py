"""One command for a GPU that is at hand for minutes: see `benchmarks.gpu.__main__`."""
