"""Several hosts for real, as network namespaces: a worker is lost in the middle of a trial. The whole table (cut off,
head killed, two users, MLflow on PostgreSQL): python -m benchmarks.several_hosts."""

import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests import hosts as test_hosts
from tests.hosts_checks import Log, Trained
from tuner.results.trial_record import NO_SEARCH

WHY_NOT = test_hosts.why_not()
EPOCHS = 6


@pytest.mark.long
@pytest.mark.skipif(bool(WHY_NOT), reason=f"network namespaces cannot be made here: {WHY_NOT}")
@pytest.mark.timeout(900)
def test_a_lost_worker_costs_no_more_than_an_epoch_and_a_blind_one_is_refused(monkeypatch):
    monkeypatch.setattr(
        test_hosts,
        "NOTICE",
        {
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "4000",
            "RAY_health_check_failure_threshold": "2",
        },
    )
    with tempfile.TemporaryDirectory(prefix="tuner-n") as folder:  # short: Ray's sockets live below it
        with test_hosts.Hosts(Path(folder), workers=2) as hosts, Trained(hosts.home) as trained:
            process = hosts.popen(
                "submit",
                "--method",
                "srat",
                "--trials",
                2,
                "--max-epochs",
                EPOCHS,
                *("--set", "passes=3", "--set", "attack_steps=4", "--set", "eval_attack=4"),
                "--max-concurrent",
                1,
                "--scheduler",
                "none",
                "--name",
                "lost",
                "--address",
                hosts.address,
                "--follow",
                "--json",
            )
            log = Log(hosts.home, "lost")
            hosts.wait(
                lambda: log.running(2, EPOCHS - 2) and any(w.trains() for w in hosts.workers),
                150,
                "a trial in its middle",
            )
            worker, since = next(w for w in hosts.workers if w.trains()), time.time()
            worker.kill()
            out, err = process.communicate(timeout=300)
            # it comes back without the folder that all share
            worker.command = [
                "unshare",
                "-m",
                "sh",
                "-c",
                'mount -t tmpfs none "$0" && exec "$@"',
                hosts.home,
                *worker.command,
            ]
            hosts.up()
            blind = hosts.tuner(
                "submit",
                "--method",
                "srat",
                "--trials",
                2,
                "--max-epochs",
                EPOCHS,
                "--name",
                "blind",
                "--max-concurrent",
                2,
                "--address",
                hosts.address,
                "--follow",
                "--json",
            )
            left = Log(hosts.home, "blind").events("epoch", "error", "end")
        assert process.returncode == 0, err
        assert blind.returncode == 2 and "1 of 3 nodes" in blind.stderr, blind.stderr
        assert blind.stderr.count("is not the same folder on every node") == 1, blind.stderr
        assert [e for e in left if e["event"] != "epoch"] == [], "it was the storage's fault, not the trials'"
        result = json.loads(out)
        assert result["state"] == "finished" and result["trials"] == {
            "finished": 2,
            "previewed": 0,
            "stopped": 0,
            "failed": 0,
        }
        lost = log.events("lost")
        assert len(lost) == 1 and lost[0]["reason"] == f"its node {worker.address} was lost", lost
        name = "no search" if lost[0]["trial"] == NO_SEARCH else f"trial {lost[0]['trial']}"
        assert f"{name} was interrupted after epoch" in err
        assert log.recovery(since)["running_s"] < 60
        reported = Counter((e["trial"], e["metrics"]["epoch"]) for e in log.events("epoch"))
        reported += Counter((e["trial"], m["epoch"]) for e in log.events("fork") for m in e["epochs"])  # the stem's
        assert reported == {(t, e): 1 for t in (NO_SEARCH, 0, 1) for e in range(1, EPOCHS + 1)}
        assert max(trained.repeated("lost").values(), default=0) <= 1
        client = MlflowClient(result["mlflow"]["tracking_uri"])
        runs = client.search_runs(
            [e.experiment_id for e in client.search_experiments()], "tags.`tuner.search` = 'lost'"
        )
        assert len(runs) == 1 + 3 and {r.info.status for r in runs} == {"FINISHED"}
    assert test_hosts.ip("netns").stdout.count(hosts.tag) == 0, "a namespace is left behind"
