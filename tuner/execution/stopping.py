"""How a search ends early: by a signal, the time budget, or a failed storage."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


def training_time(budget: float) -> float:
    """How many of the ``budget`` seconds go into training; pictures and MLflow need the rest."""
    return max(0.8 * budget, budget - 10.0)


class StopRequest:
    """Call it with a reason to end the search early; ``reason`` keeps the first one ("signal", "time budget",
    "storage"). `ray_scheduler.SearchStopper` passes it on to Ray Tune's loop."""

    reason: str | None = None

    def __call__(self, reason: str) -> None:
        self.reason = self.reason or reason


@contextmanager
def stoppable(until: float | None) -> Iterator[StopRequest]:
    """In this block Ctrl-C, SIGTERM and the time ``until`` (seconds since 1970; None: no limit) end the search orderly.

    A second Ctrl-C ends the process at once. On other threads than the main one signals are left alone.
    """
    stop = StopRequest()

    def on_signal(number, frame) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        stop("signal")

    in_main = threading.current_thread() is threading.main_thread()
    old = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)} if in_main else {}
    timer = threading.Timer(max(0.0, until - time.time()), stop, ["time budget"]) if until else None
    if timer:
        timer.daemon = True
        timer.start()
    try:
        yield stop
    finally:
        if timer:
            timer.cancel()
        for number, handler in old.items():
            signal.signal(number, handler)
