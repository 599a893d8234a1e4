"""Who has what of a cluster: our jobs with their share of it, and the quotas of owners and priorities."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tuner.errors import ClusterError
from tuner.execution.resources import QUOTAS
from tuner.remote.dashboard import ENDED, Dashboard, Use

SHARED = ("CPU", "GPU")


@dataclass(frozen=True)
class Shares:
    """``jobs``: each with ``running``, ``waiting`` and ``share``, which are None where the cluster does not say them;
    ``quotas``: name -> (in use, all)."""

    jobs: list[dict[str, Any]]
    quotas: dict[str, tuple[float, float]]


def shares(cluster: Dashboard) -> Shares:
    """Our jobs, newest first. ``share`` is a job's dominant share (Ghodsi et al. 2011, NSDI): of its shares of the
    cluster's CPUs and GPUs the larger one."""
    jobs, uses, nodes = cluster.jobs(), [], []
    with suppress(ClusterError):  # the list is worth something without it
        uses, nodes = cluster.uses(), [node["resources_total"] for node in cluster.nodes()]
    have = {name: sum(node.get(name, 0.0) for node in nodes) for node in nodes for name in node}
    of_driver = {use.job: use for use in uses}
    rows = [{**job, **_share(job, of_driver.get(job["driver"]), have)} for job in jobs]
    quotas = {name: all_ for name, all_ in sorted(have.items()) if name.startswith(QUOTAS)}
    return Shares(rows, {name: (sum(use.taken.get(name, 0.0) for use in uses), n) for name, n in quotas.items()})


def _share(job: Mapping[str, Any], use: Use | None, have: Mapping[str, float]) -> dict[str, Any]:
    if not have:
        return dict.fromkeys(("running", "waiting", "share"))
    if use is None or job["state"] in ENDED:
        return {"running": 0, "waiting": 0, "share": 0.0}
    share = max((use.taken.get(name, 0.0) / have[name] for name in SHARED if have.get(name)), default=0.0)
    return {"running": use.running, "waiting": use.waiting, "share": share}
