"""A search's result as text: the front as a table, the gain over the references, a summary in Markdown.

Everything here is computed from the history alone, so a report can be repeated at any time. All numbers are of split
``val``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tuner.escape import code, markdown
from tuner.report.format import SHORT_LABELS, judging, seed_text, short_label, value_text, with_std
from tuner.report.gain import EMPTY, gains_in, row_name
from tuner.report.reference import Reference, front_in, references_of
from tuner.results.fronts import counts
from tuner.results.pareto import Front, row_label
from tuner.results.search_run import SearchRun
from tuner.results.summary import SPLIT, front_json
from tuner.results.trial_record import NO_SEARCH
from tuner.spec.objectives import Constraint, shown_metrics
from tuner.spec.search_spec import SearchSpec
from tuner.sync.initial import init_text

if TYPE_CHECKING:
    from rich.table import Table

MAX_ROWS = 12  # of the front in a table; MLflow cuts a description at 8000 characters
MAX_COLUMNS = 5  # of parameters: more are written as one text, so that the table still fits a terminal


def front_cells(
    front: Front, references: Sequence[Reference], searched: tuple[str, ...], narrow: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text: at most ``MAX_ROWS`` of the front, spread evenly, then those of `reference_rows`.

    ``searched``: the parameters to show. Up to ``MAX_COLUMNS`` of them have a column each. Means over seeds have their
    standard deviation beside them; rows of several methods name their method, those under several seeds their seed;
    offsets have a column if any row has them, and so has the probability to be on the front if it is known.
    ``narrow``: without columns for offsets, whose tau the label says too, and for single parameters.
    """
    shown_rows = evenly(front.rows, MAX_ROWS)
    rows = [(_marked_label(row, references), row) for row in shown_rows] + reference_rows(front, references)
    shown = [n for n in searched if any(n in row["params"] for _, row in rows)]
    columns = _model_columns(rows, narrow) | _result_columns(rows, shown_metrics(front.objectives))
    each = len(shown) <= (1 if narrow else MAX_COLUMNS)
    texts = _parameter_cells(rows, shown, each)
    cells = [[*(column[i] for column in columns.values()), *texts[i]] for i in range(len(rows))]
    return [*columns, *(shown if each else ["parameters"])], cells


def _model_columns(rows: Sequence[tuple[str, dict]], narrow: bool) -> dict[str, list[str]]:
    """Header -> cells: which model each (label, row) is."""
    columns = {"trial": [label for label, _ in rows]}
    if len({row.get("method") for _, row in rows if row["trial"] != NO_SEARCH}) > 1:
        columns["method"] = [row["method"] for _, row in rows]
    if len({row.get("seed") for _, row in rows}) > 1:
        columns["seed"] = [seed_text(row) for _, row in rows]
    if not narrow and any(offsets_text(row) for _, row in rows):
        columns["offsets"] = [offsets_text(row) or "-" for _, row in rows]
    return columns


def _result_columns(rows: Sequence[tuple[str, dict]], metrics: Sequence[str]) -> dict[str, list[str]]:
    """Header -> cells: what each (label, row) is worth."""
    columns = {short_label(name): [with_std(row, name) for _, row in rows] for name in metrics}
    if any("p_front" in row for _, row in rows):
        columns["on the front"] = [f"{row['p_front']:.0%}" if "p_front" in row else "" for _, row in rows]
    return columns


