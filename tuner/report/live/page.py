"""The live pages as HTML: the list of a home's searches, and one search."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tuner.home import Home, user_name
from tuner.report.figures import plane
from tuner.report.format import short_label
from tuner.report.html.front_page import filled
from tuner.report.html.front_template import DETAILS, FIGURE, WORDS
from tuner.report.html.front_template import SCRIPT as FRONT_SCRIPT
from tuner.report.html.page import Served, page
from tuner.report.live.template import BODY, LIST_BODY, LIST_SCRIPT, SCRIPT
from tuner.report.text import headline
from tuner.results.search_run import SearchRun


def list_page(home: Home, root: str, served: Served) -> str:
    """``root``: the address of all pages, with the server's key."""
    return page("Searches", str(home.root), LIST_BODY, {"root": root}, LIST_SCRIPT, served)


def search_page(run: SearchRun, root: str, key: str, served: Served, mlflow: Mapping[str, Mapping[str, str]]) -> str:
    """A search; its script asks for what is to be shown. ``mlflow``: links, by search, as far as they are known."""
    title, line = headline(run.spec)
    empty = {"gain": "", "note": "", "table": None, "effectsOf": "trials of full budget"}
    texts: dict[str, Any] = {**empty, "short": [short_label(name) for name in plane(run.spec.objectives)]}
    parts = {"FIGURE": filled(FIGURE, texts), "WORDS": filled(WORDS, texts), "DETAILS": filled(DETAILS, texts)}
    body = re.sub("@@([A-Z]+)@@", lambda match: parts[match[1]], BODY)
    links = {f"MLflow: {name}": link for name, link in mlflow.get(run.name, {}).items()}
    data = {"root": root, "key": key, "search": run.name, "user": user_name(), "links": links}
    return page(title, line, body, data, FRONT_SCRIPT + SCRIPT, served)
