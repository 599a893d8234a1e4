"""The interactive page of a front, or of a comparison of several."""

from __future__ import annotations

import html
import re

from tuner.report.html.front_template import BODY, SCRIPT
from tuner.report.html.page import page, table


def front_page(data: dict) -> str:
    """The whole page as HTML; ``data`` is `picture_data`'s of a search, or `comparison_data`'s of several."""
    fields = {
        "GAIN": html.escape(data["gain"]).replace("\n", "<br>"),
        "NOTE": html.escape(data["note"]),
        "TABLE": table(*data["table"]) if data["table"] else "",
        "EFFECTSOF": data["effectsOf"].capitalize(),
        "LARGER": "those that trained in full" if data["effectsOf"] == "previews" else "on the front",
        "SHORTX": html.escape(data["short"][0]),
        "SHORTY": html.escape(data["short"][1]),
    }
    body = re.sub("@@([A-Z]+)@@", lambda match: fields[match[1]], BODY)
    return page(data["title"], data["line"], body, data, SCRIPT)
