"""The parts of a live page that take seconds to compute: the whole picture with its band, and importances.

One thread makes them, for whichever search is looked at, and rests in between: a search that runs on the same machine
needs the processor more.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tuner.home import Home
from tuner.report.console import importances_json
from tuner.report.figures import picture_data
from tuner.report.live.now import Watched
from tuner.results.search_run import SearchRun

SHARE = 0.1  # of the time of one core, at most
NICE = 10  # and it is scheduled after others
LOOKED_AT_S = 15.0  # whose page was not asked for so long is not looked at any more
DRAWN = 400  # trials: the browser of a phone draws no more in a second
NEW_SHARE = 0.05  # importances are computed again when so many more trials have ended


@dataclass
class Pictured:
    """A search whose page is looked at. ``data``: what `draw` of the page needs, as of the history's ``changes``."""

    home: Home
    name: str
    watched: Watched | None = None  # one of its own: the server's goes on meanwhile
    data: dict[str, Any] | None = None
    changes: int = -1
    importances: list[dict[str, Any]] = field(default_factory=list)
    asked: float = 0.0  # ``time.monotonic()`` when the page was last asked for
    due: float = 0.0
    problem: str = ""
    _known: int = -1  # how many trials had ended when the importances were computed

    def renew(self) -> bool:
        """Make the picture again if the history has gone on; whether it had."""
        self.watched = self.watched or Watched(self.home, self.name)
        self.watched.look()
        run = self.watched.run
        if self.data is not None and run.history.changes == self.changes:
            return False
        changes = run.history.changes
        data = picture_data(run, DRAWN)
        self._weigh(run)
        self.data, self.changes = data, changes
        return True

    def _weigh(self, run: SearchRun) -> None:
        ended = run.history.tally.ended
        if self._known < 0 or ended - self._known > NEW_SHARE * self._known or (ended != self._known and ended < 100):
            self.importances, self._known = importances_json(run), ended


class Painter:
    """Keeps the pictures of the searches that are looked at. ``look_at`` says that one is."""

    def __init__(self, home: Home):
        self.home, self._pictures = home, dict[str, Pictured]()
        self._lock, self._wake, self._end = threading.Lock(), threading.Event(), False
        threading.Thread(target=self._run, name="painter", daemon=True).start()

    def look_at(self, name: str) -> Pictured:
        with self._lock:
            pictured = self._pictures.setdefault(name, Pictured(self.home, name))
        first = not pictured.asked
        pictured.asked = time.monotonic()
        if first:
            self._wake.set()
        return pictured

    def close(self) -> None:
        self._end = True
        self._wake.set()

    def _run(self) -> None:
        with suppress(OSError, AttributeError):  # of this thread alone, on Linux
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while not self._end:
            self._wake.wait(0.2)
            self._wake.clear()
            for pictured in self._due():
                self._paint(pictured)

    def _due(self) -> list[Pictured]:
        """Those that are looked at and may be made again; what nobody looks at any more is forgotten."""
        now = time.monotonic()
        with self._lock:
            for name in [n for n, p in self._pictures.items() if now - p.asked > 20 * LOOKED_AT_S]:
                del self._pictures[name]
            return [p for p in self._pictures.values() if now - p.asked <= LOOKED_AT_S and now >= p.due]

    def _paint(self, pictured: Pictured) -> None:
        begin = time.thread_time()  # waiting for others costs nobody anything
        try:
            pictured.renew()
            pictured.problem = ""
        except Exception as error:  # a search that cannot be drawn must not end the page of another
            pictured.problem = f"{type(error).__name__}: {error}"
        pictured.due = time.monotonic() + max(1.0, (time.thread_time() - begin) * (1 / SHARE - 1))
