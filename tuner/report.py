"""What a search found, for people: the front as a table, the gain over the paper's setting, pictures, a summary.

Everything here reads the history alone, so a report can be made again at any time. All numbers are of split ``val``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.front import Front, hypervolume
from tuner.history import FAILED, FULL, RUNNING, STOPPED, History
from tuner.result import SPLIT, extras
from tuner.spec import SearchSpec

if TYPE_CHECKING:
    from rich.table import Table

LABELS = {
    "robust_acc": "average robust accuracy",
    "worst_class_robust_acc": "worst-class robust accuracy",
    "tail_robust_acc": "tail robust accuracy (worst 30 % of classes)",
    "clean_acc": "clean accuracy",
    "worst_class_clean_acc": "worst-class clean accuracy",
}
SHORT = {"robust_acc": "average", "worst_class_robust_acc": "worst class", "tail_robust_acc": "tail",
         "clean_acc": "clean", "worst_class_clean_acc": "worst clean"}
MAX_ROWS = 20  # of the summary: MLflow cuts a description at 8000 characters
EMPTY = "The front is empty: no trial has finished its full budget."


def short(value: Any) -> str:
    """A parameter's value in a few characters: 3 significant digits, ``2.1e-4`` rather than ``0.000212``."""
    if value is None:
        return "-"
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def fraction(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def paper_row(history: History, spec: SearchSpec) -> dict | None:
    """The finished trial that ran the (first) method's paper's setting, as a row of the front."""
    first = spec.lanes[0]
    default = first.search_space().default()
    for record in sorted(history.with_state(FULL), key=lambda t: t.trial):
        if record.method == first.method and default.items() <= record.params.items():
            return history.row(record.trial, spec.objectives)
    return None


def front_of(history: History, spec: SearchSpec) -> Front:
    return Front.of(history.rows(spec.objectives, spec.goal), spec.objectives)


def per_class(metrics: dict[str, float], metric: str = "robust_acc") -> dict[str, float]:
    """Class name to accuracy."""
    prefix = metric + "/"
    found = {k[len(prefix):]: v for k, v in metrics.items() if k.startswith(prefix)}
    return dict(sorted(found.items(), key=lambda kv: (not kv[0].isdigit(), kv[0].zfill(6) if kv[0].isdigit() else "")))


def counts(history: History) -> str:
    """``16 trials: 9 finished, 6 stopped early, 1 failed``"""
    names = {FULL: "finished", STOPPED: "stopped early", FAILED: "failed", RUNNING: "not finished"}
    parts = [f"{len(history.with_state(s))} {n}" for s, n in names.items() if history.with_state(s) or s == FULL]
    number = len(history.trials)
    return f"{number} trial{'' if number == 1 else 's'}: " + ", ".join(parts)


def front_cells(front: Front, paper: dict | None, searched: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, as text: the front, then the paper's setting if it is not on the front.

    Up to five parameters have a column each; more are one text, so that the table still fits a terminal. Means over
    seeds have their standard deviation beside them; rows of several methods say which.
    """
    metrics = list(dict.fromkeys([*front.objectives, "clean_acc"]))
    on_front = {r["trial"] for r in front.rows}
    rows = list(front.rows)
    if paper is not None and paper["trial"] not in on_front:
        rows.append(paper)
    shown = [n for n in searched if any(n in r["params"] for r in rows)]
    method = ["method"] if len({r.get("method") for r in rows}) > 1 else []
    cells = []
    for row in rows:
        is_paper = paper is not None and row["trial"] == paper["trial"]
        mark = "" if not is_paper else " (paper)" if row["trial"] in on_front else " (paper, off the front)"
        values = {n: short(row["params"].get(n)) for n in shown}
        cells.append([f"{row['trial']}{mark}", *(row[n] for n in method), *(with_std(row, n) for n in metrics),
                      *(values.values() if len(shown) <= 5 else
                        [" ".join(f"{n}={v}" for n, v in values.items() if v != "-")])])
    parameters = shown if len(shown) <= 5 else ["parameters"]
    return ["trial", *method, *(SHORT.get(n, n) for n in metrics), *parameters], cells


def with_std(row: dict, name: str) -> str:
    """``0.512``, or ``0.512 ± 0.020`` where it is a mean over seeds."""
    std = row.get("std", {}).get(name)
    return fraction(row.get(name)) + ("" if std is None else f" ± {fraction(std)}")


def notes(found: dict[str, Any], objectives: tuple[str, ...]) -> list[str]:
    """What `result.extras` found, in sentences: who is not as good as one seed said, and what each method got."""
    lines = []
    for row in found.get("fell_off", []):
        means = ", ".join(f"{SHORT.get(n, n)} {with_std(row, n)}" for n in objectives)
        over = f"over {len(row['seeds'])} seeds" if "seeds" in row else "by one seed, others are better by their means"
        lines.append(f"Trial {row['trial']} was on the front by one seed and fell off: {means} {over}.")
    for m in found.get("methods", []):
        held = ", ".join(map(str, m["front"]))
        lines.append(f"{m['method']}: {m['trials']} trials, {m['epochs']} epochs; "
                     + (f"holds trial{'s' * (len(m['front']) > 1)} {held} of the front and adds {m['adds']:.4f} to its "
                        "hypervolume" if held else "holds nothing of the front") + f"; alone {m['hypervolume']:.4f}.")
    return lines


def front_table(front: Front, paper: dict | None, searched: tuple[str, ...], title: str = "Pareto front") -> Table:
    """The front for the terminal; the paper's setting is marked, and added below when it is not on the front."""
    from rich.table import Table

    header, rows = front_cells(front, paper, searched)
    table = Table(title=f"{title} on {SPLIT}" if front.rows else EMPTY)
    for name in header:
        number = name in SHORT.values()
        table.add_column(name, justify="right" if number else "left", no_wrap=number)
    for cells in rows:
        table.add_row(*cells, style="bold" if "paper" in cells[0] else None)
    return table


def gain(front: Front, paper: dict | None) -> str:
    """What the front gains over the paper's setting, in one or two sentences; plain about it when that is nothing."""
    if not front.rows:
        return EMPTY
    if paper is None or any(paper.get(n) is None or math.isnan(paper[n]) for n in front.objectives):
        return "The paper's setting has not finished its full budget, so there is nothing to compare the front with."
    where = ", ".join(f"{SHORT.get(n, n)} {paper[n]:.3f}" for n in front.objectives)
    found = [text for name in front.objectives if (text := _gain_in(front, paper, name))]
    ours, theirs = front.hypervolume, hypervolume([[paper[n] for n in front.objectives]], front.reference,
                                                  [True] * len(front.objectives))
    volume = f"hypervolume {ours:.4f} against {theirs:.4f}" + (f" (x{ours / theirs:.2f})" if theirs else "")
    seeds = f"mean of {len(paper['seeds'])} seeds" if "seeds" in paper else "one seed"
    start = f"Against the paper's setting (trial {paper['trial']}: {where}; {SPLIT}, {seeds}) the front "
    if found:
        return start + "gains " + " and ".join(found) + f". {volume.capitalize()}."
    if ours > theirs:
        return (start + "gains nothing without a loss elsewhere, but offers other trade-offs"
                + f"{_trade(front, paper)}; {volume}.")
    return start + f"gains nothing: no finished trial is better in any objective; {volume}."


def _gain_in(front: Front, paper: dict, name: str) -> str:
    """``+0.050 worst-class robust accuracy at no loss of average (trial 3)``, or nothing."""
    others = [n for n in front.objectives if n != name]
    rows = [r for r in front.rows if all(r[n] >= paper[n] for n in others) and r[name] > paper[name]]
    if not rows:
        return ""
    best = max(rows, key=lambda r: r[name])
    loss = " at no loss of " + " or ".join(SHORT.get(n, n) for n in others) if others else ""
    return f"+{best[name] - paper[name]:.3f} {LABELS.get(name, name)}{loss} (trial {best['trial']})"


def _trade(front: Front, paper: dict) -> str:
    """The largest gain in the last objective, with what it costs in the first."""
    first, last = front.objectives[0], front.objectives[-1]
    best = max(front.rows, key=lambda r: r[last])
    if first == last or best[last] <= paper[last]:
        return ""
    return (f", such as {best[last] - paper[last]:+.3f} {SHORT.get(last, last)} for {best[first] - paper[first]:+.3f} "
            f"{SHORT.get(first, first)} (trial {best['trial']})")


def headline(spec: SearchSpec) -> tuple[str, str]:
    """A title and a line below it: method, data; split, budget, attack."""
    training, searched = spec.training(), spec.shown_space().searched
    eps = "searched" if "eps" in searched else f"{training.eps:.3g}"
    title = f"{spec.method_names} on {spec.dataset}, imbalance {spec.imbalance}, model {spec.model}"
    return title, (f"split {SPLIT} · budget {spec.max_epochs} epochs · L-inf attack, eps {eps} of a pixel range of 1, "
                   f"{training.eval_attack} steps each of CE-PGD and margin-PGD · sampler {spec.sampler}, "
                   f"seed {spec.seed}")


def summary_markdown(spec: SearchSpec, history: History) -> str:
    """The run's description in MLflow: what was searched, the front, the gain over the paper's setting."""
    front, paper, space = front_of(history, spec), paper_row(history, spec), spec.shown_space()
    title, line = headline(spec)
    header, rows = front_cells(front, paper, space.searched)
    lines = [header, ["---"] * len(header), *rows[:MAX_ROWS]]
    table = ["| " + " | ".join(line) + " |" for line in lines] if rows else [EMPTY]
    table += [f"... and {len(rows) - MAX_ROWS} more"] if len(rows) > MAX_ROWS else []
    fixed = ", ".join(f"`{k}` = {short(v)}" for k, v in space.fixed.items())
    return "\n".join([
        f"### {title}", "", line, "", gain(front, paper), "",
        *(f"- {note}" for note in notes(extras(spec, history, front), spec.objectives)), "",
        f"Searched: {', '.join(f'`{n}`' for n in space.searched) or 'nothing'}"
        + (f". Fixed: {fixed}" if fixed else "") + f". {counts(history).capitalize()}.", "",
        *table, "",
        "Values are fractions at the last epoch of trials that ran the full budget. `average` is the mean over classes "
        "of robust accuracy. `test` was not touched; the interactive picture is the artifact `front.html`.", ""])


def front_parquet(history: History, spec: SearchSpec) -> bytes:
    """One row per front member: trial, epoch, objectives, clean_acc, split, budget, param/..., robust_acc/<class>."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    metrics = list(dict.fromkeys([*spec.objectives, "clean_acc"]))
    rows = [{"trial": r["trial"], "epoch": r["epoch"], **{n: r[n] for n in metrics},
             "method": r["method"], "split": SPLIT, "budget": spec.max_epochs,
             **{f"param/{k}": v for k, v in r["params"].items()},
             **{f"robust_acc/{k}": v for k, v in per_class(history.judged(r["trial"])).items()}}
            for r in front_of(history, spec).rows]
    types = {"trial": pa.int64(), "epoch": pa.int64(), **dict.fromkeys(metrics, pa.float64()),
             "method": pa.string(), "split": pa.string(), "budget": pa.int64()}
    names = list(dict.fromkeys([*types, *(k for row in rows for k in row)]))
    columns = {n: _column([row.get(n) for row in rows], types.get(n)) for n in names}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def _column(values: list, kind):
    import pyarrow as pa

    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a choice of mixed types, such as "auto" or 4
        return pa.array([None if v is None else str(v) for v in values])


def write_files(files: dict[str, Path], found: list[tuple[str, SearchSpec, History]], over) -> None:
    """``files`` maps "html", "png", "parquet" to where they go: pictures of one search (or of the overlay ``over``),
    and all trials x epochs as one tidy table. Each appears whole or not at all; ``UsageError`` where it cannot."""
    from tuner.plots import front_page, picture_data
    from tuner.png import png

    for kind, path in files.items():
        if path.is_dir():
            raise UsageError(f"--{kind} {str(path)!r} is a folder; give a file")
    if not over:
        data = picture_data(found[0][2], found[0][1])
    elif files.keys() - {"parquet"}:
        from tuner.overlay_plots import overlay_png
        from tuner.overlay_plots import picture_data as overlay_data

        data = overlay_data(over)
    makers = {"html": lambda: front_page(data), "png": lambda: overlay_png(over, data) if over else png(data),
              "parquet": lambda: trials_parquet({name: history for name, _, history in found})}
    for kind, path in files.items():
        try:
            write_atomically(path.absolute(), makers[kind]())
        except OSError as error:
            raise UsageError(f"--{kind} {str(path)!r} cannot be written ({error.strerror})") from None


def trials_parquet(histories: dict[str, History]) -> bytes:
    """All trials x epochs of these searches: ``search`` and the columns of `History.table`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [h.table().add_column(0, "search", [[name] * h.table().num_rows]) for name, h in histories.items()]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables, promote_options="permissive"), sink)
    return sink.getvalue().to_pybytes()


def write_pictures(folder: Path, history: History, spec: SearchSpec) -> dict[str, Path]:
    """Write ``front.html``, ``front.png`` and ``front.parquet`` into ``folder``; each appears whole or not at all."""
    from tuner.plots import front_page, picture_data
    from tuner.png import png

    data = picture_data(history, spec)
    made = {"front.html": front_page(data), "front.png": png(data), "front.parquet": front_parquet(history, spec)}
    for name, content in made.items():
        write_atomically(folder / name, content)
    return {name: folder / name for name in made}
