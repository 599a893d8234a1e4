"""Several people on one cluster: quotas of owners and priorities, shares, and nobody stops what is another's."""

import json

import pytest

from tests.conftest import tuner_here
from tuner import home
from tuner.errors import ClusterError, UsageError
from tuner.execution import driver
from tuner.execution.resources import at_a_time, quota_of
from tuner.remote import dashboard, submission
from tuner.remote.dashboard import Dashboard, job_row
from tuner.remote.shares import shares
from tuner.spec.search_spec import SearchSpec

CLUSTER = {"CPU": 64.0, "GPU": 8.0, "owner:ada": 6.0, "owner_gpus:ada": 2.0, "owner:others": 1.0, "priority:low": 4.0}


@pytest.mark.parametrize(
    "asked, taken, most",
    [
        ({"owner": "ada"}, {"owner:ada": 1.0}, 6),
        ({"owner": "ada", "gpus_per_trial": 0.25}, {"owner:ada": 1.0, "owner_gpus:ada": 0.25}, 6),
        ({"owner": "ada", "gpus_per_trial": 1.0}, {"owner:ada": 1.0, "owner_gpus:ada": 1.0}, 2),
        ({"owner": "ada", "priority": "low"}, {"owner:ada": 1.0, "priority:low": 1.0}, 4),
        ({"owner": "bob", "gpus_per_trial": 1.0}, {"owner:others": 1.0}, 1),
        ({"owner": "bob", "priority": "high"}, {"owner:others": 1.0}, 1),
    ],
)
def test_a_trial_takes_of_the_quotas(asked, taken, most):
    quota = quota_of(SearchSpec(**asked), CLUSTER)
    assert quota == taken and at_a_time(quota, CLUSTER) == most


def test_a_cluster_without_quotas_sets_no_limit():
    assert quota_of(SearchSpec(owner="ada"), {"CPU": 4.0, "owner:bob": 2.0}) == {}
    assert at_a_time({}, {"CPU": 4.0}) is None


def test_a_quota_that_no_trial_fits_into_is_said():
    with pytest.raises(UsageError, match="takes 4 of owner_gpus:ada, and the cluster has 2"):
        quota_of(SearchSpec(owner="ada", gpus_per_trial=4.0), CLUSTER)


def test_a_driver_starts_no_more_than_its_quota(monkeypatch):
    said = []
    for concurrent, most in ((None, 4), (2, 2), (9, 4)):
        spec = SearchSpec(owner="ada", priority="low", max_concurrent=concurrent)
        assert driver._quota(spec, CLUSTER, said.append) == ({"owner:ada": 1.0, "priority:low": 1.0}, most)
    assert said[0] == "quota: a trial takes 1 of the 6 of owner:ada, 1 of the 4 of priority:low"
    assert driver._quota(SearchSpec(), {"CPU": 4.0}, said.append) == ({}, None) and len(said) == 3


@pytest.mark.parametrize(
    "user, owner", [("ada", "ada"), ("CORP\\ada b", "CORP-ada-b"), ("-", "unknown"), ("é", "unknown")]
)
def test_the_owner_is_the_user(user, owner, monkeypatch):
    monkeypatch.setattr(home, "user_name", lambda: user)
    assert SearchSpec().owned_by == owner and SearchSpec(owner=owner).owned_by == owner
    assert SearchSpec(owner="bob").owned_by == "bob"


# ---- jobs ------------------------------------------------------------------------------------------------------------


def job(name, owner=None, state="RUNNING", driver="", **about):
    said = {"tuner.search": name, **({"tuner.owner": owner, "tuner.priority": "normal"} if owner else {})}
    more = {"status": state, "start_time": 1_764_000_000_000, "job_id": driver or None}
    return {"submission_id": f"{name}-1", "metadata": said, **more, **about}


def group(driver, state, *bundles):
    rows = [{"unit_resources": bundle, "node_id": "x"} for bundle in bundles]
    return {"placement_group_id": "p", "creator_job_id": driver, "state": state, "bundles": rows}


class Answers(Dashboard):
    """A cluster that answers from a dictionary; what is not in it fails."""

    def __init__(self, **answers):
        self.address, self.headers, self.asked = "http://head:8265", {}, []
        self.answers = {"jobs/": [], "v0/nodes": listed(), "v0/placement_groups": listed(), **answers}

    def _answer(self, method, path):
        self.asked.append(f"{method} {path}")
        name = path.removeprefix("/api/").partition("?")[0]
        if name not in self.answers:
            raise ClusterError("it answers 404")
        return self.answers[name]


def listed(*rows):
    return {"data": {"result": {"result": list(rows)}}}


def node(**resources):
    return {"state": "ALIVE", "resources_total": resources}


ADA = group("01", "CREATED", {"CPU": 2.0, "GPU": 0.5}, {"owner:ada": 1.0})
RUNNING = {
    "jobs/": [job("a", "ada", driver="01"), job("b", "bob", driver="02"), job("c"), job("d", "ada", "SUCCEEDED", "03")],
    "v0/nodes": listed(node(CPU=6.0, GPU=2.0), node(CPU=2.0, **{"owner:ada": 4.0, "priority:low": 2.0})),
    "v0/placement_groups": listed(
        ADA,
        ADA,
        group("01", "PENDING", {"CPU": 2.0}),
        group("02", "CREATED", {"CPU": 1.0}),
        group("03", "CREATED", {"CPU": 8.0}),
    ),
}


