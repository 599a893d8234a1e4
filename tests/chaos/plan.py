"""What a round does, drawn from its seed and number."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from random import Random

SEARCHES = {
    "one": ("--method", "srat"),
    "several": ("--method", "done", "--method", "dafa"),
    "seeds": ("--method", "srat", "--seeds", "2"),
}
SMALL = (
    *("--trials", "5", "--max-epochs", "4", "--val-per-class", "20", "--scheduler", "preview"),
    *("--set", "passes=1", "--set", "attack_steps=1", "--set", "eval_attack=1"),
)
EVENTS = {"one": 30, "several": 43, "seeds": 45}  # lines in the history of such a search
TOLD = ("driver", "group", "all")  # kinds that are a signal to a driver
ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)
# kind -> how often it is drawn. A driver's group is what `timeout` and a closing terminal signal; all its processes,
# Ray's too, what systemd and SLURM do.
KINDS = {
    **{"driver": 4, "group": 2, "all": 2, "worker": 3, "raylet": 1, "gcs": 1},
    **{"mlflow": 2, "storage": 1, "mount": 1, "disk": 2, "clock": 2},
}
JUMPS_S = (-30 * 86400.0, -3600.0, -20.0, 20.0, 3600.0, 30 * 86400.0)


@dataclass(frozen=True)
class Disturbance:
    """``events``: how many the history has to have; ``plus_s``: seconds from then on, or from the driver's start or the
    disturbance before, whatever was last. ``lasts_s``: after so many seconds it is over, where it can be."""

    kind: str
    events: int
    plus_s: float
    signal: int = signal.SIGKILL
    lasts_s: float = 0.0
    jump_s: float = 0.0

    def __str__(self) -> str:
        what = signal.Signals(self.signal).name if self.kind in TOLD else None
        what = f"{self.jump_s:+.0f} s" if self.kind == "clock" else what
        lasts = f" for {self.lasts_s:.1f} s" if self.kind in ("mlflow", "storage", "mount", "disk") else ""
        return f"{self.kind}{f' {what}' if what else ''}{lasts} {self.plus_s:.1f} s after event {self.events}"


@dataclass(frozen=True)
class Plan:
    """``server``: MLflow is a server, else a file of the home; ``storage``: the search has one; ``small_disk``: its
    home lies on a disk of its own."""

    seed: int
    number: int
    search: str
    workers: int
    server: bool
    storage: bool
    small_disk: bool
    disturbances: tuple[Disturbance, ...]

    @property
    def name(self) -> str:
        return f"c{self.seed}-{self.number}"

    @property
    def options(self) -> tuple[str, ...]:
        return (*SEARCHES[self.search], *SMALL, "--max-concurrent", str(self.workers))

    @property
    def command(self) -> str:
        """Repeats this round."""
        return f"python -m tests.chaos --seed {self.seed} --first {self.number} --rounds 1"

    def __str__(self) -> str:
        where = "a server" if self.server else "a file"
        more = (", a storage" if self.storage else "") + (", a small disk" if self.small_disk else "")
        what = "; ".join(map(str, self.disturbances)) or "nothing"
        return f"{self.search} with {self.workers} at once, MLflow in {where}{more}: {what}"


def draw(seed: int, number: int, kinds: dict[str, int] | None = None) -> Plan:
    """The plan of round ``number``. ``kinds``: those of `KINDS` that are drawn, all by default."""
    rng = Random(f"{seed}/{number}")
    kinds = kinds or KINDS
    search = rng.choice(list(SEARCHES))
    drawn = rng.choices(list(kinds), list(kinds.values()), k=rng.choice((1, 1, 2, 2, 3)))
    disturbances = sorted((_disturbance(kind, search, rng) for kind in drawn), key=lambda d: d.events)
    return Plan(
        seed,
        number,
        search,
        workers=rng.choice((1, 1, 1, 2)),
        server="mlflow" in drawn or rng.random() < 0.25,
        storage=bool({"storage", "mount"} & {*drawn}) or rng.random() < 0.3,
        small_disk="disk" in drawn,
        disturbances=tuple(disturbances),
    )


def _disturbance(kind: str, search: str, rng: Random) -> Disturbance:
    at = rng.random()  # also before the first trial, and while pictures are drawn
    events = 0 if at < 0.1 else EVENTS[search] if at > 0.9 else rng.randint(1, EVENTS[search] - 1)
    return Disturbance(
        kind,
        events,
        plus_s=rng.uniform(0.2, 10.0 if not events else 2.0),
        signal=rng.choice(ENDS),
        lasts_s=rng.choice((0.5, 3.0, 8.0, 1000.0))
        if kind not in ("storage", "mount")
        else rng.choice((0.5, 3.0, 8.0)),
        jump_s=rng.choice(JUMPS_S),
    )
