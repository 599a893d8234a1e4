"""What the commands print on stdout: tables, or with ``--json`` the JSON that scripts rely on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from search_spaces import METHODS, epochs_of, method_space, recipe_of
from search_spaces.param import Param, describe, params_of
from search_spaces.provenance import paper_label
from tuner.errors import Failed, UsageError
from tuner.escape import print_json, printable, to_stderr
from tuner.home import Home
from tuner.report.tables import PlainTable
from tuner.results.prices import class_prices
from tuner.results.search_run import SearchRun
from tuner.spec.budget import Budget
from tuner.spec.search_spec import SearchSpec
from tuner.spec.space import build_space

if TYPE_CHECKING:
    from tuner.report.comparison import Comparison
    from tuner.spec.objectives import Constraint

WIDTH = 140  # columns of a table that is not printed on a terminal


class PlainConsole(Console):
    """Shows text as it is: brackets are no markup, ``:cat:`` is no emoji, control characters are written out."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})


def stdout_console() -> Console:
    console = PlainConsole()
    return console if console.is_terminal else PlainConsole(width=WIDTH)


def show_result(result: dict[str, Any], spec: SearchSpec, home: Home, as_json: bool) -> None:
    """Print the end of a search: the gain over the references, the front, and where the pictures are."""
    if as_json:
        print_json(result)
        return
    from tuner.report.text import notes
    from tuner.sync.named_places import resume_command

    console, folder, counts = stdout_console(), home.search(result["search"]), result["trials"]
    _show_gain_and_front(console, result, spec)
    more = "".join(f", {number} {state}" for state, number in counts.items() if state in ("waiting", "skipped"))
    lines = [
        *notes(result, spec.objectives),
        f"search    {result['search']} {result['state']}: {counts['finished']} in full, "
        f"{counts['previewed']} previewed, {counts['stopped']} stopped, {counts['failed']} failed{more}; "
        f"{result['epochs_trained']} epochs in {result['wall_s']:.0f} s" + _saved(result),
        f"split     {result['split']} (a search never opens the test split)",
        f"pictures  {folder / 'front.html'}  {folder / 'front.png'}",
        f"mlflow    tuner ui --search {result['search']}" + home.flag,
    ]
    if result["state"] == "stopped":
        lines.append(f"go on     {resume_command(spec, home, result['search'], _larger_budget(result))}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _larger_budget(result: dict[str, Any]) -> str:
    """What lets a search go on whose budget is spent: twice that, and enough for one more training."""
    spent = Budget.of(result.get("spent"))
    if spent is None:
        return ""
    enough = result["bill"]["epochs"] + result["bill"]["max_epochs"] if spent.unit == "epochs" else 0.0
    return f" --budget {max(2 * spent.amount, enough):.10g}{spent.unit}"


def _saved(result: dict[str, Any]) -> str:
    """Epochs that did not have to be trained, by reason. A result of an older version has only their sum."""
    by = {why.replace("_", " "): epochs for why, epochs in result.get("epochs_saved_by", {}).items() if epochs}
    return f"; {' and '.join(f'{why} saved {epochs}' for why, epochs in by.items())}" if by else ""


def show_front(
    home: Home, names: list[str], as_json: bool, files: dict[str, Path], at: str | None = None, instead: str = ""
) -> dict[str, dict[str, Any] | None]:
    """Print the front of one search, or the comparison of several searches or methods.

    ``files``: what else to write, as in `write_files`. ``at``: a constraint; printed is the cheapest point of each
    search that keeps it. ``instead``: of `INSTEAD`, what is printed in its place. ``UsageError`` where searches cannot
    be compared; ``Failed`` where no point keeps the constraint. Returns the points that keep it, by search.
    """
    from tuner.report.comparison import compare_runs
    from tuner.report.files import write_files
    from tuner.results.searches import load_search, shown_state
    from tuner.results.summary import front_json
    from tuner.spec.objectives import parse_constraint

    constraint = None if at is None else parse_constraint(at, "--at")
    runs = [load_search(home, name) for name in dict.fromkeys(names)]
    for run in runs:
        _say_not_asked(run)
    kept = _kept(runs, constraint) if constraint else {}
    compared = compare_runs(runs)
    comparison = compared if len(runs) > 1 or len(compared.groups) > 1 else None
    write_files(files, runs, comparison)
    results = [front_json(run) | {"state": shown_state(run)} | ({"at": kept[run.name]} if kept else {}) for run in runs]
    if as_json:
        print_json(_with_answers(results, runs, comparison, instead))
        return kept
    if constraint:
        _show_kept(runs, kept, constraint)
    elif instead:
        INSTEAD[instead][1](runs)
    elif len(runs) == 1:
        _show_one_search(runs[0], results[0], comparison)
    elif comparison:
        _show_comparison(comparison)
    for path in files.values():
        stdout_console().print(f"written   {path}", highlight=False, soft_wrap=True)
    return kept


def _kept(runs: list[SearchRun], constraint: Constraint) -> dict[str, dict[str, Any] | None]:
    """Search -> its cheapest row that keeps the ``constraint``; ``Failed`` where there is none in any of them."""
    from tuner.results.assessment import probability

    kept = {run.name: run.history.cheapest(run.spec.objectives, run.spec.goal, constraint) for run in runs}
    for run in runs:
        if row := kept[run.name]:
            kept[run.name] = {**row, "p_holds": probability(run.spec, run.history, row, constraint)}
    if not any(kept.values()):
        own = " and satisfies the search's constraints" if any(run.spec.constraint for run in runs) else ""
        raise Failed(f"no finished trial of {', '.join(kept)} has {constraint}{own}, with any of its offsets")
    return kept


def _with_answers(
    results: list[dict[str, Any]], runs: list[SearchRun], comparison: Comparison | None, instead: str
) -> list[dict[str, Any]]:
    """The results with what else ``--json`` has been asked for: that of `INSTEAD`, and what each has in the
    comparison."""
    from tuner.report.comparison import as_json

    if instead:
        results = [r | {instead: INSTEAD[instead][0](run)} for r, run in zip(results, runs)]
    if comparison:
        by_search = as_json(comparison)
        results = [r | {"overlay": by_search[r["search"]]} for r in results]
    return results


def _show_kept(runs: list[SearchRun], kept: dict[str, dict[str, Any] | None], constraint: Constraint) -> None:
    from tuner.report.text import kept_text

    for run in runs:
        row = kept[run.name]
        several = run.spec.stems > 1
        text = kept_text(row, constraint, run.front(), several) if row else f"{constraint}: no finished trial"
        stdout_console().print(f"{run.name}, {text}", highlight=False, soft_wrap=True)


def _prices_json(run: SearchRun) -> list[dict[str, Any]]:
    return [asdict(price) for price in class_prices(run)]


def _show_prices(runs: list[SearchRun]) -> None:
    for run in runs:
        lines = [price.words for price in class_prices(run)]
        title = f"{run.name}: what a point of each class costs along the front, on val"
        none = "no row of the front treats a class better than the one with the best average does"
        for line in [title, *(lines or [none])]:
            stdout_console().print(line, highlight=False, soft_wrap=True)


def importances_json(run: SearchRun) -> list[dict[str, Any]]:
    """For each method its `Importances`, with what may be said of them."""
    from tuner.optimizer.importances import importances_of

    return [asdict(found) | {"words": found.words} for found in importances_of(run.spec, run.history)]


def _show_importances(runs: list[SearchRun]) -> None:
    console = stdout_console()
    for run, found in ((run, found) for run in runs for found in importances_json(run)):
        kind = "previews" if found["previews"] else "full trainings"
        title = f"{run.name}: how much each parameter of {found['method']} matters, on {found['trials']} {kind}"
        console.print(title, highlight=False, soft_wrap=True)
        if found["ped_anova"] and found["fanova"]:
            table = PlainTable("parameter", "PED-ANOVA", "fANOVA")
            for name, share in found["ped_anova"].items():
                other = found["fanova"].get(name)
                table.add_row(name, f"{share:.0%}", "-" if other is None else f"{other:.0%}")
            console.print(table)
        console.print(found["words"], highlight=False, soft_wrap=True)


# What `tuner front` can show in place of the front: its JSON, and how it is printed for several.
INSTEAD = {"prices": (_prices_json, _show_prices), "importances": (importances_json, _show_importances)}


def _say_not_asked(run: SearchRun) -> None:
    from tuner.sync.named_places import unasked_storage_note

    if sentence := unasked_storage_note(run.spec, run.home, run.name):
        to_stderr(sentence)


def _show_one_search(run: SearchRun, result: dict[str, Any], comparison: Comparison | None) -> None:
    """Its front, or the ``comparison`` of its methods."""
    from tuner.report.gain import gains_in
    from tuner.report.text import notes

    console = stdout_console()
    console.print(f"{run.name} ({result['state']}, split {result['split']})", highlight=False)
    if comparison:
        console.print(gains_in(result, run.spec.objectives), highlight=False, soft_wrap=True)
        _show_comparison(comparison)
    else:
        _show_gain_and_front(console, result, run.spec)
    for line in notes(result, run.spec.objectives):
        console.print(line, highlight=False, soft_wrap=True)


def _show_gain_and_front(console: Console, result: dict[str, Any], spec: SearchSpec) -> None:
    """What was gained first; then the front."""
    from tuner.report.gain import gains_in, why_empty
    from tuner.report.reference import front_in, references_of
    from tuner.report.text import front_table

    best, references, searched = front_in(result, spec.objectives), references_of(result), spec.shown_space().searched
    if best.rows:  # else the table's title says that there is none
        console.print(gains_in(result, spec.objectives), highlight=False, soft_wrap=True)
    why = why_empty(result)
    console.print(front_table(best, references, searched, console.width, empty=why, constraint=spec.constraint))


def _show_comparison(comparison: Comparison) -> None:
    from tuner.report.comparison import cells, combined_cells, sentences

    console = stdout_console()
    for title, (header, rows) in (
        (f"Methods on {comparison.split}", cells(comparison)),
        ("Combined front", combined_cells(comparison)),
    ):
        table = PlainTable(*header, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in sentences(comparison):
        console.print(line, highlight=False, soft_wrap=True)


def show_searches(home: Home, as_json: bool) -> None:
    """Print one row per search of the home; a search that cannot be read is reported on stderr."""
    from tuner.results.listing import LISTED, searches

    told: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        to_stderr(text)

    rows = searches(home, say)
    if as_json:
        print_json(rows)
        return
    table = PlainTable()
    for name in ("search", *LISTED, "created"):
        table.add_column(name)
    for row in rows:
        table.add_row(*(str(v) for v in row.values()))
    if rows or not told:  # of those that cannot be read that was said
        stdout_console().print(table if rows else f"no searches in {home.root}", highlight=False)


def method_json(name: str) -> dict[str, Any]:
    """One entry of `tuner methods --json`."""
    space = METHODS[name]
    params = [
        {
            "name": p.name,
            "default": p.default,
            "range": describe(p.range),
            "doc": p.doc,
            "source": p.source,
            "when": _when(p),
            "acts_as": p.acts_as.name if p.acts_as else None,
        }
        for p in params_of(space.Params).values()
    ]
    recipe = {"recipe": recipe_of(name) or None, "recipe_epochs": epochs_of(name)}
    recipe["recipe_of_form"] = getattr(space, "RECIPE_OF_FORM", None)
    package = {"package": (METHODS.source(name) or "").removeprefix("package ") or None}
    return {"name": name, "paper": space.PAPER, "summary": space.SUMMARY, "params": params, **recipe, **package}


def _when(param: Param) -> str | None:
    """``loss in {ldam}``: the condition under which the parameter exists."""
    return " and ".join(f"{k} in {{{', '.join(map(str, v))}}}" for k, v in param.when.items()) or None


def show_methods(as_json: bool) -> None:
    for problem in METHODS.problems.values():  # plug-ins that cannot be used
        to_stderr(problem)
    if as_json:
        print_json([method_json(name) for name in METHODS])
        return
    table = PlainTable()
    for name in ("method", "summary", "searched", "paper", *(["package"] if METHODS.plug_ins else [])):
        table.add_column(name)
    for name, space in METHODS.items():
        searched = ", ".join(build_space(name, fix={}, space={}).searched)
        of_package = [(METHODS.source(name) or "").removeprefix("package ")] if METHODS.plug_ins else []
        table.add_row(name, space.SUMMARY, searched, space.PAPER, *of_package)
    stdout_console().print(table)


def show_space(method: str, as_json: bool) -> None:
    """Print a method's parameters; ``UsageError`` for an unknown method."""
    try:
        method_space(method)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if as_json:
        print_json(method_json(method))
        return
    console, row = stdout_console(), method_json(method)
    note = f"trial 0 is {paper_label(method)}; the source of a default: paper, code (the authors'), second-hand, ours"
    console.print(f"{method}: {row['summary']}\n{row['paper']}\n{note}", highlight=False, soft_wrap=True)
    table = PlainTable()
    columns = ("name", "default", "source", "range", "doc", "when")
    for name in columns:
        table.add_column(name)
    for p in row["params"]:
        table.add_row(*("" if p[k] is None else str(p[k]) for k in columns))
    console.print(table)
    if shared := [f"{p['name']}: {p['acts_as']}" for p in row["params"] if p["acts_as"]]:
        console.print(f"acts as, for --warm-start  {', '.join(shared)}", highlight=False, soft_wrap=True)
    if row["recipe"]:
        console.print(
            f"--recipe paper  {recipe_text(row['recipe'], row['recipe_epochs'], row['name'])}",
            highlight=False,
            soft_wrap=True,
        )


def recipe_text(recipe: dict[str, Any], epochs: int | None, method: str) -> str:
    """``lr 0.1, milestones 0.75,0.9; 100 epochs; with --fix form=at also attack_bn train``"""
    begins = getattr(method_space(method), "FINE_TUNING", {})

    def listed(settings: dict[str, Any]) -> str:
        return ", ".join(f"{name} {value}" for name, value in settings.items())

    after = f"; {epochs} epochs" if epochs else ""
    after += " from a trained model (--init)" if begins else ""
    of_form = getattr(method_space(method), "RECIPE_OF_FORM", {})
    more = [f"; with --fix form={form} also {listed(own)}" for form, own in of_form.items()]
    return listed({**recipe, **begins}) + after + "".join(more)
