"""docs/search-quality.md from the results of `benchmarks.search_quality --json`.

    python -m benchmarks.search_report benchmarks/results/search_quality.json > docs/search-quality.md
"""

from __future__ import annotations

import json
import sys
from textwrap import wrap

HEAD = """# How many epochs a search needs

Written by `python -m benchmarks.search_report` from `benchmarks/results/search_quality.json`, which
`python -m benchmarks.search_quality --table benchmarks/curves.parquet` made; do not edit. Every contender searches the
same recorded learning curves (digits, exp:10, small CNN with averaged weights, two training seeds; `benchmarks.record`)
in simulated time, starts with the paper's setting and trains one seed; a proposal is answered by the nearest
configuration that is unused. Scored is the front that a user would be shown, with its true values (the mean over both
seeds), as a share of the best hypervolume in the table. "Epochs" counts every epoch trained, those of the shared trunk
once; what is shown is a mean with a 95 % bootstrap interval.
"""


def table(rows: list[dict]) -> list[str]:
    """One problem with one number of workers."""
    shares = list(rows[0]["hypervolume"])
    at = " | ".join(f"at {float(s):.0%}" for s in shares)
    lines = [f"| contender | epochs to 90 % | epochs to 95 % | {at} |",
             "|---|---|---|" + "---|" * len(shares)]
    for row in rows:
        to = {k: row[f"epochs_to_{k}_median"] for k in (90, 95)}
        reach = [f"{'never' if v is None else round(v)} ({row[f'reached_{k}']}/{row['seeds']})" for k, v in to.items()]
        cells = [f"{mean:.3f} ({low:.3f}-{high:.3f})" for mean, low, high in row["hypervolume"].values()]
        lines.append(f"| {row['contender']} | {' | '.join(reach)} | {' | '.join(cells)} |")
    return [*lines, ""]


def page(rows: list[dict]) -> str:
    lines = [HEAD]
    for problem, workers in dict.fromkeys((r["problem"], r["workers"]) for r in rows):
        mine = [r for r in rows if (r["problem"], r["workers"]) == (problem, workers)]
        of = mine[0]
        about = (f"{of['configurations']} configurations, {of['epochs']} epochs, {of['parameters']} parameters, "
                 f"best hypervolume {of['best_hypervolume']:.4f} (front of {of['front_size']}), {of['seeds']} searches "
                 f"of {of['budget']} epochs. In brackets: how many reached it; the median counts the others as never.")
        lines += [f"## {problem}, {workers} workers", "", *wrap(about, 118), "", *table(mine)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        print(page(json.load(file)), end="")
