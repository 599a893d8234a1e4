"""Client of a Ray cluster's dashboard: sign-in, versions, nodes, jobs. Plain HTTP, without importing ray.

The paths are those of Ray's documented job API. Packing and sending a job is in ``submission.py``.
"""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from trainables.reading import parse_json, shaped
from trainables.urls import REDIRECTS, check_public, open_url
from tuner.errors import ClusterError, UsageError
from tuner.execution.ray_token import local_token

T = TypeVar("T")

TIMEOUT_S = 12  # so that a cluster which is not there is said within 15 s
LARGEST = 2**28  # bytes of an answer, the longest of which is a job's log
STATES = {"PENDING": "pending", "RUNNING": "running", "SUCCEEDED": "finished", "STOPPED": "stopped", "FAILED": "failed"}
ENDED = ("finished", "stopped", "failed")
INTERRUPTED = 130
OUR_KEY = "tuner.search"  # the key of a job's metadata that marks it as ours; its value is the search's name
OWNER_KEY, PRIORITY_KEY = "tuner.owner", "tuner.priority"


def cluster_address(address: str | None) -> str:
    """``address``, else RAY_API_SERVER_ADDRESS, as http://HOST:PORT; ``UsageError`` if neither is such an address."""
    given = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not given:
        raise UsageError("no cluster named; give --address http://HEAD:8265 (the head node's dashboard)")
    given = given if "://" in given else f"http://{given}"
    try:
        check_public("--address", given, "Ray's token is taken from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray")
    except ValueError as error:
        raise UsageError(str(error)) from None
    try:
        url = urllib.parse.urlsplit(given)
        good = url.scheme in ("http", "https") and url.hostname and (url.port or True)
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"--address {given!r} is not allowed; give the head node's dashboard, http://HEAD:8265")
    return given.rstrip("/")


@dataclass(frozen=True)
class Use:
    """``job``: Ray's number of a driver; ``taken``: the resources that its trials have, under Ray's names; ``running``,
    ``waiting``: how many trials have theirs, or wait for them."""

    job: str
    taken: dict[str, float]
    running: int
    waiting: int


class Dashboard:
    """One cluster. The constructor asks it whether it needs a token.

    Every method that makes a request raises ``ClusterError`` if the cluster does not answer or refuses.
    """

    def __init__(self, address: str | None = None):
        self.address = cluster_address(address)
        self.headers: dict[str, str] = {}
        self._sign_in()

    def _sign_in(self) -> None:
        try:
            mode = self.get("/api/authentication_mode", lambda answer: answer["authentication_mode"])
        except ClusterError as error:
            if "answers 404" not in str(error):
                raise
            mode = "disabled"  # a Ray from before tokens
        if mode != "token":
            return
        token = local_token()
        if token is None:
            raise ClusterError(
                f"the cluster at {self.address} requires a token and none is here; copy the head node's "
                "(`ray get-auth-token` there prints it) into ~/.ray/auth_token or RAY_AUTH_TOKEN",
                2,
            )
        self.headers["Authorization"] = f"Bearer {token}"

    # ---- versions and nodes ----------------------------------------------------------------------------------

    def versions(self) -> dict[str, str]:
        """{"ray", "python"} of the head node."""
        return self.get("/api/v0/cluster_metadata", lambda answer: _versions(answer["data"]))

    def nodes(self) -> list[dict[str, Any]]:
        """The living nodes, as Ray describes them."""
        path = "/api/v0/nodes?detail=true&limit=10000"
        return self.get(path, lambda answer: _living(answer["data"]["result"]["result"]))

    def may_grow(self) -> bool:
        """Whether an autoscaler knows further node types, so that it may add resources that no node has now."""
        return self.get("/api/cluster_status", lambda answer: _may_grow(answer["data"] or {}))

    # ---- jobs ------------------------------------------------------------------------------------------------

    def jobs(self) -> list[dict[str, Any]]:
        """Our jobs, newest first."""
        rows = self.get(
            "/api/jobs/", lambda answer: [job_row(job) for job in answer if OUR_KEY in (job.get("metadata") or {})]
        )
        return sorted(rows, key=lambda row: row["started"] or 0, reverse=True)

    def uses(self) -> list[Use]:
        """What the drivers of the cluster have and wait for, one for each that has a placement group."""
        path = "/api/v0/placement_groups?detail=true&limit=10000"
        return self.get(path, lambda answer: _uses(answer["data"]["result"]["result"]))

    def job(self, job_id: str) -> dict[str, Any]:
        """The job's `job_row`; ``ClusterError`` with exit code 2 if there is no such job."""
        try:
            return self.get(f"/api/jobs/{urllib.parse.quote(job_id, safe='')}", job_row)
        except ClusterError as error:
            if "answers 404" in str(error):
                raise self._no_job(job_id) from None
            raise

    def logs(self, job_id: str) -> str:
        """All that the job has printed so far."""
        path = f"/api/jobs/{urllib.parse.quote(job_id, safe='')}/logs"
        return self.get(path, lambda answer: _text(answer.get("logs") or ""))

    def stop(self, job_id: str) -> bool:
        """Ask a job to stop; False if it has ended already."""
        path = f"/api/jobs/{urllib.parse.quote(job_id, safe='')}/stop"
        return self.request("POST", path, lambda answer: bool(answer["stopped"]))

    def _no_job(self, job_id: str) -> ClusterError:
        import difflib

        ids = [row["id"] for row in self.jobs()]
        near = difflib.get_close_matches(job_id, ids, n=3, cutoff=0.3) or ids[:3]
        hint = f"its newest are {', '.join(near)}" if near else "it has none of ours yet"
        return ClusterError(f"no job {job_id!r} on {self.address}; {hint} (`tuner jobs` lists them)", 2)

    # ---- requests --------------------------------------------------------------------------------------------

    def get(self, path: str, read: Callable[[Any], T]) -> T:
        """What ``read`` makes of the JSON that the path answers."""
        return self.request("GET", path, read)

    def request(self, method: str, path: str, read: Callable[[Any], T]) -> T:
        answer = self._answer(method, path)
        try:
            return read(answer)
        except Exception:  # whatever another server may answer
            raise ClusterError(self._strange()) from None

    def _answer(self, method: str, path: str) -> Any:
        request = urllib.request.Request(self.address + path, method=method, headers=self.headers)
        try:
            with open_url(request, TIMEOUT_S) as answer:
                return parse_json(answer.read(LARGEST))
        except urllib.error.HTTPError as error:
            raise ClusterError(self._refusal(error)) from None
        except (ValueError, http.client.HTTPException):
            raise ClusterError(self._strange()) from None
        except OSError as error:  # URLError, timeouts, connections that break
            reason = getattr(error, "reason", None) or error
            raise ClusterError(
                f"no Ray cluster answers at {self.address} ({getattr(reason, 'strerror', None) or reason}); is the "
                "head node up, its dashboard listening there, and the port open or forwarded?"
            ) from None

    def _strange(self) -> str:
        return f"{self.address} answers, but not as Ray's dashboard does; is that the right port?"

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        if error.code == 403 and "Authorization" in self.headers:
            return (
                f"the cluster at {self.address} refuses the token from here; compare with what `ray get-auth-token` "
                "prints on its head node (here it comes from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token)"
            )
        if error.code in REDIRECTS:
            return f"{self.address} {error.reason}; give that as --address if you trust it with the cluster's token"
        if error.code in (401, 403):
            return f"{self.address} wants a sign-in that is not Ray's token ({error.code}); is a proxy in front of it?"
        text = " ".join(error.read(400).decode(errors="replace").split())
        return f"{self.address} answers {error.code}" + (f": {text}" if text and error.code != 404 else "")


