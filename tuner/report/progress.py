"""Progress of a running search on stderr: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from contextlib import suppress

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trainables.threats import LINF
from tuner.report.console import PlainConsole
from tuner.report.format import fraction, judging
from tuner.report.text import MAX_ROWS, evenly
from tuner.results.bill import cost_words, seconds_left
from tuner.results.listener import Listener
from tuner.results.pareto import Front, row_label
from tuner.results.replicates import total_trials
from tuner.results.search_run import SearchRun
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.objectives import shown_metrics
from tuner.spec.search_spec import SearchSpec


def duration(seconds: float) -> str:
    """``2 h 05 min``, ``3 min 54 s`` or ``45 s``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Progress(Listener):
    """The listener that shows progress; enter it to start the live view. ``say`` prints one line at any time."""

    name = "the terminal"

    def __init__(self, run: SearchRun):
        self.spec = run.spec
        self.console = PlainConsole(stderr=True)
        self.begin, self.history = time.monotonic(), run.history
        self.running: dict[int, TrialRecord] = {}  # trials, replicates and references
        self.best = Front((), ())
        self.live: Live | None = None

    @property
    def total(self) -> int:
        """How many trials it will have, those of users too."""
        return total_trials(self.history.in_force(self.spec)) + self.history.added

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.live = Live(get_renderable=self._view, console=self.console, refresh_per_second=2, transient=True)
            self.live.start()
        return self

    def __exit__(self, *exc) -> None:
        if self.live:
            with suppress(OSError):
                self.live.stop()

    def say(self, text: str) -> None:
        with suppress(OSError):  # the terminal was closed, or whoever read is gone: the search does not end for that
            self.console.print(text, highlight=False, soft_wrap=True)

    # ---- events ----------------------------------------------------------------------------------------------

    def search_started(self, run: SearchRun) -> None:
        threat = self.spec.threat_model
        norm, eps = "" if threat.name == LINF else f"{threat.shown} ", judging(self.spec, "eps")
        self.say(
            f"search {run.name}: {self.total} trials x {self.spec.max_epochs} epochs of "
            f"{self.spec.method_names} on {self.spec.dataset} ({self.spec.imbalance}), model {self.spec.model}, "
            f"{norm}eps {eps if isinstance(eps, str) else f'{eps:.4g}'}"
        )
        for line in [*self.spec.notes, stem_line(self.spec), f"cost: {cost_words(self.spec, self.history.added)}"]:
            self.say(line)

    def trial_started(self, record: TrialRecord) -> None:
        self.running[record.trial] = record

    def trial_ended(self, record: TrialRecord) -> None:
        self.running.pop(record.trial, None)
        if self.live and not record.reason:  # the live view shows it
            return
        if record.state in (TrialState.FINISHED, TrialState.PREVIEWED):
            outcome = self._outcome(record)
            outcome += f" ({record.reason})" if record.reason else ""
        else:
            outcome = record.reason or f"after epoch {record.last.get('epoch', 0)}"
        elapsed = duration(time.monotonic() - self.begin)
        self.say(f"[{elapsed:>7}] {record.label} {record.state}: {outcome}  ({self._status()})")

    def _outcome(self, record: TrialRecord) -> str:
        """The objectives without offsets and, where offsets give a larger sum of them, with those."""
        names = self.spec.objectives
        (_, plain), *_ = points = record.points
        offsets, best = max(points, key=lambda point: sum(point[1].get(n) or 0.0 for n in names))
        text = ", ".join(f"{n} {fraction(plain.get(n))}" for n in names)
        return text + (f"; @{offsets.tau:g} {', '.join(fraction(best.get(n)) for n in names)}" if offsets.tau else "")

    def front_changed(self, front: Front, finished: int) -> None:
        self.best = front

    # ---- text ------------------------------------------------------------------------------------------------

    def _status(self) -> str:
        tally = self.history.tally
        states = tally.states
        parts = [f"{tally.ended}/{self.total} done", f"{len(self.running)} running"]
        if states[TrialState.PREVIEWED]:
            parts.append(f"{states[TrialState.FINISHED]} in full")
        if replicates := [r for r in list(self.history.replicates.values()) if r.state.ended]:
            parts.append(f"{len(replicates)} replicates done")
        if states[TrialState.FAILED]:
            parts.append(f"{states[TrialState.FAILED]} failed")
        left = self._seconds_left()
        return ", ".join(parts + ([f"about {duration(left)} left"] if left is not None else []))

    def _seconds_left(self) -> float | None:
        """As `tuner.results.bill.seconds_left` says, within a budget of time."""
        left = seconds_left(self.history.in_force(self.spec), self.history)
        limit = max(0.0, (self.spec.seconds or math.inf) - (time.monotonic() - self.begin))
        return None if left is None else min(limit, left)

    def _view(self) -> Group:
        elapsed = duration(time.monotonic() - self.begin)
        head = Text.assemble((self.spec.search_name, "bold"), f"  {elapsed}  {self._status()}")
        running = Table(box=None, pad_edge=False, show_header=False)
        for record in list(self.running.values()):
            values = "  ".join(f"{n} {fraction(record.last[n])}" for n in self.spec.objectives if n in record.last)
            running.add_row(
                record.label,
                f"epoch {len(record.epochs)}/{self.spec.max_epochs}",
                values or (f"stem, epoch {record.stem_trained}" if record.stem_trained else ""),
            )
        parts = [head, running]
        if self.best.rows:
            shown, names = evenly(self.best.rows, MAX_ROWS), shown_metrics(self.spec.objectives)
            more = f", {len(self.best.rows)} points" if len(self.best.rows) > len(shown) else ""
            table = Table(title=f"front on val, hypervolume {self.best.hypervolume:.4f}{more}", title_justify="left")
            for name in ("trial", *names):
                table.add_column(name, justify="right")
            for row in shown:
                table.add_row(row_label(row), *(fraction(row.get(n)) for n in names))
            parts.append(table)
        return Group(*parts)


def stem_line(spec: SearchSpec) -> str:
    """Which epochs the trials share."""
    first, last = spec.forks
    if spec.burn_in != "stem":
        return "no stem: --burn-in own"
    if not last:
        return f"no stem: {spec.method_names} reweights from the first epoch, and nothing is previewed"
    epochs = f"the first {last}" if first == last else f"up to {last}"
    return f"stem: {epochs} epochs are plain AT (or TRADES, MART), trained once for all trials of that form"
