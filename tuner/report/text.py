"""A search's result as text: the front as a table, the gain over the default setting, a summary in Markdown.

Everything here is computed from the history alone, so a report can be repeated at any time. All numbers are of split
``val``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from search_spaces.provenance import PAPER, paper_label
from tuner.report.format import LABELS, SHORT_LABELS, short_label, value_text, with_std
from tuner.results.fronts import counts
from tuner.results.pareto import Front, hypervolume
from tuner.results.search_run import SearchRun
from tuner.results.summary import SPLIT, extras
from tuner.spec.objectives import shown_metrics
from tuner.spec.search_spec import SearchSpec

if TYPE_CHECKING:
    from rich.table import Table

MAX_ROWS = 20  # of the table in the summary: MLflow cuts a description at 8000 characters
MAX_COLUMNS = 5  # of parameters: more are written as one text, so that the table still fits a terminal
EMPTY = "The front is empty: no trial has finished its full budget."


def front_cells(front: Front, paper: dict | None, searched: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text: the front, then the default setting if it is not on the front.

    ``paper``: that setting's row, if it has finished. ``searched``: the parameters to show. Up to ``MAX_COLUMNS`` of
    them have a column each. Means over seeds have their standard deviation beside them; rows of several methods name
    their method.
    """
    metrics = shown_metrics(front.objectives)
    on_front = {r["trial"] for r in front.rows}
    rows = list(front.rows)
    if paper is not None and paper["trial"] not in on_front:
        rows.append(paper)
    shown = [n for n in searched if any(n in r["params"] for r in rows)]
    method = ["method"] if len({r.get("method") for r in rows}) > 1 else []
    cells = []
    for row in rows:
        is_paper = paper is not None and row["trial"] == paper["trial"]
        cells.append(
            [
                f"{row['trial']}{_mark(row, row['trial'] in on_front) if is_paper else ''}",
                *(row[n] for n in method),
                *(with_std(row, n) for n in metrics),
                *_parameter_cells(row["params"], shown),
            ]
        )
    parameters = shown if len(shown) <= MAX_COLUMNS else ["parameters"]
    return ["trial", *method, *(short_label(n) for n in metrics), *parameters], cells


def _mark(paper: dict, on_front: bool) -> str:
    """What the row of the default setting carries beside its number."""
    called = "paper" if setting_label(paper) == PAPER else "default"
    return f" ({called})" if on_front else f" ({called}, off the front)"


def setting_label(row: dict) -> str:
    """What to call the setting of a row of the front: see `paper_label`."""
    return paper_label(row["method"], row["params"])


def _parameter_cells(params: dict[str, Any], shown: list[str]) -> list[str]:
    if len(shown) <= MAX_COLUMNS:
        return [value_text(params.get(n)) for n in shown]
    return [" ".join(f"{n}={value_text(params[n])}" for n in shown if params.get(n) is not None)]


def notes(result: dict[str, Any], objectives: tuple[str, ...]) -> list[str]:
    """What only some results have, in sentences: which trials fell off the front when more seeds were trained, which
    were better at an earlier epoch, and what each of several methods used and contributed."""
    lines = []
    for row in result.get("fell_off", []):
        means = ", ".join(f"{short_label(n)} {with_std(row, n)}" for n in objectives)
        over = f"over {len(row['seeds'])} seeds" if "seeds" in row else "with one seed; others have better means"
        lines.append(f"Trial {row['trial']} was on the front with one seed and fell off: {means} {over}.")
    if result.get("parted"):
        lines.append(
            "Better at an earlier epoch, by more than two standard errors on val: "
            + "; ".join(_apart(row) for row in result["parted"])
            + ". `tuner export --epoch best` takes that epoch."
        )
    for m in result.get("methods", []):
        held = ", ".join(map(str, m["front"]))
        lines.append(
            f"{m['method']}: {m['trials']} trials, {m['epochs']} epochs; "
            + (
                f"holds trial{'s' * (len(m['front']) > 1)} {held} of the front and adds {m['adds']:.4f} to its "
                "hypervolume"
                if held
                else "holds nothing of the front"
            )
            + f"; alone {m['hypervolume']:.4f}."
        )
    return lines


def _apart(row: dict[str, Any]) -> str:
    """``trial 3 at epoch 9 (average 0.412, at the end 0.371)``"""
    values = ", ".join(
        f"{short_label(name)} {best:.3f}, at the end {last:.3f}" for name, (best, last) in row["objectives"].items()
    )
    return f"trial {row['trial']} at epoch {row['best_epoch']} ({values})"


def front_table(front: Front, paper: dict | None, searched: tuple[str, ...], title: str = "Pareto front") -> Table:
    """`front_cells` as a table for the terminal, the default setting in bold."""
    from rich.table import Table

    header, rows = front_cells(front, paper, searched)
    table = Table(title=f"{title} on {SPLIT}" if front.rows else EMPTY)
    for name in header:
        number = name in SHORT_LABELS.values()
        # the words of a metric's name below one another: its numbers are narrow, and may not be broken
        table.add_column(
            name.replace(" ", "\n") if number else name, justify="right" if number else "left", no_wrap=number
        )
    for cells in rows:
        table.add_row(*cells, style="bold" if "(" in cells[0] else None)
    return table