def test_jobs_show_owner_share_and_quota():
    found = shares(Answers(**RUNNING))
    a, b, c, d = found.jobs
    assert (a["owner"], a["priority"], a["running"], a["waiting"], a["share"]) == ("ada", "normal", 2, 1, 0.5)
    assert (b["owner"], b["running"], b["share"]) == ("bob", 1, 0.125), "of eight CPUs"
    assert (c["owner"], c["share"]) == (None, 0.0), "sent by an earlier version"
    assert (d["state"], d["share"]) == ("finished", 0.0), "what it had is about to go"
    assert found.quotas == {"owner:ada": (2.0, 4.0), "priority:low": (0.0, 2.0)}


@pytest.mark.parametrize("strange", [{}, {"data": 3}, listed({"state": "CREATED"}), listed({**ADA, "bundles": [{}]})])
def test_jobs_are_listed_where_shares_are_not_known(strange):
    found = shares(Answers(**{**RUNNING, "v0/placement_groups": strange}))
    assert [row["search"] for row in found.jobs] == ["a", "b", "c", "d"]
    assert found.jobs[0]["share"] is None and found.quotas == {}


@pytest.fixture
def cluster(monkeypatch):
    made = Answers(**RUNNING)
    for row in RUNNING["jobs/"]:
        made.answers[f"jobs/{row['submission_id']}"] = row
        made.answers[f"jobs/{row['submission_id']}/stop"] = {"stopped": True}
    monkeypatch.setattr(dashboard, "Dashboard", lambda address: made)
    monkeypatch.setattr(submission, "owner_name", lambda: "ada")
    return made


def test_jobs_in_the_terminal(cluster):
    out = tuner_here("jobs", "--address", "http://head:8265").stdout
    assert "a-1  running   ada  normal  started" in out and "2 running, 1 waiting, 50% of the cluster" in out
    assert "quota owner:ada: 2 of 4 in use" in out and "c-1  running   -    -" in out
    rows = json.loads(tuner_here("jobs", "--address", "http://head:8265", "--json").stdout)
    assert rows[0]["owner"] == "ada" and rows[0]["share"] == 0.5 and rows[0].keys() >= {"id", "search", "state"}


def test_nobody_stops_anothers_job_by_accident(cluster):
    done = tuner_here("stop", "b-1", "--address", "http://head:8265")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "job 'b-1' is bob's, not ada's" in done.stderr and "tuner stop b-1 --owner bob" in done.stderr
    assert not [path for path in cluster.asked if path.startswith("POST")]
    done = tuner_here("stop", "b-1", "--owner", "eve", "--address", "http://head:8265")
    assert done.returncode == 2 and not [path for path in cluster.asked if path.startswith("POST")]


@pytest.mark.slow
@pytest.mark.parametrize("name, owner", [("a-1", None), ("b-1", "bob"), ("c-1", None)])
def test_ones_own_job_is_stopped(cluster, name, owner):
    """And one that does not say whose it is."""
    post = f"POST /api/jobs/{name}/stop"

    def stopped(method, path):
        if post in cluster.asked:
            cluster.answers[f"jobs/{name}"] = {**cluster.answers[f"jobs/{name}"], "status": "STOPPED"}
        return Answers._answer(cluster, method, path)

    cluster._answer = stopped
    row, was_running = submission.stop(cluster, name, owner=owner)
    assert was_running and row["state"] == "stopped" and post in cluster.asked


def test_an_ended_job_is_anybodys_to_look_at(cluster):
    cluster.answers["jobs/b-1"] = job("b", "bob", "SUCCEEDED")
    assert submission.stop(cluster, "b-1")[1] is False


def test_a_jobs_metadata_is_text():
    for said in ({"tuner.owner": 3}, {"tuner.priority": ["x"]}):
        with pytest.raises(ValueError, match="is no text"):
            job_row({"status": "RUNNING", "submission_id": "a", "metadata": {"tuner.search": "s", **said}})


def test_a_job_says_whose_it_is(monkeypatch, tmp_path):
    """The owner goes along: on the cluster the user is another."""
    sent = []
    monkeypatch.setattr(submission, "check_fits", lambda *args: None)
    monkeypatch.setattr(submission, "check_versions", lambda *args: None)
    monkeypatch.setattr(submission, "owner_name", lambda: "eve")
    monkeypatch.setattr(submission, "_send", lambda cluster, *args: sent.append(args) or "id")
    monkeypatch.setattr(submission, "pack", lambda folder, job, spec, package: sent.append(spec))
    cluster = Answers()
    cluster.may_grow = lambda: False
    submission.submit_search(cluster, SearchSpec(owner="ada", priority="high", name="x"), None, [], "send")
    assert "owner: ada" in sent[0] and sent[1][1] == {
        "tuner.search": "x",
        "tuner.owner": "ada",
        "tuner.priority": "high",
    }
    submission.submit(cluster, {"command": "resume", "search": "x"})
    assert sent[3][1] == {"tuner.search": "x", "tuner.owner": "eve"}
