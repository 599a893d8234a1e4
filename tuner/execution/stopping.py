"""How a search ends early: by a signal, the time budget, a failed storage, or because Ray is gone."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from tuner.escape import to_stderr

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CLOSE_S = 30.0  # how long what is told of a search's end (MLflow) is waited for
# After a signal an end has to come within 15 s: batch systems kill what is still there, some after 30 s. Ray Tune takes
# up to 5 s for trials that are in the middle of an epoch; the rest is for pictures and the result.
RAY_S, CLOSE_AFTER_SIGNAL_S = 8.0, 4.0
GONE_S = 1.0  # for what a Ray that has died leaves to do
REMIND_S = 15.0  # so often it is said what an end still waits for
T = TypeVar("T")


def training_time(budget: float) -> float:
    """How many of the ``budget`` seconds go into training; pictures and MLflow need the rest."""
    return max(0.8 * budget, budget - 10.0)


class StopRequest:
    """Call it with a reason to end the search early; ``reason`` keeps the first one ("signal", "time budget",
    "storage", "ray"). `ray_scheduler.SearchStopper` passes it on to Ray Tune's loop.

    ``until``: when it will be called for the time budget, in ``time.monotonic()``; None: no limit. ``phase``: what the
    driver waits for now, in words for the user. ``lost``: asked now and then; why Ray will never answer again, or None.
    ``orderly``: False while a signal has nothing to end orderly and breaks off what is done, as Ctrl-C does.
    ``abandon``: called where the process ends without having waited for Ray.
    """

    def __init__(self, until: float | None = None) -> None:
        self.until = until
        self.reason: str | None = None
        self.orderly = True
        self.lost: Callable[[], str | None] = lambda: None
        self.abandon: Callable[[], None] = lambda: None
        self.phase = "Ray"
        self.signals = 0  # how many have come
        self.stuck = False  # Ray was not waited for: a thread of it may never end

    def __call__(self, reason: str) -> None:
        self.reason = self.reason or reason

    @property
    def ray_s(self) -> float:
        """How many seconds Ray may take for its end from now on; without limit where nobody waits."""
        if self.reason != "signal":
            return float("inf")
        return RAY_S if self.signals < 2 else 0.0

    @property
    def close_s(self) -> float:
        """How many seconds listeners may take to write what is left."""
        if self.reason != "signal":
            return CLOSE_S
        return CLOSE_AFTER_SIGNAL_S if self.signals < 2 else 0.5


@contextmanager
def stoppable(
    until: float | None, say: Callable[[str], None] = to_stderr, go_on: str = "results are kept"
) -> Iterator[StopRequest]:
    """In this block Ctrl-C, SIGTERM, SIGHUP and the time ``until`` (``time.monotonic()``; None: none) end the search
    orderly.

    A line is said at once. The second signal makes the end wait for nobody; a third Ctrl-C ends the process at once,
    with ``go_on``, how to continue. Further SIGTERMs and SIGHUPs change nothing: batch systems repeat them. On other
    threads than the main one signals are left alone.
    """
    stop = StopRequest(until)
    on_signal = _handler(stop, say, go_on)
    in_main = threading.current_thread() is threading.main_thread()
    old = {s: signal.signal(s, on_signal) for s in SIGNALS if not _ignored(s)} if in_main else {}
    timer = threading.Timer(max(0.0, until - time.monotonic()), stop, ["time budget"]) if until else None
    if timer:
        timer.daemon = True
        timer.start()
    try:
        yield stop
    finally:
        stop.phase = ""
        if timer:
            timer.cancel()
        for number, handler in old.items():
            signal.signal(number, handler)


def _handler(stop: StopRequest, say: Callable[[str], None], go_on: str) -> Callable[[int, object], None]:
    def on_signal(number: int, frame: object) -> None:
        if not stop.orderly:
            raise KeyboardInterrupt
        stop.signals += 1
        stop("signal")
        name = signal.Signals(number).name
        if stop.signals == 1:
            _aside(say, f"{name}: the search stops and prints its result so far, within some 15 s; {go_on}")
            _aside(_remind, stop, say)
        elif stop.signals == 2:
            _aside(say, f"{name} again: it is stopping already, and now waits neither for Ray nor for MLflow")
        elif number == signal.SIGINT:
            os.write(2, f"ended at once, without a result; {go_on}\n".encode())  # print may be what was interrupted
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)

    return on_signal


@contextmanager
def like_ctrl_c() -> Iterator[None]:
    """In this block SIGTERM and SIGHUP break off what is done with ``KeyboardInterrupt``, as Ctrl-C does."""
    in_main = threading.current_thread() is threading.main_thread()
    taken = [s for s in SIGNALS[1:] if in_main and signal.getsignal(s) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _ignored(number: signal.Signals) -> bool:
    """Whether whoever started this process wants it to survive the signal: `nohup` does it with SIGHUP."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


def _aside(function: Callable[..., None], *args: object) -> None:
    """Call it on a thread: the handler may have interrupted a print, which must end before another begins."""
    threading.Thread(target=function, args=args, daemon=True).start()


def _remind(stop: StopRequest, say: Callable[[str], None]) -> None:
    """Say from time to time why the end takes long."""
    while True:
        time.sleep(REMIND_S)
        if not stop.phase:
            return
        say(f"still waiting for {stop.phase}; Ctrl-C ends this sooner")


def unless_stuck(work: Callable[[], T], stop: StopRequest, say: Callable[[str], None]) -> T | None:
    """What ``work`` returns or raises. It runs on a thread of its own, because a call into Ray may block for a minute,
    deaf to signals, and then end the whole process.

    Where ``stop.lost`` finds that Ray is gone, that is said, and is a reason to stop ("ray"). If the work does not end
    in time after a reason to stop, it is left behind: None is returned, and ``stop.stuck`` set.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="search", daemon=True)
    thread.start()
    asked: float | None = None  # ``time.monotonic()`` at which the search was told to stop
    gone: str | None = None
    while not outcome.done():
        wait([outcome], timeout=0.1 if asked else 0.5)
        gone = gone or stop.lost()
        if gone and not asked:
            say(f"Ray is gone: {gone}")
            stop("ray")
        asked = asked or (time.monotonic() if stop.reason else None)
        if asked and not outcome.done() and time.monotonic() - asked > (GONE_S if gone else stop.ray_s):
            stop.stuck = True
            _left_behind.append((thread, stop.abandon))
            return None
    return outcome.result()


def _deaf() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


_left_behind: list[tuple[threading.Thread, Callable[[], None]]] = []


def leave_behind(threads: Sequence[threading.Thread]) -> None:
    """Nobody waits for these threads any more. If one is still at work at the end, `leave` ends the process without the
    libraries' own ends, which would meet it in the middle of something."""
    _left_behind.extend((thread, lambda: None) for thread in threads)


def leave(code: int) -> NoReturn:
    """End this process with ``code``, also where a thread of Ray's would keep it from ending. A signal does not change
    the code any more: batch systems repeat them, and libraries take a while to end."""
    atexit.register(_deaf)  # what is registered last is called first
    stuck = [abandon for thread, abandon in _left_behind if thread.is_alive()]
    if not stuck:
        raise SystemExit(code)
    for abandon in stuck:
        abandon()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
