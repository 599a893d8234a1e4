"""Commands about what searches found: look at it, test it on unseen data, take it away."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from tuner.cli.options import (
    PICKS,
    RESULTS,
    DatasetAgain,
    HomeOption,
    Json,
    Search,
    StorageOption,
    option,
    option_of,
    trial_argument,
)
from tuner.errors import UsageError
from tuner.escape import print_json, to_stderr, to_stdout
from tuner.home import Home
from tuner.spec import known
from tuner.spec.fields import SearchFields
from tuner.spec.option import options_of

if TYPE_CHECKING:
    from tuner.spec.search_spec import SearchSpec

MODEL = "A model that no search made"  # panel of the help

ModelFile = Annotated[
    Optional[str],
    option(
        "--model",
        "FILE",
        "Weights of a model that no search made, as --init of tuner search reads them; or MODULE:FUNCTION or "
        "FILE.py:FUNCTION, your own code, which returns a model.",
        panel=MODEL,
    ),
]
Arch = Annotated[
    Optional[str],
    option("--arch", "NAME", "Its network, as --model of tuner search.", panel=MODEL, suggest=known.models),
]
DatasetTested = Annotated[
    Optional[str],
    option(
        "--dataset",
        "TEXT",
        "With --model the images that it is tested on, as --dataset of tuner search. Else the search's dataset, named "
        "again where it is a URL: a search that somebody sent must not choose whom this machine asks.",
        suggest=known.datasets,
    ),
]
_FIELDS = options_of(SearchFields)
ImageSize = Annotated[Optional[int], option_of(_FIELDS["image_size"], MODEL)]
TestSplit = Annotated[Optional[str], option_of(_FIELDS["test_split"], MODEL)]
Groups = Annotated[Optional[str], option_of(_FIELDS["groups"], MODEL)]
Threat = Annotated[Optional[str], option_of(_FIELDS["threat"], MODEL)]
TrainingSetting = Annotated[Optional[list[str]], option_of(_FIELDS["set"], MODEL)]
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
    importances: Annotated[
        bool,
        option("--importances", "", "Show instead how much each searched parameter matters, by PED-ANOVA and fANOVA."),
    ] = False,
    confirm: Annotated[
        bool, option("--confirm", "", "With --at: ask for one more seed of that trial; a resume trains it.")
    ] = False,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Show the Pareto front of a search, or compare those of several.

    Example: tuner front first second --html compared.html
    """
    from tuner.cli.steering import said
    from tuner.report.console import show_front
    from tuner.results.searches import load_search
    from tuner.results.steering import ask

    given = {"html": html, "png": png, "parquet": parquet}
    files = {kind: path for kind, path in given.items() if path is not None}
    if confirm and (at is None or len(searches) > 1):
        raise UsageError("--confirm needs --at, which picks a point, and one search")
    instead = [name for name, asked in (("prices", prices), ("importances", importances)) if asked]
    if len(instead) + (at is not None) > 1:
        raise UsageError("--at, --prices and --importances each show something in place of the front: give one of them")
    kept = show_front(Home(home, storage), searches, as_json, files, at, "".join(instead))
    if confirm:
        run = load_search(Home(home, storage), searches[0])
        to_stderr("; ".join(said(run, ask(run, "confirm", trial=kept[searches[0]]["trial"]))))


