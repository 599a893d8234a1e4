"""How a search ends early: a signal, the time budget, a storage that failed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


def training_time(budget: float) -> float:
    """Seconds of a time budget in which there is training; pictures and MLflow need the rest."""
    return max(0.8 * budget, budget - 10.0)


class Stop:
    """Called with a reason to end early; ``why`` is the first one given. `ray_scheduler.Ending` tells
    Ray Tune's loop."""

    why: str | None = None

    def __call__(self, why: str) -> None:
        self.why = self.why or why


@contextmanager
def stoppable(until: float | None) -> Iterator[Stop]:
    """Ctrl-C, SIGTERM and the time budget end Ray Tune's loop in order; a second Ctrl-C ends the process at once."""
    end = Stop()

    def on_signal(number, frame) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        end("signal")

    in_main = threading.current_thread() is threading.main_thread()
    old = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)} if in_main else {}
    timer = threading.Timer(max(0.0, until - time.time()), end, ["time budget"]) if until else None
    if timer:
        timer.daemon = True
        timer.start()
    try:
        yield end
    finally:
        if timer:
            timer.cancel()
        for number, handler in old.items():
            signal.signal(number, handler)
