"""Commands about what searches found: look at it, test it on unseen data, take it away."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Optional

import typer

from tuner.cli.options import PICKS, RESULTS, DatasetAgain, HomeOption, Json, Search, StorageOption, option
from tuner.errors import UsageError
from tuner.escape import print_json, to_stderr, to_stdout
from tuner.home import Home

Parquet = Annotated[Optional[Path], option("--parquet", "FILE", "File for one tidy table of all trials and epochs.")]


def front(
    searches: Annotated[
        list[str], typer.Argument(help="Names of searches; `tuner ls` lists them. Several are compared in one picture.")
    ],
    html: Annotated[Optional[Path], option("--html", "FILE", "File for the interactive page.")] = None,
    png: Annotated[Optional[Path], option("--png", "FILE", "File for the picture.")] = None,
    parquet: Parquet = None,
    at: Annotated[
        Optional[str],
        option(
            "--at",
            "METRIC>=VALUE",
            "Show instead the point that keeps this (or METRIC<=VALUE) at the largest value of the other objective.",
        ),
    ] = None,
    prices: Annotated[
        bool, option("--prices", "", "Show instead what a point of each class costs along the front, and who pays it.")
    ] = False,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Show the Pareto front of a search, or compare those of several.

    Example: tuner front first second --html compared.html
    """
    from tuner.report.console import show_front

    given = {"html": html, "png": png, "parquet": parquet}
    files = {kind: path for kind, path in given.items() if path is not None}
    show_front(Home(home, storage), searches, as_json, files, at, prices)


def trials(
    search: Search,
    trial: Annotated[Optional[int], typer.Argument(help="Number of a trial: show it alone.")] = None,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """List the trials of a search with their states, or show one with all its metrics.

    Example: tuner trials first 3
    """
    from tuner.report.trials import show_trials

    show_trials(search, trial, Home(home, storage), as_json)


def watch(search: Search, home: HomeOption = None, storage: StorageOption = None):
    """Watch a search until it ends, also one that another machine runs; Ctrl-C ends the view alone.

    Example: tuner watch first
    """
    from tuner.report.trials import watch as watched

    with suppress(KeyboardInterrupt):
        watched(search, Home(home, storage))


def verify(
    search: Search,
    pick: Annotated[
        Optional[str],
        option(
            "--pick",
            "NAME",
            f"Which of the front to test: {PICKS}, or all.",
            default="the points that --most spreads along it",
        ),
    ] = None,
    most: Annotated[
        int,
        option(
            "--most",
            "N",
            "Number of the front's points that are tested without --pick: its ends, its knee, and others between them.",
            default="8",
        ),
    ] = 8,
    attack: Annotated[
        str,
        option(
            "--attack",
            "NAME",
            "Attack: apgd (APGD-CE and targeted APGD), autoattack (the standard ensemble, the authors' code) or "
            "pgd:STEPSxRESTARTS.",
            default="apgd",
            suggest=lambda: ("apgd", "autoattack", "pgd:"),
        ),
    ] = "apgd",
    seeds: Annotated[
        int,
        option("--seeds", "N", "Number of other seeds with which each setting is trained and tested too.", default="0"),
    ] = 0,
    dataset: DatasetAgain = None,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Test the front, the default setting and plain AT on the test images that no search sees, under stronger attacks.

    Says what the front gains over both, with confidence intervals, and writes a certificate for tuner audit.

    Example: tuner verify first --attack autoattack
    """
    from tuner.verification.console import show_verification
    from tuner.verification.verify import verify_search

    result = verify_search(
        search, Home(home, storage), pick=pick, most=most, attack=attack, seeds=seeds, dataset=dataset, say=_say
    )
    print_json(result) if as_json else show_verification(result, Home(home, storage))


def audit(
    file: Annotated[Path, typer.Argument(help="A certificate: verified.json of a search's folder.")],
    search: Annotated[
        Optional[str],
        option("--search", "NAME", "The search in this home that it is about.", default="the one that it names"),
    ] = None,
    sample: Annotated[
        int, option("--sample", "N", "Number of test images that are attacked again.", default="200")
    ] = 200,
    seed: Annotated[int, option("--seed", "N", "Seed by which they are drawn.", default="0")] = 0,
    attack: Annotated[
        Optional[str],
        option(
            "--attack",
            "NAME",
            "Attack; another one's findings are told, but say nothing against the certificate.",
            default="the certificate's",
            suggest=lambda: ("apgd", "autoattack", "pgd:"),
        ),
    ] = None,
    dataset: DatasetAgain = None,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Check a certificate of tuner verify: data, checkpoints, and a sample of the images attacked again.

    Exit code 0 if it holds, 1 if not. Example: tuner audit tuner-home/searches/first/verified.json
    """
    from tuner.verification.audit import audit as audited
    from tuner.verification.audit import show_audit, why_not

    result = audited(
        file, Home(home, storage), search=search, sample=sample, seed=seed, attack=attack, dataset=dataset, say=_say
    )
    print_json(result) if as_json else show_audit(result)
    if not result["holds"]:
        _say(why_not(result))
        raise typer.Exit(1)


def export(
    search: Search,
    pick: Annotated[Optional[str], option("--pick", "NAME", f"What to export: {PICKS}, paper or no_search.")] = None,
    to: Annotated[
        Optional[Path], option("--to", "DIR", "Folder for the model: its weights, its ExportedProgram and its card.")
    ] = None,
    register: Annotated[
        Optional[str],
        option(
            "--register",
            "NAME",
            "Name in MLflow's registry: the model becomes a version of it, with the pick as alias.",
        ),
    ] = None,
    epoch: Annotated[
        str,
        option(
            "--epoch",
            "NAME",
            "Which epoch's model: last, by which the front is drawn, or best on val (largest sum of the objectives).",
            default="last",
            suggest=lambda: ("last", "best"),
        ),
    ] = "last",
    parquet: Parquet = None,
    dataset: DatasetAgain = None,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Export a model of the front, or all trials as a table.

    Example: tuner export first --pick knee --to my-model
    """
    from tuner.verification.export import export_model, export_table

    if (pick is None) != (to is None) or (to is None and parquet is None):
        raise UsageError("tuner export needs --pick with --to DIR, or --parquet FILE")
    if register is not None and to is None:
        raise UsageError(f"--register {register!r} needs --pick and --to DIR: what is registered is what is exported")
    if epoch not in ("last", "best"):
        raise UsageError(f"--epoch {epoch!r} is not allowed; it takes last or best")
    done = {"search": search}
    if to is not None and pick is not None:
        done |= export_model(search, pick, to, Home(home, storage), register=register, dataset=dataset, epoch=epoch)
    if parquet is not None:
        done |= export_table(search, parquet, Home(home, storage))
    if as_json:
        print_json(done)
        return
    for key, value in done.items():
        to_stdout(f"{key:9} {value}")


def _say(text: str) -> None:
    to_stderr(text)


def register(app: typer.Typer) -> None:
    for command in (front, trials, watch, verify, audit, export):
        app.command(rich_help_panel=RESULTS)(command)
