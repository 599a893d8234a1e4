"""Progress of a running search on stderr: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from tuner.report.format import fraction
from tuner.report.text import MAX_ROWS, evenly
from tuner.results.listener import Listener
from tuner.results.pareto import Front, row_label
from tuner.results.references import references
from tuner.results.replicates import total_trials
from tuner.results.search_run import SearchRun
from tuner.results.trial_record import TrialRecord
from tuner.results.trial_state import TrialState
from tuner.spec.epoch_plan import burn_in_reach
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
        self.spec, self.total = run.spec, total_trials(run.spec)
        self.console = Console(stderr=True)
        self.begin = time.time()
        self.epochs_before = self.epochs = sum(len(t.epochs) for t in run.history.everything())
        self.running: dict[int, TrialRecord] = {}  # trials, replicates and references
        self.ended: Counter[str] = Counter()  # state -> trials
        self.replicates = 0  # replicates that have ended
        self.references = len(references(run.spec))  # references that have not ended
        self.best = Front((), ())
        self.live: Live | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.live = Live(get_renderable=self._view, console=self.console, refresh_per_second=2, transient=True)
            self.live.start()
        return self

    def __exit__(self, *exc) -> None:
        if self.live:
            self.live.stop()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    # ---- events ----------------------------------------------------------------------------------------------

    def search_started(self, run: SearchRun) -> None:
        for record in run.history.everything():
            if record.state.ended:
                self.count(record)
        self.say(
            f"search {run.name}: {self.total} trials x {self.spec.max_epochs} epochs of "
            f"{self.spec.method_names} on {self.spec.dataset} ({self.spec.imbalance}), model {self.spec.model}, "
            f"eps {self.spec.training().eps:.4g}"
        )
        for line in [*self.spec.notes, *trunk_lines(self.spec)]:
            self.say(line)

    def trial_started(self, record: TrialRecord) -> None:
        self.running[record.trial] = record

    def count(self, record: TrialRecord) -> None:
        """Note that a trial, replicate or reference has ended, now or under an earlier driver."""
        self.running.pop(record.trial, None)
        if record.of is not None:
            self.replicates += 1
        elif record.role is not None:
            self.references -= 1
        else:
            self.ended[record.state] += 1

    def epoch_ended(self, record: TrialRecord, metrics: dict) -> None:
        self.epochs += 1

    def trial_ended(self, record: TrialRecord) -> None:
        self.count(record)
        if self.live and not record.reason:  # the live view shows it
            return
        if record.state == TrialState.FINISHED:
            outcome = self._outcome(record)
            outcome += f" ({record.reason})" if record.reason else ""
        else:
            outcome = record.reason or f"after epoch {record.last.get('epoch', 0)}"
        elapsed = duration(time.time() - self.begin)
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
        parts = [f"{self.ended[TrialState.FINISHED]}/{self.total} done", f"{len(self.running)} running"]
        if self._replicating:
            parts.append(f"{self.replicates} replicates done")
        if self.ended[TrialState.FAILED]:
            parts.append(f"{self.ended[TrialState.FAILED]} failed")
        left = self._seconds_left()
        return ", ".join(parts + ([f"about {duration(left)} left"] if left is not None else []))

    @property
    def _replicating(self) -> bool:
        return self.replicates > 0 or any(t.of is not None for t in list(self.running.values()))

    def _seconds_left(self) -> float | None:
        """Extrapolated from the epochs trained so far; None while that says nothing."""
        trained = self.epochs - self.epochs_before
        if not trained or self._replicating:  # how many replicates follow depends on the results of these
            return None
        open_ = self.total - self.ended.total() + self.references
        todo = open_ * self.spec.max_epochs - sum(len(t.epochs) for t in list(self.running.values()))
        return max(0, todo) * (time.time() - self.begin) / trained

    def _view(self) -> Group:
        elapsed = duration(time.time() - self.begin)
        head = f"[bold]{self.spec.search_name}[/]  {elapsed}  {self._status()}"
        running = Table(box=None, pad_edge=False, show_header=False)
        for record in list(self.running.values()):
            values = "  ".join(f"{n} {fraction(record.last[n])}" for n in self.spec.objectives if n in record.last)
            running.add_row(
                record.label,
                f"epoch {len(record.epochs)}/{self.spec.max_epochs}",
                values or (f"trunk, epoch {record.trunk_trained}" if record.trunk_trained else ""),
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


def trunk_lines(spec: SearchSpec) -> list[str]:
    """`trunk_line` of every method."""
    several = len(spec.methods) > 1
    return [(f"{lane.method}: " if several else "") + trunk_line(lane) for lane in spec.lanes]


def trunk_line(spec: SearchSpec) -> str:
    """Which epochs the trials share as a trunk, or why there is no trunk."""
    first, last = spec.epoch_plan.trunk_epochs, spec.epoch_plan.latest_branch
    reach = burn_in_reach(spec.search_space())
    if last and spec.trunk != "auto":
        return f"trunk: every trial starts from {first} epochs of plain AT"
    if last:
        epochs = first if first == last else f"{first} to {last}"
        return f"trunk: the first {epochs} epochs are trained once for all trials"
    if spec.trunk == "none":
        return "no trunk: --no-trunk"
    if reach and "start" in spec.search_space().params:
        return (
            f"no trunk: what is searched acts before the reweighting starts ({', '.join(reach)}); "
            "--fix them and all trials share those epochs"
        )
    return f"no trunk: {spec.method} reweights from the first epoch (--trunk at:N starts it from N epochs of plain AT)"