def evenly(rows: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of the rows (2 or more), spread evenly from the first to the last."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def reference_rows(front: Front, references: Sequence[Reference]) -> list[tuple[str, dict]]:
    """(label, row) of each reference without offsets, and of its best with offsets where that is another; without the
    rows that are on the front."""
    on_front = {row_label(row) for row in front.rows}
    return [
        (reference.label(row), row)
        for reference in references
        for row in {row_label(r): r for r in (reference.plain, reference.best(front.objectives))}.values()
        if row_label(row) not in on_front
    ]


def _marked_label(row: dict, references: Sequence[Reference]) -> str:
    """The row's label, with the references whose trial it is."""
    names = [reference.name for reference in references if reference.plain["trial"] == row["trial"]]
    return row_label(row) + (f" ({', '.join(names)})" if names else "")


def offsets_text(row: dict) -> str:
    """``prior 0.75``: kind and tau of a row's offsets; empty where it has none."""
    offsets = row.get("offsets") or {}
    return f"{offsets['kind']} {offsets['tau']:g}" if offsets.get("tau") else ""


def _parameter_cells(rows: Sequence[tuple[str, dict]], shown: list[str], each: bool) -> list[list[str]]:
    """The parameters of each (label, row): a column for ``each`` or one text, which further rows of the same trial
    refer to."""
    if each:
        return [[value_text(row["params"].get(n)) for n in shown] for _, row in rows]
    first: dict[int, str] = {}
    cells = []
    for _, row in rows:
        if row["trial"] in first:
            cells.append([f"as {first[row['trial']]}"])
            continue
        params = row["params"]
        cells.append([" ".join(f"{n}={value_text(params[n])}" for n in shown if params.get(n) is not None)])
        if params:
            first[row["trial"]] = row_label(row)
    return cells


def notes(result: dict[str, Any], objectives: tuple[str, ...]) -> list[str]:
    """What only some results have, in sentences: which trials fell off the front when more seeds were trained, which
    were better at an earlier epoch, and what each of several methods used and contributed."""
    lines = [f"{init_text(result['init'])}."] if result.get("init") else []
    for row in result.get("fell_off", []):
        means = ", ".join(f"{short_label(n)} {with_std(row, n)}" for n in objectives)
        over = f"over {len(row['seeds'])} seeds" if "seeds" in row else "with one seed; others have better means"
        lines.append(f"Trial {row['trial']} was on the front with one seed and fell off: {means} {over}.")
    if result.get("parted"):
        lines.append(
            "Better at an earlier epoch, by more than two standard errors on the images of val that judge every epoch: "
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


def front_table(
    front: Front,
    references: Sequence[Reference],
    searched: tuple[str, ...],
    width: int,
    empty: str = EMPTY,
    constraint: Sequence[str] = (),
) -> Table:
    """`front_cells` as a table for the terminal, of ``width`` characters, the references below a line and in bold.

    Where that is too little for one line a row, labels are broken at spaces and parameters wherever it must be.
    ``empty``: the title without rows of the front; ``constraint``: the search's, which all of them satisfy.
    """
    from tuner.report.tables import PlainTable

    header, rows = front_cells(front, references, searched)
    if _width(header, rows) > width:
        header, rows = front_cells(front, references, searched, narrow=True)
        header = [name.replace(" ", "\n") for name in header]
        rows = [[label.replace(" ", "\n"), *cells] for label, *cells in rows]
    own = len(evenly(front.rows, MAX_ROWS))
    more = f" ({len(front.rows) - own} more rows: --json and front.html have all)" if len(front.rows) > own else ""
    within = f" with {', '.join(constraint)}" if constraint else ""
    table = PlainTable(title=f"Pareto front on {SPLIT}{within}{more}" if front.rows else empty)
    numbers = {"on the front", *SHORT_LABELS.values()}
    for name in header:  # even without rows: rich shows no table without columns
        number = name.replace("\n", " ") in numbers
        table.add_column(name, justify="right" if number else "left", no_wrap=name != "parameters")
    for i, cells in enumerate(rows):
        table.add_row(*cells, style="bold" if i >= own else None, end_section=i == own - 1)
    return table


def _width(header: list[str], rows: list[list[str]]) -> int:
    """Of a table with one line a row, but for a text of all parameters, which may be broken at spaces."""
    *columns, last = zip(header, *rows)
    words = [word for cell in last for word in cell.split()] if header[-1] == "parameters" else last
    return 3 * len(header) + 1 + sum(max(map(len, cells)) for cells in [*columns, words])


def kept_text(row: dict, constraint: Constraint, front: Front, several: bool = False) -> str:
    """What the answer to ``--at`` says: the row, its metrics, and what it costs against the best of the front.
    ``several``: trials are of several seeds, so that of the row is said too."""
    name = next((n for n in front.objectives if n != constraint.metric), front.objectives[0])
    metrics = ", ".join(f"{short_label(n)} {with_std(row, n)}" for n in shown_metrics(front.objectives))
    lost = max((r[name] for r in front.rows), default=row[name]) - row[name]
    cost = f"; {lost:.3f} below the best {short_label(name)} of the front" if lost > 0 else ""
    params = " ".join(f"{k}={value_text(v)}" for k, v in row["params"].items() if v is not None)
    offsets = f", offsets {text}" if (text := offsets_text(row)) else ""
    offsets = (f", seed {seed_text(row)}" if several else "") + offsets
    off = "" if row_label(row) in map(row_label, front.rows) else ", not on the front"  # --pick takes no such
    sure = f"; on new images with probability {row['p_holds']:.0%}" if row.get("p_holds") is not None else ""
    return f"{constraint}{sure}: {row_name(row)}{offsets}{off} (on {SPLIT}: {metrics}{cost}) {params}".rstrip()


def headline(spec: SearchSpec) -> tuple[str, str]:
    """A title (method and data) and the line below it (split, budget, attack, sampler, constraints)."""
    eps = value_text(judging(spec, "eps"))
    seeds = f"seed {spec.seed}" if spec.stems == 1 else f"seeds {spec.seed} to {spec.seed + spec.stems - 1} in turn"
    title = f"{spec.method_names} on {spec.dataset}, imbalance {spec.imbalance}, model {spec.model}"
    return title, (
        f"split {SPLIT} · budget {spec.max_epochs} epochs · {spec.threat_model.shown} attack, eps {eps} of a pixel "
        f"range of 1, {judging(spec, 'eval_attack')} steps each of CE-PGD and margin-PGD · sampler {spec.sampler}, "
        f"{seeds}" + (f" · constraint {', '.join(spec.constraint)}" if spec.constraint else "")
    )


def summary_markdown(run: SearchRun) -> str:
    """The run's description in MLflow, in Markdown: what was searched, the front, the gain over the references."""
    spec, history = run.spec, run.history
    result = front_json(run)
    front, references, space = front_in(result, spec.objectives), references_of(result), spec.shown_space()
    title, line = headline(spec)
    header, rows = front_cells(front, references, space.searched)
    first, *others = [f"| {' | '.join(map(markdown, line))} |" for line in [header, *rows]]
    table = [first, "|" + " --- |" * len(header), *others] if rows else []
    table += ["", f"{len(front.rows)} rows, of which {MAX_ROWS} are shown"] if len(front.rows) > MAX_ROWS else []
    fixed = ", ".join(f"{code(k)} = {markdown(value_text(v))}" for k, v in space.fixed.items())
    return "\n".join(
        [
            f"### {markdown(title)}",
            "",
            "\n\n".join(map(markdown, gains_in(result, spec.objectives).splitlines())),
            "",
            markdown(line),
            "",
            *(f"- {markdown(note)}" for note in notes(result, spec.objectives)),
            "",
            f"Searched: {', '.join(map(code, space.searched)) or 'nothing'}"
            + (f". Fixed: {fixed}" if fixed else "")
            + f". {counts(history).capitalize()}.",
            "",
            *table,
            "",
            "Values are fractions at the last epoch of trials that ran the full budget. `class mean` is the mean over "
            "classes of robust accuracy; in `natural average` a class counts by its training images. `3@0.75` is trial "
            "3 with class offsets of tau 0.75 added to its logits. A search never opens `test`; the interactive figure "
            "is the artifact `front.html`.",
            "",
        ]
    )
