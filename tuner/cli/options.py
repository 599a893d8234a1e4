"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]
HomeOption = Annotated[Optional[Path], typer.Option("--home", help="Home folder [TUNER_HOME, else tuner-home].")]
Pairs = Optional[list[str]]


def _option(help_: str, *names: str):
    return typer.Option(*names, help=help_, show_default=False)


PICKS = "knee, worst, average or a trial on the front"
Search = Annotated[str, typer.Argument(help="Name of a search; see `tuner ls`.")]
StorageOption = Annotated[
    Optional[str],
    typer.Option(
        "--storage",
        show_default=False,
        help=(
            "Folder that nodes share, or s3://, gs://...: data, trunks, checkpoints and results lie there "
            "[TUNER_STORAGE, else the home]."
        ),
    ),
]
DatasetAgain = Annotated[
    Optional[str],
    typer.Option(
        "--dataset",
        show_default=False,
        help=(
            "The search's dataset, said again where it is a URL: a search that somebody sent must not choose whom "
            "this machine asks."
        ),
    ),
]


Address = Annotated[
    Optional[str],
    typer.Option(
        "--address", show_default=False, help="The cluster's dashboard, http://HEAD:8265 [RAY_API_SERVER_ADDRESS]."
    ),
]
JobId = Annotated[str, typer.Argument(help="A job's id; see `tuner jobs`.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Show its progress and end with its exit code.")]
ClusterHome = Annotated[
    Optional[str],
    typer.Option(
        "--home",
        show_default=False,
        help="Home folder on the cluster, one that every node sees [TUNER_HOME there, else ~/tuner-home].",
    ),
]
Env = Annotated[
    Optional[list[str]],
    typer.Option(
        "--env",
        show_default=False,
        help="NAME of a variable the job needs: its value comes from the cluster's own environment, "
        "so no secret travels. NAME=VALUE for what everyone may read. Repeatable.",
    ),
]
Package = Annotated[
    str, typer.Option(help="send: our code travels with the job (under 1 MB); image: the cluster has it.")
]
