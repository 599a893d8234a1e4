"""docs/experiments/search-quality.md from the results of `benchmarks.search_quality --json`; `make docs` writes it."""

from __future__ import annotations

from textwrap import wrap

HEAD = """# How many epochs a search needs

Written by `make docs` from `benchmarks/results/search_quality.json`, which is what
`python -m benchmarks.search_quality --table benchmarks/curves.parquet --json ...`, and the same with
`curves-cifar10.parquet --full-trials 20`, found; do not edit. Every contender
searches the same recorded learning curves (exp:10, small CNN with averaged weights; two training seeds on the same
images; `benchmarks.record`; `curves` on digits, `curves-cifar10` on CIFAR-10) in simulated time, starts with the
default setting and trains one seed; a proposal is answered by the nearest configuration that is unused. Scored is the
front that a user would be shown, with its true values (the mean over both seeds), as a share of the best hypervolume
in the table. "Epochs" counts every epoch trained, those of the shared trunk once; what is shown is a mean with a 95 %
bootstrap interval.

"ours" is what `tuner search` does unasked (the trunk where no searched parameter acts before the start); the other
lines leave out or replace one of its parts; [search variants](search-variants.md) says why it is not further ahead.
A search sees one seed's values, whose noise puts a wrong trial onto its front now and then: **knowable** is the share
of the best hypervolume that is shown by whoever has trained every configuration under that seed. In brackets: how many
searches got there; a median counts the others as never.
"""
RANDOM, OURS, ALONE = "random, full budget", "ours", "ours, --no-trunk"


def table(rows: list[dict]) -> list[str]:
    """One problem with one number of workers."""
    shares = list(rows[0]["hypervolume"])
    at = " | ".join(f"at {float(s):.0%}" for s in shares)
    lines = [
        f"| contender | epochs to 95 % of the knowable | epochs to 95 % of the best | {at} |",
        "|---|---|---|" + "---|" * len(shares),
    ]
    for row in rows:
        reach = [_epochs(row, k) for k in ("95_knowable", "95")]
        cells = [f"{mean:.3f} ({low:.3f}-{high:.3f})" for mean, low, high in row["hypervolume"].values()]
        lines.append(f"| {row['contender']} | {' | '.join(reach)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _epochs(row: dict, to: str) -> str:
    median = row[f"epochs_to_{to}_median"]
    return f"{'never' if median is None else round(median)} ({row[f'reached_{to}']}/{row['seeds']})"


def verdicts(rows: list[dict]) -> list[str]:
    """What the project wants, beside what was measured."""
    of = {row["contender"]: row for row in rows}
    peers = [row for name, row in of.items() if not name.startswith("ours")]
    best = min(peers, key=lambda row: row["epochs_to_95_knowable_median"] or float("inf"))
    shared = rows[0]["trunk"]
    aims = [(OURS, of.get(RANDOM), 5), (ALONE if shared else OURS, best, 2), *([(OURS, best, 3)] if shared else [])]
    wanted = {name for name, *_ in aims}
    lines = ["| wanted | measured |", "|---|---|"]
    for name, other, aim in aims:
        if name in of and other is not None:
            lines.append(
                f"| {name}: at most 1/{aim} of the epochs of {other['contender']} | {_ratio(of[name], other)} |"
            )
    for name in (OURS, ALONE):
        if name in of:
            found = _below(of[name], peers)
            lines.append(f"| {name}: never below a peer from 10 % up, within the interval | {found} |")
    lines += [f"| {name} | not run |" for name in (OURS, ALONE) if name in wanted - set(of)]
    return [*lines, ""]


def _ratio(ours: dict, other: dict) -> str:
    """Our epochs as a fraction of the other's, as far as both got there."""
    mine, theirs = ours["epochs_to_95_knowable_median"], other["epochs_to_95_knowable_median"]
    if mine is None:
        return f"not reached in {ours['most']} epochs"
    if theirs is None:
        return f"below 1/{other['most'] / mine:.1f} (the other took more than {other['most']})"
    return f"1/{theirs / mine:.1f}"


def _below(mine: dict, peers: list[dict]) -> str:
    """Where a peer's mean lies above our interval and ours below its interval."""
    found = [
        f"{float(share):.0%}: {peer['contender']}"
        for share, (mean, _, high) in mine["hypervolume"].items()
        for peer in peers
        if peer["hypervolume"][share][0] > high and mean < peer["hypervolume"][share][1]
    ]
    return "below at " + "; ".join(found) if found else "true"


def page(rows: list[dict]) -> str:
    lines = [HEAD]
    for key in dict.fromkeys((r["table"], r["problem"], r["workers"]) for r in rows):
        mine = [r for r in rows if (r["table"], r["problem"], r["workers"]) == key]
        of = mine[0]
        about = (
            f"{of['configurations']} configurations, {of['epochs']} epochs, {of['parameters']} parameters, "
            f"best hypervolume {of['best_hypervolume']:.4f} (front of {of['front_size']}), knowable under the "
            f"seeds: {', '.join(f'{k:.2f}' for k in of['knowable'])}; {of['seeds']} searches of {of['budget']} "
            "epochs, longer where 95 % of the knowable was not shown by then."
        )
        lines += [f"## {key[0]}: {key[1]}, {key[2]} workers", "", *wrap(about, 118), "", *table(mine), *verdicts(mine)]
    return "\n".join(lines).rstrip() + "\n"
