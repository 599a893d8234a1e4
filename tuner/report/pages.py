"""The listener that keeps a search's page up to date while it runs, and writes its pictures at the end."""

from __future__ import annotations

import time

from tuner.report.files import write_page, write_pictures
from tuner.results.listener import Listener
from tuner.results.pareto import Front
from tuner.results.search_run import SearchRun

EVERY_S = 10.0  # least time between two renewals of the page
FAR_EVERY_S = 60.0  # the same where the folder is copied to a storage: a page has 5 MB
SHARE = 0.02  # at most this share of the driver's time goes into renewing the page


class Pages(Listener):
    """Renews ``front.html`` as results come in, and writes it with ``front.png`` and ``front.parquet`` at the end."""

    name = "the pictures"

    def __init__(self):
        self._run: SearchRun | None = None
        self._due = 0.0  # the page is not renewed before this ``time.monotonic()``

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
