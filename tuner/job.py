"""What runs on the cluster when `tuner submit` has sent a job: `python -m tuner.job` in the folder that came with it.

Checks first what the submitter could not see (variables, this environment, a home that every node sees), then runs the
same command a person would type, and prints the result once more as one line of JSON for whoever follows.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from pathlib import Path

from tuner.home import Home

NEEDED = ("torch", "torchvision", "ray", "optuna", "mlflow", "pyarrow", "typer")


def home_of(job: dict) -> Home:
    root = Path(job.get("home") or os.environ.get("TUNER_HOME") or "~/tuner-home").expanduser()
    return Home(root, job.get("storage"))


def problem(job: dict) -> str | None:
    """What is wrong with this environment, in one sentence."""
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
            "on the head "
            "node to the python of an environment that has them"
        )
    theirs = {"ray": _version("ray"), "python": platform.python_version()}
    for what, here in theirs.items():
        asked = job["versions"][what]
        if asked.split(".")[:2] != here.split(".")[:2]:
            return (
                f"the job was sent by {what} {asked} and the cluster's {sys.executable} has {here}; make them the same"
            )
    return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    job = json.loads(Path("job.json").read_text())
    wrong = problem(job)
    if wrong:
        print(f"Error: {wrong}", file=sys.stderr)
        raise SystemExit(2)
    if job["command"] == "doctor":
        from tuner.remote.doctor import on_cluster

        _emit(on_cluster(home_of(job)))
        return
    _search(job, home_of(job))


def _search(job: dict, home: Home) -> None:
    import tempfile

    from tuner import cli
    from tuner.results.summary import saved_result

    # Ray may unpack this folder anew under our feet (two nodes on one machine): stand somewhere else.
    spec = Path(tempfile.mkdtemp(prefix="tuner-job-")) / "spec.yaml"
    spec.write_text(Path("spec.yaml").read_text())
    os.chdir(spec.parent)
    what = ["search", "--spec", str(spec)] if job["command"] == "search" else ["resume", job["search"]]
    again = ("storage", "dataset", "study_storage") if job["command"] == "resume" else ("storage",)
    named = [part for key in again if job.get(key) for part in (f"--{key.replace('_', '-')}", job[key])]
    sys.argv = ["tuner", *what, "--home", str(home.root), *named]
    try:
        cli.main()
    finally:
        result = saved_result(home.search(job["search"]))
        if result:
            _emit(result)
        shutil.rmtree(spec.parent, ignore_errors=True)


def _emit(value) -> None:
    from tuner.remote.submission import RESULT

    sys.stdout.flush()
    print(RESULT + json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
