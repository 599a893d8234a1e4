"""`tuner verify` killed outright and started again: what was done stays, and the end is that of an undisturbed one."""

import json
import re
import shutil
import signal
import subprocess

import pyarrow.parquet as pq
import pytest

from tests.browser import free_port
from tests.conftest import tuner, tuner_process
from tests.test_verify import copied
from tests.verifying import without_ray
from tuner.home import Home
from tuner.verification.verify import verify_search

ARGS = ["verify", "first", "--pick", "knee", "--attack", "pgd:2x1", "--seeds", 1]
OWN = ("seconds", "flags", "search", "checkpoint")  # of a run, not of a result (a checkpoint knows its own folder)


def untested(home, folder):
    """A copy of the finished search without what other tests have verified of it."""
    copy = copied(home, folder)
    for path in [*(copy / "searches" / "first").glob("verif*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return copy


@pytest.fixture(scope="module")
def undisturbed(finished, tmp_path_factory):
    """`verified.parquet` of the same verification, never stopped and without Ray."""
    home = Home(untested(finished[1], tmp_path_factory.mktemp("undisturbed")))

    with without_ray():
        verify_search("first", home, pick="knee", attack="pgd:2x1", seeds=1)
    return pq.read_table(home.search("first") / "verified.parquet")


@pytest.mark.long
def test_killed_and_started_again(finished, undisturbed, tmp_path):
    """MLflow is away all the time: the results do not depend on it."""
    home, away = untested(finished[1], tmp_path), {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
    folder = home / "searches" / "first"
    process = tuner_process(*ARGS, "--home", home, env=away, stderr=subprocess.PIPE)
    said = next((found for line in process.stderr if (found := re.search(r"\(1/(\d+) done\)", line))), None)
    assert said, f"it ended by itself with {process.wait()}"
    models = int(said[1])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "verified.parquet").exists() and not (folder / "verified.html").exists()
    kept = sorted((folder / "verify" / "pgd-2x1").glob("*.json"))  # whole, flags and all; the others are not there
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in kept]
    assert 1 <= len(kept) < models
    assert all(pq.read_table(path.with_suffix(".parquet")).num_rows == 359 for path in kept)

    again = tuner(*ARGS, "--home", home, "--json", env=away)
    assert again.returncode == 0 and f"{len(kept)} of {models} are done already" in again.stderr
    left = models - len(kept)
    assert f"({left}/{left} done)" in again.stderr
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in kept] == before
    table = pq.read_table(folder / "verified.parquet")
    assert table.drop_columns([n for n in OWN if n in table.column_names]).equals(
        undisturbed.drop_columns([n for n in OWN if n in undisturbed.column_names])
    )
    rows = json.loads(again.stdout)["rows"]
    assert sorted(table["seed"].to_pylist()) == sorted([0, 1] * len(rows)) and "refuse" not in again.stderr
    assert len(rows) * 2 == models and {role for r in rows for role in (r["role"], *r["also"])} >= {"no_search"}
    for row in rows:
        assert row["seeds"]["robust_acc"]["values"] == [
            r["robust_acc"]
            for r in table.to_pylist()
            if r["retrained"] and (r["trial"], r["tau"]) == (row["trial"], row["offsets"]["tau"])
        ]
    assert not [p for p in folder.rglob(".*") if p.is_file() and p.name != ".lock"], "nothing half-written"
