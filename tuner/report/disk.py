"""The table of `tuner gc`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from tuner.home import Home
from tuner.report.console import stdout_console
from tuner.report.tables import PlainTable
from tuner.results.disk import Item


def size_text(size: float) -> str:
    """``512 B``, ``1.5 MiB``"""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def show_items(home: Home, items: Sequence[Item], free: int, gone: bool) -> None:
    """A table of the home, and one of its storage."""
    console = stdout_console()
    for place, where in ((None, str(home.root)), *([(home.storage, home.storage)] if home.storage else [])):
        mine = [item for item in items if (item.storage is None) == (place is None)]
        table = PlainTable("what", "name", "size", "removed" if gone else "not needed", "why", title=where)
        for item in mine:
            why = ", ".join(item.searches) if item.needed and item.searches and not item.why else item.why
            table.add_row(item.kind, item.name, size_text(item.bytes), "" if item.needed else "yes", why)
        console.print(table if mine else f"nothing lies in {where}", highlight=False)
    if gone:
        console.print(f"{size_text(free)} removed", highlight=False)
    elif free:
        flags = home.flag + (f" --storage {shlex.quote(home.storage)}" if home.storage else "")
        console.print(f"{size_text(free)} could be removed: tuner gc --yes{flags}", highlight=False, soft_wrap=True)
