"""Commands that change a search, also while it runs: a trial of one's own, the end or another try of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from tuner.cli.options import SEARCHING, HomeOption, Json, Search, StorageOption, option, trial_argument
from tuner.escape import print_json, to_stdout
from tuner.home import Home

Trial = Annotated[int, trial_argument("Number of a trial, or no_search; `tuner trials SEARCH` lists them.")]
Skipped = Annotated[int, trial_argument("Number of a trial; `tuner trials SEARCH` lists them.")]


def add(
    search: Search,
    setting: Annotated[
        list[str], typer.Argument(help="KEY=VALUE of each hyperparameter that is not the default setting's.")
    ],
    method: Annotated[
        Optional[str], option("--method", "NAME", "Which of the search's methods, where it has several.")
    ] = None,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Add a setting of your own to a search, also while it runs. It trains in full whatever its preview says.

    Example: tuner add first loss=focal gamma=2
    """
    from tuner.cli.search_options import key_values

    params = key_values(setting, "add SEARCH")
    _ask(search, Home(home, storage), as_json, "add", params=params, **({"method": method} if method else {}))


def skip(search: Search, trial: Skipped, home: HomeOption = None, storage: StorageOption = None, as_json: Json = False):
    """End a trial of a search that waits or runs; it is marked as skipped. One that was previewed is not promoted.

    Example: tuner skip first 7
    """
    _ask(search, Home(home, storage), as_json, "skip", trial=trial)


def retry(search: Search, trial: Trial, home: HomeOption = None, storage: StorageOption = None, as_json: Json = False):
    """Try a trial again that failed or was skipped, from its last checkpoint.

    Example: tuner retry first 7
    """
    _ask(search, Home(home, storage), as_json, "retry", trial=trial)


def note(
    search: Search,
    trial: Trial,
    text: Annotated[Optional[str], typer.Argument(help="What to write, up to 2000 characters.")] = None,
    star: Annotated[
        Optional[bool], typer.Option("--star/--no-star", help="Mark it with your star, or take that away.")
    ] = None,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Write a note on a trial, or mark it with a star, also while the search runs; everybody who looks at it sees both.

    Example: tuner note first 7 "worst class is the rarest one" --star
    """
    _ask(search, Home(home, storage), as_json, "note", trial=trial, text=text or "", star=star)


def narrow(
    search: Search,
    space: Annotated[Path, option("--space", "FILE", "YAML file of ranges, as that of tuner search.")],
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Let new proposals of a search come from narrower ranges; what lies outside stays known to its model.

    Example: tuner narrow first --space narrower.yaml
    """
    from tuner.cli.search_options import read_mapping

    _ask(search, Home(home, storage), as_json, "narrow", space=read_mapping(space, "--space"))


def clone(
    search: Search,
    name: Annotated[str, option("--name", "NAME", "Name of the copy.")],
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Copy a search under another name, with its trials and checkpoints; from then on each goes its own way.

    Example: tuner clone first --name first-narrow
    """
    from tuner.results.cloning import clone as cloned

    run = cloned(search, name, Home(home, storage))
    if as_json:
        print_json({"search": run.name, "trials": len(run.history.trials), "folder": str(run.folder)})
        return
    to_stdout(f"{run.name} has the {len(run.history.trials)} trials of {search}")


def _ask(search: str, home: Home, as_json: bool, kind: str, **about: Any) -> None:
    from tuner.results.searches import load_search
    from tuner.results.steering import ask

    run = load_search(home, search)
    show_answer(run, ask(run, kind, **about), as_json)


def show_answer(run, answer, as_json: bool) -> dict[str, Any]:
    """Print what became of a request; returns what --json prints."""
    words, then = said(run, answer)
    told = {"search": run.name, "done": bool(answer), "words": words, "then": then}
    print_json(told) if as_json else to_stdout("; ".join(filter(None, (words, then))))
    return told


def said(run, answer) -> tuple[str, str]:
    """What became of a request, and what the user does next."""
    from tuner.results.searches import load_search, shown_state
    from tuner.sync.named_places import resume_command

    running = shown_state(run) == "running"
    go_on = resume_command(run.spec, run.home, run.name)
    if answer:
        left = shown_state(load_search(run.home, run.name)) == "stopped"
        words, then = answer.words, f"go on with: {go_on}" if left else ""
    else:
        words = "asked for"
        then = (
            "the search's driver takes it up within seconds" if running else f"taken up where it runs, or by: {go_on}"
        )
    return words, then


def register(app: typer.Typer) -> None:
    for command in (add, narrow, skip, retry, note, clone):
        app.command(rich_help_panel=SEARCHING)(command)
