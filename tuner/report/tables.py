"""Tables for a terminal, which lose nothing of their cells."""

from __future__ import annotations

from typing import Any

from rich.table import Table


class PlainTable(Table):
    """A word that is longer than its column goes on in the next line: rich cuts it, and an interval with it."""

    def add_column(self, *header: Any, no_wrap: bool = False, **options: Any) -> None:
        super().add_column(*header, no_wrap=no_wrap, **{"overflow": "ellipsis" if no_wrap else "fold", **options})
