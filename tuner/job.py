"""The entry point of a job that `tuner submit` has sent to a cluster: `python -m tuner.job` in the job's folder.

It checks what the submitter could not see (environment variables, installed packages and versions), then runs the same
command that a user would type there, and prints what that comes to as one line of JSON for `tuner submit --follow`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from trainables.reading import read_json
from tuner.errors import UsageError
from tuner.escape import finite, to_stderr, to_stdout
from tuner.home import Home

NEEDED = ("torch", "torchvision", "ray", "optuna", "mlflow", "pyarrow", "typer")


def home_of(job: dict[str, Any]) -> Home:
    """The home that the job names, else TUNER_HOME, else ~/tuner-home."""
    return Home(job.get("home") or os.environ.get("TUNER_HOME") or "~/tuner-home", job.get("storage"))


def problem(job: dict[str, Any]) -> str | None:
    """What is wrong with this environment, in one sentence; None if the job can run."""
    missing = [name for name in job["env"] if not os.environ.get(name)]
    if missing:
        return (
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set in the cluster's environment; set "
            "it where Ray starts on the head node (container secret, service file), a job never carries its value"
        )
    absent = [name for name in NEEDED if not _version(name)]
    if absent:
        return (
            f"{sys.executable} on the cluster lacks {', '.join(absent)}; use the project's image, or set TUNER_PYTHON "
            "on the head node to the python of an environment that has them"
        )
    installed = {"ray": _version("ray"), "python": platform.python_version()}
    for what, here in installed.items():
        sent_by = job["versions"][what]
        if sent_by.split(".")[:2] != here.split(".")[:2]:
            return (
                f"the job was sent by {what} {sent_by} and the cluster's {sys.executable} has {here}; make them the "
                "same"
            )
    return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Run ``job.json`` of the current folder. Exit code 2 if this environment cannot."""
    job = read_json("job.json")
    try:
        if sentence := problem(job):
            raise UsageError(sentence)
        home = home_of(job)
    except UsageError as error:
        to_stderr(f"Error: {error}")
        _emit({"error": str(error)})
        raise SystemExit(2) from None
    if job["command"] == "doctor":
        from tuner.remote.doctor import on_cluster

        _emit(on_cluster(home))
        return
    _search(job, home)


def _search(job: dict[str, Any], home: Home) -> None:
    """Run `tuner search` or `tuner resume` in this process, which prints its result or error for followers too."""
    import tempfile

    from tuner import cli
    from tuner.cli.app import HEARERS

    # Leave this folder: where two nodes run on one machine, Ray may unpack it again while we run.
    spec = Path(tempfile.mkdtemp(prefix="tuner-job-")) / "spec.yaml"
    spec.write_text(Path("spec.yaml").read_text())
    os.chdir(spec.parent)
    command = ["search", "--spec", str(spec)] if job["command"] == "search" else ["resume", job["search"]]
    repeated = ("storage", "dataset", "study_storage") if job["command"] == "resume" else ("storage",)
    places = [part for key in repeated if job.get(key) for part in (f"--{key.replace('_', '-')}", job[key])]
    changes = [
        part for key, value in job.get("changes", {}).items() for part in (f"--{key.replace('_', '-')}", str(value))
    ]
    sys.argv = ["tuner", *command, "--home", str(home.root), *places, *changes]
    HEARERS.append(_emit)  # not result.json at the end: that may be of an earlier run, where this one is refused
    try:
        cli.main()
    finally:
        shutil.rmtree(spec.parent, ignore_errors=True)


def _emit(value: Any) -> None:
    """Print the line that `tuner.remote.submission.follow` reads as the job's result."""
    from tuner.remote.submission import RESULT

    to_stdout(RESULT + json.dumps(finite(value)))


if __name__ == "__main__":
    main()
