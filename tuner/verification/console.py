"""What `tuner verify` prints on stdout."""

from __future__ import annotations

import shlex
from typing import Any

from tuner.home import Home
from tuner.verification.foreign import folder_of
from tuner.verification.summary import CORRECTION, TEST_SPLIT
from tuner.verification.text import cells, gain_cells, sentences


def show_verification(result: dict[str, Any], home: Home, dataset: str | None = None) -> None:
    """Print `verify_search`'s result as a table, with what to know beside it and where the report is."""
    from tuner.report.console import stdout_console
    from tuner.report.tables import PlainTable

    console, first, *rest = stdout_console(), *sentences(result)
    console.print(first, highlight=False, soft_wrap=True)
    titles = f"{result['search']} on split {TEST_SPLIT}, attack {result['attack']}", "gains, same images"
    for title, (header, rows) in zip(titles, (cells(result), gain_cells(result))):
        table = PlainTable(title=title)
        for name in header:
            table.add_column(name.replace(" ", "\n"))  # numbers with their intervals need the width
        for row in rows:
            table.add_row(*row)
        if rows:
            console.print(table)
    foreign = result.get("model")
    folder = folder_of(home, result["search"]) if foreign else home.search(result["search"])
    named = {"--storage": home.storage, "--dataset": dataset}  # `tuner audit` is to be told them again
    again = "".join(f" {flag} {shlex.quote(value)}" for flag, value in named.items() if value)
    if foreign:
        which = shlex.quote(foreign["arch"]) if foreign["called"] else "FILE --arch ARCH"
        again = " ".join([f" --model {which} --dataset DATASET", *map(shlex.quote, foreign["options"])])
    for line in [
        *rest,
        CORRECTION,
        f"report    {folder / 'verified.html'}",
        f"table     {folder / 'verified.parquet'}",
        f"audit     tuner audit {shlex.quote(str(folder / 'verified.json'))}{again}{home.flag}",
    ]:
        console.print(line, highlight=False, soft_wrap=True)
