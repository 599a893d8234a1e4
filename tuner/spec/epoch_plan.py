"""At which epochs things happen in a search: where the trunk ends, where trials are compared."""

from __future__ import annotations

import math

from tuner.errors import UsageError
from tuner.spec.objectives import WORST
from tuner.spec.space import Space


def burn_in_reach(space: Space) -> list[str]:
    """The searched parameters that act before the method's start already: trials that differ in them share no trunk."""
    return [name for name in space.searched if space.params[name].burn_in]


def trunk_epochs(spec) -> int:
    """How many epochs at least every trial of this ``SearchSpec`` takes from the trunk; 0 where there is none.

    With a searched start: the smallest possible one, trials may leave later. Rungs count from here.
    """
    if spec.trunk.startswith("at:"):
        return int(spec.trunk[3:])
    space = spec.search_space()
    start = space.params.get("start")
    if spec.trunk == "none" or start is None or burn_in_reach(space):
        return 0
    share = space.fixed.get("start", start.range.low if "start" in space.searched else start.default)
    return min(round(share * spec.max_epochs), spec.max_epochs - 1)


def latest_branch(spec) -> int:
    """The latest epoch at which a trial of this search can leave the trunk; 0: there is no trunk."""
    space = spec.search_space()
    if spec.trunk == "auto" and "start" in space.searched and not burn_in_reach(space):
        return min(round(space.params["start"].range.high * spec.max_epochs), spec.max_epochs - 1)
    return trunk_epochs(spec)


CONTINUE, STOP, PAUSE = "continue", "stop", "pause"


def levels(base: int, grace: int, reduction: int, max_epochs: int) -> list[int]:
    """base + grace * reduction^k: the epochs at which trials are compared.

    The last one leaves at least a fifth of all epochs: stopping a trial at epoch 11 of 12 saves next to nothing and
    loses a point of the front.
    """
    found, step = [], grace
    while base + step <= 0.8 * max_epochs:
        found.append(base + step)
        step *= reduction
    return found


def start_of(spec, params: dict) -> int:
    """First epoch (from 0) at which a trial reweights: ``trainables.method.start_epoch``, not before its trunk ends."""
    start = round(params.get("start", 0.0) * spec.max_epochs)
    return max(start, trunk_epochs(spec)) if spec.trunk.startswith("at:") else start


def first_rung_base(spec) -> int:
    """The earliest epoch at which a trial of this search can begin to reweight, and not before its trunk ends."""
    space = spec.search_space()
    start = space.params.get("start")
    if start is None:
        return trunk_epochs(spec)
    share = space.fixed.get("start", start.range.low if "start" in space.searched else start.default)
    return max(round(share * spec.max_epochs), trunk_epochs(spec))


def rung_levels(spec) -> list[int]:
    """Where trials of this search are compared. By default the first lies 15 % of the rest behind it."""
    base = first_rung_base(spec)
    grace = spec.grace or math.ceil(0.15 * (spec.max_epochs - base))
    if spec.scheduler == "median":
        return list(range(base + grace, int(0.8 * spec.max_epochs) + 1))
    return levels(base, grace, spec.reduction, spec.max_epochs)


def scheduler_name(spec) -> str:
    """The scheduler that applies: without a choice, Pareto early stopping wherever there are two rungs for it."""
    if spec.scheduler is not None:
        return spec.scheduler
    return "pareto-asha" if len(rung_levels(spec)) >= 2 else "none"


def check_scheduler(spec) -> None:
    """``UsageError`` where a scheduler that was asked for has fewer than two rungs."""
    if spec.scheduler in (None, "none"):
        return
    base, found = first_rung_base(spec), rung_levels(spec)
    if len(found) < 2:
        raise UsageError(
            f"--scheduler {spec.scheduler} has {len(found)} rung{'s' * (len(found) != 1)} here, but "
            f"needs 2: reweighting starts at epoch {base} of {spec.max_epochs}, "
            f"--grace {spec.grace or 'default'}, --reduction {spec.reduction}; "
            "give more --max-epochs, or --scheduler none"
        )


def ignored(spec) -> list[str]:
    """What was asked of the scheduler or of what it sees and has no effect, a line each."""
    name = scheduler_name(spec)
    idle = {
        "asha_metric": name in ("none", "pareto-asha") and spec.asha_metric,
        "grace": name == "none" and spec.grace,
        "on_rung": name == "none" and spec.on_rung != STOP and spec.on_rung,
    }
    lines = [
        f"--{option.replace('_', '-')} {value} has no effect with scheduler {name}"
        for option, value in idle.items()
        if value
    ]
    if spec.smooth_worst and WORST not in (*spec.objectives, *spec.scheduler_objectives):
        lines.append(f"--smooth-worst {spec.smooth_worst} has no effect: {WORST} is no objective")
    return lines


def describe_scheduler(spec) -> str:
    """One line for the user: who is compared when, or why nobody is stopped."""
    name, found = scheduler_name(spec), rung_levels(spec)
    if name == "none":
        why = "" if spec.scheduler else f": {spec.max_epochs} epochs leave fewer than 2 rungs after the start"
        return f"scheduler none{why}; every trial runs to its end"
    at = f"epochs {found[0]} to {found[-1]}" if name == "median" else "epochs " + ", ".join(map(str, found))
    on = spec.scheduler_objectives
    rest = (
        "those below the median stop"
        if name == "median"
        else (f"the best 1/{spec.reduction} go on, the others {'stop' if spec.on_rung == STOP else 'wait'}")
    )
    return f"scheduler {name} on {' and '.join(on)} at {at}: {rest}"
