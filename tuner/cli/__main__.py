"""`python -m tuner.cli`."""

from tuner.cli.app import main

main()
