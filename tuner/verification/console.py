"""What `tuner verify` prints on stdout."""

from __future__ import annotations

from typing import Any

from tuner.home import Home
from tuner.verification.summary import CORRECTION, TEST_SPLIT, cells, sentences


def show_verification(result: dict[str, Any], home: Home) -> None:
    """Print `verify_search`'s result as a table, with what to know beside it and where the report is."""
    from rich.table import Table

    from tuner.report.console import stdout_console

    console, (header, rows) = stdout_console(), cells(result)
    table = Table(title=f"{result['search']} on split {TEST_SPLIT}, attack {result['attack']}")
    for name in header:
        table.add_column(name.replace(" ", "\n"))  # numbers with their intervals need the width
    for row in rows:
        table.add_row(*row)
    console.print(table)
    folder = home.search(result["search"])
    for line in [
        *sentences(result),
        CORRECTION,
        f"report    {folder / 'verified.html'}",
        f"table     {folder / 'verified.parquet'}",
    ]:
        console.print(line, highlight=False, soft_wrap=True)