def trials(
    search: Search,
    trial: Annotated[Optional[int], trial_argument("Number of a trial, or no_search: show it alone.")] = None,
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
    search: Annotated[Optional[str], typer.Argument(help="Name of a search; `tuner ls` lists them.")] = None,
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
    dataset: DatasetTested = None,
    model: ModelFile = None,
    arch: Arch = None,
    image_size: ImageSize = None,
    test_split: TestSplit = None,
    groups: Groups = None,
    threat: Threat = None,
    training: TrainingSetting = None,
    json_robustbench: Annotated[
        Optional[Path],
        option(
            "--json-robustbench",
            "FILE",
            "File for RobustBench's record of the model (of a search its front's knee, or the --pick): autoattack "
            "alone.",
        ),
    ] = None,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Test the front, the default setting and plain AT on the test images that no search sees, under stronger attacks.

    Says what the front gains over both, with confidence intervals, and writes a certificate for tuner audit.

    With --model it is a model from a file that is tested. Example: tuner verify first --attack autoattack
    """
    from tuner.results.searches import load_search
    from tuner.verification.console import show_verification
    from tuner.verification.foreign import verify_model
    from tuner.verification.robustbench import check_record, write_record
    from tuner.verification.verify import verify_search

    where = Home(home, storage)
    if (search is None) == (model is None):
        raise UsageError("tuner verify takes the name of a search, or --model FILE with --arch NAME")
    if json_robustbench is not None:
        check_record(attack, json_robustbench)
    asked = {"image_size": image_size, "test_split": test_split, "groups": groups, "threat": threat, "set": training}
    spec = model_spec(model, arch, dataset, **asked)
    if model is not None:
        if (pick, most, seeds) != (None, 8, 0):
            raise UsageError("--pick, --most and --seeds are of a search; --model FILE is one model")
        result = verify_model(model, spec, where, attack=attack, say=_say)
    else:
        result = verify_search(
            search or "", where, pick=pick, most=most, attack=attack, seeds=seeds, dataset=dataset, say=_say
        )
        spec = load_search(where, result["search"]).spec if json_robustbench is not None else None
    if json_robustbench is not None:
        write_record(result, spec, json_robustbench)
    print_json(result) if as_json else show_verification(result, where, dataset)


def model_spec(model: str | None, arch: str | None, dataset: str | None, **given: Any) -> SearchSpec | None:
    """Data, network and attack of a ``model`` that no search made, by the options of a search that are ``given``; None
    without one, where these options are refused: a search has its own."""
    from tuner.cli.search_options import key_values
    from tuner.spec.search_spec import SearchSpec

    if model is None:
        if arch or any(given.values()):
            raise UsageError(
                "--arch, --image-size, --test-split, --groups, --threat and --set belong to --model FILE; a search has "
                "its own"
            )
        return None
    from trainables.called import is_call

    called = is_call(model)
    if called and arch:
        raise UsageError(f"--arch {arch!r} is the network of a file; {model!r} returns a model")
    if not called and arch is None or dataset is None:
        raise UsageError("--model FILE needs --arch NAME, its network, and --dataset, the images that it is tested on")
    given["set"] = key_values(given["set"] or [], "--set")
    return SearchSpec.from_dict(
        {
            "method": "at",
            **({} if called else {"model": arch}),
            "dataset": dataset,
            "imbalance": "none",
            **{k: v for k, v in given.items() if v},
        }
    )


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
    dataset: DatasetTested = None,
    model: ModelFile = None,
    arch: Arch = None,
    image_size: ImageSize = None,
    test_split: TestSplit = None,
    groups: Groups = None,
    threat: Threat = None,
    training: TrainingSetting = None,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Check a certificate of tuner verify: data, checkpoints, and a sample of the images attacked again.

    Exit code 0 if it holds, 1 if not. Example: tuner audit tuner-home/searches/first/verified.json
    """
    from tuner.verification.audit import audit as audited
    from tuner.verification.audit import show_audit, why_not
    from tuner.verification.foreign import open_model

    where = Home(home, storage)
    asked = {"image_size": image_size, "test_split": test_split, "groups": groups, "threat": threat, "set": training}
    spec = model_spec(model, arch, dataset, **asked)
    opened = spec and partial(open_model, model, spec, where)
    result = audited(
        file, where, search=search, sample=sample, seed=seed, attack=attack, dataset=dataset, model=opened, say=_say
    )
    print_json(result) if as_json else show_audit(result)
    if not result["holds"]:
        _say(why_not(result))
        raise typer.Exit(1)


def leaderboard(
    names: Annotated[
        Optional[list[str]],
        typer.Argument(
            metavar="[NAME|FILE]...",
            help="Searches and models that were verified here, and certificates; without any, what others published.",
        ),
    ] = None,
    html: Annotated[Optional[Path], option("--html", "FILE", "File for the same as a page.")] = None,
    home: HomeOption = None,
    as_json: Json = False,
):
    """Show searches, models and certificates in one table beside what others published, with sources and verdicts.

    Example: tuner leaderboard first --html leaderboard.html
    """
    from tuner.verification.leaderboard import leaderboard as made
    from tuner.verification.leaderboard import show_leaderboard, write_page

    result = made(names or [], Home(home))
    if html is not None:
        write_page(result, html)
    print_json(result["rows"]) if as_json else show_leaderboard(result)


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
    for command in (front, trials, watch, verify, audit, leaderboard, export):
        app.command(rich_help_panel=RESULTS)(command)
