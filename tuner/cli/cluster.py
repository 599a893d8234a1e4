"""The commands that talk to a Ray cluster: submit, jobs, logs, stop, doctor. Thin, like the rest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from tuner.cli.options import (
    CLUSTERS,
    Address,
    ClusterHome,
    DoctorHome,
    Env,
    Follow,
    HomeOption,
    JobId,
    Json,
    Package,
    Slurm,
    StorageOption,
    option,
    trial_argument,
)
from tuner.cli.search_options import takes_spec
from tuner.errors import UsageError
from tuner.escape import print_json, to_stderr, to_stdout
from tuner.home import Home


def register(app: typer.Typer) -> None:
    for command in (takes_spec(submit), jobs, logs, stop, doctor):
        app.command(rich_help_panel=CLUSTERS)(command)


def submit(
    spec,
    address: Address = None,
    follow: Follow = False,
    env: Env = None,
    package: Package = "send",
    slurm: Slurm = None,
    home: ClusterHome = None,
    as_json: Json = False,
):
    """Send a search to a Ray cluster, or with --slurm into SLURM's queue; prints the job's id and the search's name.

    Example: tuner submit --method srat --address http://HEAD:8265 --follow

    Example: tuner submit --method srat --slurm="--nodes=2 --gpus-per-node=4"

    A token, where the cluster wants one, is found as Ray does: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.
    """
    if slurm is not None:
        given = {"--address": address, "--follow": follow, "--env": env, "--package": package != "send"}
        _queue(spec, home, slurm, [flag for flag, value in given.items() if value], as_json)
        return
    from tuner.remote.dashboard import Dashboard
    from tuner.remote.submission import submit_search

    cluster = Dashboard(address)
    job_id = submit_search(cluster, spec, home, env or [], package)
    _sent(cluster, job_id, spec.search_name, follow, as_json)


def _queue(spec, home: str | None, options: str, others: list[str], as_json: bool) -> None:
    from tuner.remote.slurm import submit_slurm

    if others:
        raise UsageError(f"{', '.join(others)} is for a Ray cluster; with --slurm leave it out")
    found = submit_slurm(spec, Home(home), options)
    if as_json:
        print_json(found)
    else:
        to_stdout(f"job     {found['id']}\nsearch  {found['search']}\nscript  {found['script']}")


def resume(
    address: str,
    search: str,
    home: Path | None,
    said: dict[str, str | None],
    changes: dict[str, object],
    env: list[str],
    package: str,
    follow: bool,
    as_json: bool,
) -> None:
    """`tuner resume --address`: a new job that goes on with the search in the cluster's home or in a storage.

    ``said``: the places that were named again, which the job names in its turn. ``changes``: how the search goes on,
    by the names of its fields.
    """
    from tuner.remote.dashboard import Dashboard
    from tuner.remote.submission import resume_job, submit

    job = resume_job(search, None if home is None else str(home), said, changes)  # wrong input needs no cluster
    cluster = Dashboard(address)
    _sent(cluster, submit(cluster, job, env, package), search, follow, as_json)


def _sent(cluster, job_id: str, search: str, follow: bool, as_json: bool) -> None:
    if not follow:
        if as_json:
            print_json({"id": job_id, "search": search, "state": "pending"})
        else:
            to_stdout(f"job     {job_id}\nsearch  {search}\nwatch   tuner logs {job_id} -f --address {cluster.address}")
        return
    to_stderr(f"job {job_id}, search {search}")
    _follow(cluster, job_id, as_json)


def _follow(cluster, job_id: str, as_json: bool) -> None:
    from tuner.remote.submission import exit_code, follow

    try:
        row, result = follow(cluster, job_id)
    except KeyboardInterrupt:
        sentence = f"the job goes on; `tuner stop {job_id} --address {cluster.address}` ends it"
        if as_json:
            print_json({"error": sentence, "id": job_id, "state": "running"})
        to_stderr(f"\n{sentence}")
        raise typer.Exit(130) from None
    if as_json:  # the state is the search's, as of `tuner search`: a job finishes whose search a budget has stopped
        print_json({"state": row["state"], **_answer(result), "id": job_id})
    else:
        to_stdout(f"job {job_id} {row['state']}")
    raise typer.Exit(exit_code(row))


def _answer(result: dict[str, Any] | list[Any] | None) -> dict[str, Any]:
    """What a job's command would print with --json: a search's result, the checks of `tuner doctor`, or an error."""
    if isinstance(result, list):
        return {"checks": result}
    return result or {"error": "the job ended without a result"}


def jobs(address: Address = None, as_json: Json = False):
    """List the jobs that were sent to a cluster, newest first: whose they are, and what they have of it.

    Of a job's trials some run and some wait for their turn. Its share is that of the cluster's CPUs or GPUs, whichever
    is larger. Quotas, where the cluster has any, stand below.
    """
    from tuner.remote.dashboard import Dashboard
    from tuner.remote.shares import shares

    found = shares(Dashboard(address))
    if as_json:
        print_json([{k: v for k, v in row.items() if k not in ("message", "driver")} for row in found.jobs])
        return
    wide, owners = (max((len(row[key] or "-") for row in found.jobs), default=0) for key in ("id", "owner"))
    for row in found.jobs:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["started"])) if row["started"] else "not yet"
        whose = f"{row['owner'] or '-':{owners}}  {row['priority'] or '-':6}"
        to_stdout(f"{row['id']:{wide}}  {row['state']:8}  {whose}  started {began}  search {row['search']}{_has(row)}")
    for name, (used, all_) in found.quotas.items():
        to_stdout(f"quota {name}: {used:g} of {all_:g} in use")
    if not found.jobs:
        to_stdout("no jobs of ours on this cluster")


def _has(row: dict[str, Any]) -> str:
    if not (row["running"] or row["waiting"]):
        return ""
    return f"  {row['running']} running, {row['waiting']} waiting, {row['share']:.0%} of the cluster"


def logs(
    job: Annotated[str, typer.Argument(help="Id of a job; `tuner jobs` lists them. With TRIAL: name of a search.")],
    trial: Annotated[Optional[int], trial_argument("Number of a trial of the search, or no_search.")] = None,
    address: Address = None,
    follow: Follow = False,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Print what a job has printed, or what happened to a trial of a search.

    With -f it goes on until the job ends, and ends with its exit code. Of a trial: its epochs, interruptions, and
    errors with their whole text.

    Example: tuner logs first 3
    """
    if trial is not None:
        from tuner.report.trials import log_of
        from tuner.results.searches import load_search

        lines = list(log_of(load_search(Home(home, storage), job), trial))
        print_json({"search": job, "trial": trial, "lines": lines}) if as_json else to_stdout("\n".join(lines))
        return
    from tuner.remote.dashboard import Dashboard

    cluster = Dashboard(address)
    if follow:
        _follow(cluster, job, as_json)
        return
    from tuner.remote.submission import plain_log

    cluster.job(job)  # says it if there is none
    text = plain_log(cluster.logs(job))
    print_json({"id": job, "logs": text}) if as_json else to_stdout(text, end="")


