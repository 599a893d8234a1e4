"""Commands about what searches found: look at it, test it on unseen data, take it away."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from tuner.cli.options import PICKS, DatasetAgain, Search, StorageOption
from tuner.errors import UsageError
from tuner.home import Home

Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]
HomeOption = Annotated[Optional[Path], typer.Option("--home", help="Home folder [TUNER_HOME, else tuner-home].")]


def front(
    searches: Annotated[list[str], typer.Argument(help="Names of searches; see `tuner ls`. Several are overlaid.")],
    html: Annotated[Optional[Path], typer.Option(help="File for the interactive page.")] = None,
    png: Annotated[Optional[Path], typer.Option(help="File for the picture.")] = None,
    parquet: Annotated[Optional[Path], typer.Option(help="File for one tidy table of all trials and epochs.")] = None,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """The Pareto front of a search, or of several against each other.

    Example: tuner front first second --html compared.html
    """
    from tuner.report.console import show_front

    given = {"html": html, "png": png, "parquet": parquet}
    show_front(Home(home, storage), searches, as_json, {kind: path for kind, path in given.items() if path is not None})


def verify(
    search: Search,
    pick: Annotated[Optional[str], typer.Option(help=f"{PICKS} [the whole front].")] = None,
    attack: Annotated[
        str,
        typer.Option(
            help="apgd (APGD-CE and targeted APGD), autoattack (the standard ensemble, the "
            "authors' code) or pgd:STEPSxRESTARTS."
        ),
    ] = "apgd",
    seeds: Annotated[int, typer.Option(help="Also train each setting anew with so many other seeds, test those.")] = 0,
    dataset: DatasetAgain = None,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Test the front on the test images that no search sees, under stronger attacks, with confidence intervals.

    Example: tuner verify first --attack autoattack
    """
    from tuner.report.console import print_json
    from tuner.verification.console import show
    from tuner.verification.verify import verify_search

    result = verify_search(
        search, Home(home, storage), pick=pick, attack=attack, seeds=seeds, dataset=dataset, say=_say
    )
    print_json(result) if as_json else show(result, Home(home, storage))


def export(
    search: Search,
    pick: Annotated[Optional[str], typer.Option(help=f"{PICKS}.")] = None,
    to: Annotated[Optional[Path], typer.Option(help="Folder for the model: weights, ExportedProgram, card.")] = None,
    register: Annotated[
        Optional[str], typer.Option(help="Also a version of this model in MLflow's registry; the pick is its alias.")
    ] = None,
    parquet: Annotated[Optional[Path], typer.Option(help="File for one tidy table of all trials and epochs.")] = None,
    dataset: DatasetAgain = None,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Take a model of the front away, or all trials as a table.

    Example: tuner export first --pick knee --to my-model
    """
    from tuner.report.console import print_json
    from tuner.verification.export import export_model, export_table

    if (pick is None) != (to is None) or (to is None and parquet is None):
        raise UsageError("tuner export needs --pick with --to DIR, or --parquet FILE")
    if register is not None and to is None:
        raise UsageError(f"--register {register!r} needs --pick and --to DIR: what is registered is what is exported")
    done = {"search": search}
    if to is not None:
        done |= export_model(search, pick, to, Home(home, storage), register=register, dataset=dataset)
    if parquet is not None:
        done |= export_table(search, parquet, Home(home, storage))
    if as_json:
        print_json(done)
        return
    for key, value in done.items():
        print(f"{key:9} {value}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def register(app: typer.Typer) -> None:
    for command in (front, verify, export):
        app.command()(command)
