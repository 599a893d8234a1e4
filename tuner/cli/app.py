"""The command line: thin commands over the Python API. Results on stdout, progress on stderr.

Nothing heavy (torch, ray, mlflow) is imported before a command needs it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, Optional

import typer
from typer.main import get_command

from trainables.files import is_full
from trainables.reading import Damaged
from trainables.urls import masked
from tuner.cli import cleaning, cluster, results, sharing, steering
from tuner.cli.options import (
    HELP,
    RESULTS,
    SEARCHING,
    BudgetNow,
    DatasetAgain,
    Env,
    HomeOption,
    Json,
    Method,
    Package,
    Search,
    SeedsNow,
    StorageOption,
    StudyStorageAgain,
    TimeBudgetNow,
    UntilFlatNow,
    option,
)
from tuner.cli.search_options import takes_spec
from tuner.cli.steering import show_answer
from tuner.errors import Failed, UsageError
from tuner.escape import print_json, to_stderr, to_stdout
from tuner.home import Home

# Who else hears what a search or a resume of this process comes to, as --json prints it: a result or an error.
HEARERS: list[Callable[[dict[str, Any]], None]] = []

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find how much to reweight adversarial training: the Pareto front of average against "
    "worst-class robust accuracy.",
)


def _print_versions(asked: bool) -> None:
    if not asked:
        return
    from tuner.cli.versions import versions

    to_stdout("\n".join(f"{name:6} {number}" for name, number in versions().items()))
    raise typer.Exit()


@app.callback()
def tuner(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_versions,
            help="Print the versions of this program and of the libraries it stands on.",
        ),
    ] = False,
):
    pass


@app.command(rich_help_panel=SEARCHING)
@takes_spec
def search(spec, home: HomeOption = None, as_json: Json = False):
    """Search a method's reweighting values; prints the front of average against worst-class robust accuracy.

    Example: tuner search --method srat --dataset digits --trials 16
    """
    from tuner.execution.driver import search as run

    where = Home(home)
    _run(lambda: run(spec, where), spec, where, as_json)


@app.command(rich_help_panel=SEARCHING)
def resume(
    search: Search,
    address: Annotated[
        Optional[str],
        option("--address", "URL", "Resume on the Ray cluster of this address, as a job of `tuner submit`."),
    ] = None,
    follow: Annotated[
        bool, option("--follow", "", "With --address: show the progress of the job and end with its exit code.")
    ] = False,
    trials: Annotated[
        Optional[int],
        option("--trials", "N", "Extend the search, finished or not, to so many trials.", default="as many as it has"),
    ] = None,
    time_budget: TimeBudgetNow = None,
    budget: BudgetNow = None,
    until_flat: UntilFlatNow = None,
    seeds: SeedsNow = None,
    dataset: DatasetAgain = None,
    study_storage: StudyStorageAgain = None,
    env: Env = None,
    package: Package = "send",
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Resume a search that was stopped or killed, or extend a finished one; no finished trial is trained again.

    Example: tuner resume first --trials 64
    """
    asked = {"time_budget": time_budget, "budget": budget, "until_flat": until_flat, "seeds": seeds}
    changes = {name: value for name, value in asked.items() if value is not None}
    if address:
        said = {"storage": storage, "dataset": dataset, "study_storage": study_storage}
        more = {**changes, **({} if trials is None else {"trials": trials})}
        cluster.resume(address, search, home, said, more, env or [], package, follow, as_json)
        return
    if env or package != "send":
        raise UsageError("--env and --package are for a job on a Ray cluster; name that with --address")
    from tuner.execution.driver import resume as go_on
    from tuner.results.searches import load_search, shown_state
    from tuner.results.steering import ask
    from tuner.sync.mirror import running_from
    from tuner.sync.named_places import check_named

    where = Home(home, storage)
    run = load_search(where, search)
    check_named(run.spec, where, search, "resume", dataset=dataset, study_storage=study_storage)
    extends, place = trials is not None and not changes, run.spec.storage
    if extends and (shown_state(run) == "running" or place and running_from(place, where, search)):
        _tell(show_answer(run, ask(run, "extend", trials=trials), as_json))
        return
    _run(lambda: go_on(search, where, trials=trials, **changes), run.spec, where, as_json)


def _run(go: Callable[[], dict[str, Any]], spec, home: Home, as_json: bool) -> None:
    from tuner.errors import Interrupted, Stopped
    from tuner.report.console import show_result

    def show(result: dict[str, Any]) -> None:
        show_result(result, spec, home, as_json)
        _tell(result)

    try:
        result = go()
    except Interrupted as stop:
        show(stop.result)
        raise
    except Stopped as stop:
        show({**stop.result, "error": str(stop)})
        to_stderr(f"Error: {stop}")
        raise typer.Exit(1) from None
    show(result)
    if result["state"] == "failed":
        raise typer.Exit(1)