def stop(
    job: JobId,
    owner: Annotated[
        Optional[str],
        option("--owner", "NAME", "Whose job it is, if it is somebody else's.", default="the user's name"),
    ] = None,
    address: Address = None,
    as_json: Json = False,
):
    """Stop a job in good order: finished trials are kept, and `tuner resume SEARCH --address ...` resumes it.

    Somebody else's job is stopped only where --owner says whose it is.
    """
    from tuner.remote.dashboard import Dashboard
    from tuner.remote.submission import go_on_command
    from tuner.remote.submission import stop as stop_job

    cluster = Dashboard(address)
    row, was_running = stop_job(cluster, job, owner=owner)
    if as_json:
        print_json({k: row[k] for k in ("id", "search", "state")})
    elif was_running:
        to_stdout(f"job {job} {row['state']}; go on with: {go_on_command(cluster, row)}")
    else:
        to_stdout(f"job {job} has ended already: {row['state']}")


def doctor(address: Address = None, home: DoctorHome = None, storage: StorageOption = None, as_json: Json = False):
    """Check this machine, and with --address a cluster: what works, and what to do about the rest."""
    from tuner.remote.doctor import examine

    rows = examine(address, home, storage)
    if as_json:
        print_json(rows)
    else:
        width = max(len(row["check"]) for row in rows)
        for row in rows:
            to_stdout(f"{'ok  ' if row['ok'] else 'FAIL'}  {row['check']:{width}}  {row['detail']}")
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)