def gain(front: Front, paper: dict | None) -> str:
    """What the front gains over the default setting, or that it gains nothing, in one or two sentences.

    ``paper``: that setting's row, None if it has not finished.
    """
    if not front.rows:
        return EMPTY
    if paper is None or any(paper.get(n) is None or math.isnan(paper[n]) for n in front.objectives):
        return "The default setting has not finished its full budget, so there is nothing to compare the front with."
    where = ", ".join(f"{short_label(n)} {paper[n]:.3f}" for n in front.objectives)
    gains = [text for name in front.objectives if (text := _gain_in(front, paper, name))]
    ours = front.hypervolume
    theirs = hypervolume([[paper[n] for n in front.objectives]], front.reference, [True] * len(front.objectives))
    volume = f"hypervolume {ours:.4f} against {theirs:.4f}" + (f" (x{ours / theirs:.2f})" if theirs else "")
    seeds = f"mean of {len(paper['seeds'])} seeds" if "seeds" in paper else "one seed"
    start = f"Against {setting_label(paper)}, trial {paper['trial']} ({where}; {SPLIT}, {seeds}), the front "
    if gains:
        return start + "gains " + " and ".join(gains) + f". {volume.capitalize()}."
    if ours > theirs:
        return (
            start
            + "gains nothing without a loss elsewhere, but offers other trade-offs"
            + f"{_trade(front, paper)}; {volume}."
        )
    return start + f"gains nothing: no finished trial is better in any objective; {volume}."


def _gain_in(front: Front, paper: dict, name: str) -> str:
    """``+0.050 worst-class robust accuracy at no loss of average (trial 3)``; empty where there is no such trial."""
    others = [n for n in front.objectives if n != name]
    rows = [r for r in front.rows if all(r[n] >= paper[n] for n in others) and r[name] > paper[name]]
    if not rows:
        return ""
    best = max(rows, key=lambda r: r[name])
    loss = " at no loss of " + " or ".join(short_label(n) for n in others) if others else ""
    return f"+{best[name] - paper[name]:.3f} {LABELS.get(name, name)}{loss} (trial {best['trial']})"


def _trade(front: Front, paper: dict) -> str:
    """The largest gain in the last objective and its cost in the first; empty where there is none."""
    first, last = front.objectives[0], front.objectives[-1]
    best = max(front.rows, key=lambda r: r[last])
    if first == last or best[last] <= paper[last]:
        return ""
    return (
        f", such as {best[last] - paper[last]:+.3f} {short_label(last)} for {best[first] - paper[first]:+.3f} "
        f"{short_label(first)} (trial {best['trial']})"
    )


def headline(spec: SearchSpec) -> tuple[str, str]:
    """A title (method and data) and the line below it (split, budget, attack, sampler)."""
    training, searched = spec.training(), spec.shown_space().searched
    eps = "searched" if "eps" in searched else f"{training.eps:.3g}"
    title = f"{spec.method_names} on {spec.dataset}, imbalance {spec.imbalance}, model {spec.model}"
    return title, (
        f"split {SPLIT} · budget {spec.max_epochs} epochs · L-inf attack, eps {eps} of a pixel range of 1, "
        f"{training.eval_attack} steps each of CE-PGD and margin-PGD · sampler {spec.sampler}, "
        f"seed {spec.seed}"
    )


def summary_markdown(run: SearchRun) -> str:
    """The run's description in MLflow, in Markdown: what was searched, the front, the gain over the default setting."""
    spec, history = run.spec, run.history
    front, paper, space = run.front(), next(iter(run.paper_rows()), None), spec.shown_space()
    title, line = headline(spec)
    header, rows = front_cells(front, paper, space.searched)
    lines = [header, ["---"] * len(header), *rows[:MAX_ROWS]]
    table = ["| " + " | ".join(line) + " |" for line in lines] if rows else [EMPTY]
    table += [f"... and {len(rows) - MAX_ROWS} more"] if len(rows) > MAX_ROWS else []
    fixed = ", ".join(f"`{k}` = {value_text(v)}" for k, v in space.fixed.items())
    return "\n".join(
        [
            f"### {title}",
            "",
            line,
            "",
            gain(front, paper),
            "",
            *(f"- {note}" for note in notes(extras(run), spec.objectives)),
            "",
            f"Searched: {', '.join(f'`{n}`' for n in space.searched) or 'nothing'}"
            + (f". Fixed: {fixed}" if fixed else "")
            + f". {counts(history).capitalize()}.",
            "",
            *table,
            "",
            "Values are fractions at the last epoch of trials that ran the full budget. `class mean` is the mean over "
            "classes of robust accuracy; in `natural average` a class counts by its training images. `test` was not "
            "touched; the interactive figure is the artifact `front.html`.",
            "",
        ]
    )
