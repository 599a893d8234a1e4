"""The interactive page of a front, or of a comparison of several."""

from __future__ import annotations

import re

from tuner import escape
from tuner.report.html.front_template import DETAILS, FIGURE, SCRIPT, WORDS
from tuner.report.html.page import page, table


def front_page(data: dict) -> str:
    """The whole page as HTML; ``data`` is `picture_data`'s of a search, or `comparison_data`'s of several."""
    return page(data["title"], data["line"], filled(WORDS + FIGURE + DETAILS, data), data, SCRIPT + "draw();")


def filled(part: str, data: dict) -> str:
    """A part of the page with the texts of ``data`` in it."""
    fields = {
        "GAIN": escape.html(data["gain"]).replace("\n", "<br>"),
        "NOTE": escape.html(data["note"]),
        "TABLE": table(*data["table"]) if data["table"] else "",
        "EFFECTSOF": data["effectsOf"].capitalize(),
        "LARGER": "those that trained in full" if data["effectsOf"] == "previews" else "on the front",
        "SHORTX": escape.html(data["short"][0]),
        "SHORTY": escape.html(data["short"][1]),
    }
    return re.sub("@@([A-Z]+)@@", lambda match: fields[match[1]], part)