def _tell(said: dict[str, Any]) -> None:
    for hear in HEARERS:
        hear(said)


steering.register(app)
results.register(app)


@app.command(rich_help_panel=RESULTS)
def ls(home: HomeOption = None, storage: StorageOption = None, as_json: Json = False):
    """List the searches in the home folder, and in the storage if one is named."""
    from tuner.report.console import show_searches

    show_searches(Home(home, storage), as_json)


@app.command(rich_help_panel=RESULTS)
def sync(search: Search, home: HomeOption = None, storage: StorageOption = None):
    """Fill MLflow from a search's own history, for example after its server was away."""
    from tuner.execution.driver import fill_mlflow

    if not fill_mlflow(search, Home(home, storage), to_stderr):
        raise typer.Exit(1)


@app.command(rich_help_panel=RESULTS)
def ui(
    home: HomeOption = None,
    port: Annotated[Optional[int], option("--port", "N", "MLflow's port on loopback.", default="a free one")] = None,
    live_port: Annotated[
        Optional[int], option("--live-port", "N", "Port of the live pages on loopback.", default="a free one")
    ] = None,
    search_name: Annotated[Optional[str], option("--search", "NAME", "Name of the search to link to.")] = None,
    storage: StorageOption = None,
):
    """Serve live pages of this home's searches, and MLflow, on loopback; prints their addresses, and Ctrl-C ends it.

    Example: tuner ui --search first
    """
    from tuner.tracking.ui import serve

    serve(Home(home, storage), port, search_name, live_port)


sharing.register(app)
cleaning.register(app)
cluster.register(app)


@app.command(rich_help_panel=HELP)
def methods(as_json: Json = False):
    """List the methods that can be searched, with their hyperparameters."""
    from tuner.report.console import show_methods

    show_methods(as_json)


@app.command(rich_help_panel=HELP)
def space(method: Method, as_json: Json = False):
    """List a method's hyperparameters: default, range, meaning and condition."""
    from tuner.report.console import show_space

    show_space(method, as_json)


@app.command(rich_help_panel=HELP)
def schema():
    """Print the JSON schema of a spec file, for editors and programs that check or complete it.

    Example: tuner schema > spec.schema.json
    """
    from tuner.spec.schema import spec_schema

    print_json(spec_schema())


@app.command(rich_help_panel=HELP)
def notify(as_json: Json = False):
    """Send a test message to every place that TUNER_NOTIFY names, where searches send theirs.

    Example: TUNER_NOTIFY=mailto://smtp.example.org?to=me@example.org tuner notify
    """
    from tuner.report.notifications import notify as send

    sent = send()
    print_json(sent) if as_json else to_stdout("\n".join(f"{row['place']} took the message" for row in sent))


@cache
def whole_command() -> Any:
    """typer makes every command and its options anew at each call; this process needs them once."""
    return get_command(app)


def main() -> None:
    """The `tuner` script: every error is one sentence with the right exit code."""
    from tuner.execution.stopping import leave, like_ctrl_c

    code = 0
    try:
        with like_ctrl_c():
            code = whole_command()(prog_name="tuner", standalone_mode=False) or 0
    except UsageError as error:
        code = _complain(str(error), 2)
    except (Failed, Damaged) as error:
        code = _complain(str(error), 1)
    except (typer.Abort, KeyboardInterrupt) as error:
        ended = isinstance(error.__cause__, EOFError)  # of a file: nobody has interrupted anything
        code = _failure(error.__cause__) if ended else _complain("interrupted", 130)
    except typer.Exit as stop:
        code = stop.exit_code
    except Exception as error:
        code = _failure(error)
    with suppress(OSError):  # said already, by what has printed
        sys.stdout.flush()
    leave(code)


def _with_advice(error: Any) -> str:
    """What typer says; of a word that no option takes, what was probably meant."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    if "unexpected extra argument" in message and context and context.info_name in ("search", "submit"):
        return f"{message}; a method is named by --method, such as --method srat"
    return message


def _failure(error: Exception) -> int:
    if hasattr(error, "format_message"):  # typer's own: a wrong flag or type (newer typers carry their own click)
        if type(error).__name__ == "NoArgsIsHelpError":
            to_stdout(error.format_message())
            return 0
        return _complain(_with_advice(error), getattr(error, "exit_code", 2))
    if type(error).__name__ == "Interrupted":
        return 130
    if os.environ.get("TUNER_DEBUG"):
        raise error
    if is_full(error):
        return _complain(
            f"{error.filename or 'stdout or a file'} cannot be written ({error.strerror}); make room there", 1
        )
    return _complain(f"{type(error).__name__}: {error}", 1)


def _complain(sentence: str, code: int) -> int:
    sentence = masked(sentence)
    if "--json" in sys.argv:
        with suppress(OSError):  # stdout may be what is full
            to_stdout(json.dumps({"error": sentence}))
    to_stderr(f"Error: {sentence}")
    _tell({"error": sentence})
    return code
