"""The pictures of a search in its folder: the page is renewed while the search runs, all of them at its end."""

from __future__ import annotations

import time

from tuner.report.files import write_page, write_pictures
from tuner.results.listener import Listener
from tuner.results.pareto import Front
from tuner.results.search_run import SearchRun

EVERY_S = 10.0  # the page is not renewed more often while the search runs
FAR_EVERY_S = 60.0  # nor, where the folder is copied to a storage, than this: a page has 5 MB
SHARE = 0.02  # of the driver's time that goes into it at most


class Pages(Listener):
    """``front.html`` as results come in, and at the end ``front.html``, ``front.png`` and ``front.parquet``."""

    name = "the pictures"

    def __init__(self):
        self._run: SearchRun | None = None
        self._due = 0.0  # ``time.monotonic()`` before which the page is left as it is

    def search_started(self, run: SearchRun) -> None:
        self._run = run
        self._renew()

    def front_changed(self, front: Front, finished: int) -> None:
        if time.monotonic() >= self._due:
            self._renew()

    def _renew(self) -> None:
        begin = time.monotonic()
        write_page(self._run)
        end = time.monotonic()
        self._due = end + max(FAR_EVERY_S if self._run.spec.storage else EVERY_S, (end - begin) / SHARE)

    def search_ended(self, run: SearchRun, state: str) -> None:
        write_pictures(run)