def _versions(data: dict[str, Any]) -> dict[str, str]:
    return {"ray": _text(data["rayVersion"]), "python": _text(data["pythonVersion"])}


def _living(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    living = [row for row in rows if row["state"] == "ALIVE"]
    if not all(shaped([*row["resources_total"].values()], [float]) for row in living):
        raise ValueError("resources that are no numbers")
    return living


def _uses(rows: list[dict[str, Any]]) -> list[Use]:
    jobs: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        jobs.setdefault(_text(row["creator_job_id"]), []).append(row)
    return [_use(job, groups) for job, groups in jobs.items()]


def _use(job: str, groups: list[dict[str, Any]]) -> Use:
    taken: dict[str, float] = {}
    running = [group for group in groups if group["state"] == "CREATED"]
    for bundle in (bundle for group in running for bundle in group["bundles"] or ()):
        if not shaped([*bundle["unit_resources"].values()], [float]):
            raise ValueError("resources that are no numbers")
        for name, amount in bundle["unit_resources"].items():
            taken[name] = taken.get(name, 0.0) + amount
    return Use(job, taken, len(running), sum(group["state"] in ("PENDING", "RESCHEDULING") for group in groups))


def _may_grow(data: dict[str, Any]) -> bool:
    report = (data.get("clusterStatus") or {}).get("autoscalerReport") or {}
    known = (report.get("nodeAvailabilitySummary") or {}).get("nodeAvailabilities")
    launched = [
        kind
        for kind in (report.get("activeNodes") or {})
        if not re.fullmatch(r"node_?[0-9a-f]{40,}", kind, re.IGNORECASE)
    ]
    return bool(known or launched or report.get("pendingLaunches") or report.get("pendingNodes"))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:80]!r} is no text")
    return value


def job_row(job: dict[str, Any]) -> dict[str, Any]:
    """What `tuner jobs --json` prints of a job; ``exit_code`` is None while it runs. Any exception where it is no job.
    ``owner`` and ``priority`` are None of jobs of earlier versions, ``driver`` (Ray's number of it) until it has begun.

    ``started`` and ``ended`` are in seconds since 1970. A job whose driver was interrupted counts as stopped.
    """
    state, code = _state(job)
    said = job.get("metadata") or {}
    return {
        "id": _text(job.get("submission_id") or job.get("job_id")),
        "search": _text(said.get(OUR_KEY) or ""),
        "owner": _text(said.get(OWNER_KEY) or "") or None,
        "priority": _text(said.get(PRIORITY_KEY) or "") or None,
        "driver": _text(job.get("job_id") or "") or None,
        "state": state,
        "exit_code": code,
        "started": _seconds(job.get("start_time")),
        "ended": _seconds(job.get("end_time")),
        "message": _text(job.get("message") or ""),
    }


def _state(job: dict[str, Any]) -> tuple[str, int | None]:
    """A job's state and exit code."""
    state = STATES.get(job["status"], job["status"].lower())
    code = job.get("driver_exit_code")
    if not isinstance(code, int | None):
        raise ValueError(f"exit code {str(code)[:80]!r}")
    if state == "stopped" or (state == "failed" and code == INTERRUPTED):
        return "stopped", INTERRUPTED
    if state in ENDED and code is None:
        return state, 0 if state == "finished" else 1
    return state, code


def _seconds(milliseconds: int | None) -> float | None:
    if milliseconds and not 0 < milliseconds < 2**47:  # some thousand years
        raise ValueError(f"time {milliseconds!r}")
    return milliseconds / 1000 if milliseconds else None
