"""Commands that send a search to somebody else, and take one in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from tuner.cli.options import PICKS, RESULTS, DatasetAgain, HomeOption, Json, Search, StorageOption, option
from tuner.escape import print_json, to_stderr, to_stdout
from tuner.home import Home


def import_(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER|BUNDLE", help="A search's folder, or a file of `tuner bundle`.")
    ],
    name: Annotated[Optional[str], option("--name", "NAME", "Name that it gets here.", default="its own")] = None,
    home: HomeOption = None,
    as_json: Json = False,
):
    """Take in a search that somebody sent, as a search of this home; nothing in it is executed or overwrites anything.

    Example: tuner import first.bundle.zip --name theirs
    """
    from tuner.results.importing import import_search

    where = Home(home)
    found = import_search(source, where, name=name)
    if as_json:
        print_json(found.to_dict())
        return
    run, trials = found.run, len(found.run.history.trials)
    to_stdout(f"search  {run.name}\nfolder  {run.folder}")
    kept = f"checkpoints of {found.checkpoints} with those that they are compared with" if found.checkpoints else "none"
    to_stdout(f"trials  {trials}\nmodels  {kept}")
    if not found.checkpoints:
        to_stderr("without checkpoints there is nothing to verify or export; tuner reproduce trains a pick of a bundle")


def bundle(
    search: Search,
    to: Annotated[
        Optional[Path], option("--to", "FILE", "File for the bundle.", default="SEARCH.bundle.zip in this folder")
    ] = None,
    dataset: DatasetAgain = None,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Write what somebody else needs to look at a search and to train it again: spec, history, versions, no data.

    Example: tuner bundle first --to first.bundle.zip
    """
    from tuner.verification.reproduce import bundle as written

    found = written(search, to, Home(home, storage), dataset=dataset)
    if as_json:
        print_json(found)
        return
    machine = found["machine"]
    to_stdout(f"bundle  {found['bundle']}\nsearch  {found['search']}\ncode    {found['code']}\ndata    {found['data']}")
    to_stdout(f"machine {machine['device']}, {machine['processor']}")


def reproduce(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A file of `tuner bundle`.")],
    pick: Annotated[
        str, option("--pick", "NAME", f"What to train again: {PICKS}, paper or no_search.", default="knee")
    ] = "knee",
    dataset: Annotated[
        Optional[str],
        option("--dataset", "TEXT", "Where the search's data lie here.", default="what the search names, unless a URL"),
    ] = None,
    home: HomeOption = None,
    as_json: Json = False,
):
    """Train a pick of a bundle's search again and compare; exit code 0 if all is equal to the last bit, 1 if not.

    Example: tuner reproduce first.bundle.zip --pick knee
    """
    from tuner.verification.reproduce import reproduce as again
    from tuner.verification.reproduce import result_lines

    found = again(file, Home(home), pick=pick, dataset=dataset, say=to_stderr)
    print_json(found) if as_json else to_stdout("\n".join(result_lines(found)))
    if not found["equal"]:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    app.command("import", rich_help_panel=RESULTS)(import_)
    for command in (bundle, reproduce):
        app.command(rich_help_panel=RESULTS)(command)
