"""Options that several commands share, and the panels of the help.

Help texts are whole sentences. They are Rich markup, in which a bracket begins a style: ``option`` escapes brackets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from tuner.results.trial_record import NO_SEARCH
from tuner.spec import known
from tuner.spec.fields import SearchFields
from tuner.spec.option import Option, options_of

# The panels of `tuner --help`.
SEARCHING = "Searching"
RESULTS = "Results"
CLUSTERS = "Clusters"
HELP = "Help"


def option(
    flags: str,
    takes: str,
    help_: str,
    *,
    default: str | None = None,
    panel: str | None = None,
    suggest: Callable[[], Iterable[str]] | None = None,
) -> Any:
    """An option of a command.

    ``flags``: one or more, with a space between. ``takes``: what stands for a value in the help; empty for a switch.
    ``default``: in words, what holds where it is left out. ``suggest``: the values that a shell completes.
    """
    text = f"{help_} [default: {default}]" if default else help_
    return typer.Option(
        *flags.split(),
        metavar=takes,
        help=text.replace("[", "\\["),
        show_default=False,
        rich_help_panel=panel,
        autocompletion=_completion(suggest) if suggest else None,
    )


def _completion(suggest: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name.removesuffix("DIR") for name in suggest() if name.startswith(incomplete)]

    return complete


def option_of(asked: Option, panel: str | None, default: str | None = None) -> Any:
    """The option of a field of a search. ``default``: in words, where it is another than the field's."""
    kind, default = asked.kind, default or asked.default_shown
    return option(
        f"--{asked.flag}", kind.metavar, asked.sentence, default=default, panel=panel, suggest=kind.suggestions
    )


PICKS = "knee, worst, average, or a trial on the front, with offsets TRIAL@TAU"
Search = Annotated[str, typer.Argument(help="Name of a search; `tuner ls` lists them.")]
Method = Annotated[
    str, typer.Argument(help="Name of a method; `tuner methods` lists them.", autocompletion=_completion(known.methods))
]
Json = Annotated[bool, option("--json", "", "Print JSON alone on stdout.")]
HomeOption = Annotated[Optional[Path], option("--home", "DIR", "Home folder.", default="TUNER_HOME, else tuner-home")]
StorageOption = Annotated[Optional[str], option_of(options_of(SearchFields)["storage"], panel=None)]
TimeBudgetNow, BudgetNow, UntilFlatNow, SeedsNow = (
    Annotated[Optional[asked.kind.argument], option_of(asked, panel=None, default="as before")]
    for asked in map(options_of(SearchFields).get, ("time_budget", "budget", "until_flat", "seeds"))
)
DatasetAgain = Annotated[
    Optional[str],
    option(
        "--dataset",
        "TEXT",
        "The search's dataset, named again where it is a URL: a search that somebody sent must not choose whom this "
        "machine asks.",
    ),
]
StudyStorageAgain = Annotated[
    Optional[str], option("--study-storage", "TEXT", "The search's study database, named again where it is a server.")
]

Address = Annotated[
    Optional[str],
    option(
        "--address", "URL", "Address of the cluster's dashboard, http://HEAD:8265.", default="RAY_API_SERVER_ADDRESS"
    ),
]


def trial_number(text: str) -> int:
    """The number of the trial that a user names; plain AT, the reference, has one that shells take for an option."""
    if text == "no_search":
        return NO_SEARCH
    if not re.fullmatch(r"-?\d+", text):
        raise typer.BadParameter(f"{text!r} is no number of a trial")
    return int(text)


def trial_argument(help_: str) -> Any:
    return typer.Argument(help=help_, metavar="TRIAL", parser=trial_number)


JobId = Annotated[str, typer.Argument(help="Id of a job; `tuner jobs` lists them.")]
Follow = Annotated[bool, option("--follow -f", "", "Show the progress of the job and end with its exit code.")]
ClusterHome = Annotated[
    Optional[str],
    option(
        "--home",
        "DIR",
        "Home folder on the cluster, which every node must see.",
        default="TUNER_HOME there, else ~/tuner-home; with --slurm TUNER_HOME, else tuner-home",
    ),
]
DoctorHome = Annotated[
    Optional[str],
    option(
        "--home",
        "DIR",
        "Home folder; where a cluster is checked, the one there.",
        default="TUNER_HOME, else tuner-home; on a cluster TUNER_HOME there, else ~/tuner-home",
    ),
]
Env = Annotated[
    Optional[list[str]],
    option(
        "--env",
        "NAME",
        "NAME of a variable that the job needs: its value comes from the cluster's own environment, so that no secret "
        "travels. NAME=VALUE is for what everyone may read. Repeat the option for several.",
    ),
]
Package = Annotated[
    str,
    option(
        "--package",
        "NAME",
        "send lets our code travel with the job (under 1 MB); image says that the cluster has it.",
        default="send",
        suggest=lambda: ("send", "image"),
    ),
]
Slurm = Annotated[
    Optional[str],
    option(
        "--slurm",
        "OPTIONS",
        "Options of sbatch, such as '--nodes=2 --gpus-per-node=4': a batch script is written into the home folder, "
        "which all nodes must see, and queued.",
    ),
]
