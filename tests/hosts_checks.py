"""What is looked at after hosts have come and gone: the history, the trials' checkpoints, MLflow."""

import json
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import torch


class Log:
    """The history of one search, read while it runs."""

    def __init__(self, home: Path, name: str):
        self.folder = home / "searches" / name
        self.path = self.folder / "history.jsonl"

    def events(self, *kinds: str) -> list[dict]:
        found = []
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:  # being written
                continue
        return [e for e in found if not kinds or e["event"] in kinds]

    def epochs(self, trial: int) -> int:
        return max((e["metrics"]["epoch"] for e in self.events("epoch") if e["trial"] == trial), default=0)

    def running(self, least: int, most: int) -> list[int]:
        """Trials under way that have from ``least`` to ``most`` epochs."""
        ended = {e["trial"] for e in self.events("end")}
        return [t for t in {e["trial"] for e in self.events("start")} - ended if least <= self.epochs(t) <= most]

    def recovery(self, since: float) -> dict | None:
        """After a host was lost at ``since``: seconds until that was noticed and until a new epoch was there."""
        lost = next((e for e in self.events("lost") if e["time"] > since), None)
        if lost is None:
            return None
        trial = lost["trial"]
        new = next((e for e in self.events("epoch", "end") if e["trial"] == trial and e["time"] > lost["time"]), None)
        return new and {
            "trial": trial,
            "noticed_s": lost["time"] - since,
            "running_s": new["time"] - since,
            "reason": lost["reason"],
        }

    def ended(self) -> Counter:
        """State -> trials, without the reference."""
        return Counter({e["trial"]: e["state"] for e in self.events("end") if e["trial"] >= 0}.values())


class Trained:
    """Watches the checkpoints of searches: every one that is written is an epoch that somebody trained."""

    def __init__(self, home: Path):
        self.home, self.written, self._stop = home, [], threading.Event()
        self._seen: dict[Path, int] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Trained":
        self._thread.start()
        return self

    def __exit__(self, *exc) -> None:
        self._stop.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            for path in self.home.glob("searches/*/trials/*/checkpoint.pt"):
                try:
                    when = path.stat().st_mtime_ns
                    if self._seen.get(path) != when:
                        epoch = torch.load(path, map_location="cpu", weights_only=True)["metrics"]["epoch"]
                        self.written.append((path.parts[-4], int(path.parts[-2]), epoch))
                        self._seen[path] = when
                except (OSError, RuntimeError):
                    continue

    def repeated(self, name: str) -> dict[int, int]:
        """Trial -> finished epochs that were trained more than once."""
        counts = Counter((trial, epoch) for search, trial, epoch in self.written if search == name)
        again: Counter = Counter()
        for (trial, _), n in counts.items():
            again[trial] += n - 1
        return {trial: n for trial, n in again.items() if n}


def mlflow_runs(address: str, search: str) -> list[dict]:
    """All runs of a search: {"status", "kind", "steps"} (steps: the last epoch logged)."""
    runs, token = [], None
    found = _post(address, "experiments/search", {"max_results": 1000})["experiments"]
    while True:
        body = {
            "experiment_ids": [e["experiment_id"] for e in found],
            "max_results": 1000,
            "filter": f"tags.`tuner.search` = '{search}'",
        }
        page = _post(address, "runs/search", {**body, **({"page_token": token} if token else {})})
        for run in page.get("runs", []):
            tags = {t["key"]: t["value"] for t in run["data"].get("tags", [])}
            steps = [m["step"] for m in run["data"].get("metrics", []) if m["key"] == "robust_acc"]
            runs.append(
                {"status": run["info"]["status"], "kind": tags.get("tuner.kind"), "steps": int(max(steps, default=0))}
            )
        token = page.get("next_page_token")
        if not token:
            return runs


def _post(address: str, path: str, body: dict) -> dict:
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request, timeout=30))


def told_when(process, lines: list) -> threading.Thread:
    """Collects (time, line) of a followed search's stderr as it comes."""

    def read() -> None:
        for line in process.stderr:
            lines.append((time.time(), line.rstrip("\n")))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread
