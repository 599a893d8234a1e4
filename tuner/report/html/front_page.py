"""The interactive page of a front, or of several overlaid."""

from __future__ import annotations

import html
import re

from tuner.report.html.front_template import BODY, SCRIPT
from tuner.report.html.page import page, table


def front_page(data: dict) -> str:
    """The interactive page of what `picture_data` (or an overlay's) found."""
    fields = {
        "GAIN": html.escape(data["gain"]),
        "NOTE": html.escape(data["note"]),
        "TABLE": table(*data["table"]) if data["table"] else "",
    }
    body = re.sub("@@([A-Z]+)@@", lambda found: fields[found[1]], BODY)
    return page(data["title"], data["line"], body, data, SCRIPT)
