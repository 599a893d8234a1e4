"""What the live page costs: how soon a result is on it, and what it takes from the driver of the search.

    .venv/bin/python -m benchmarks.live_page [--results 10000] [--new 20]        prints seconds

A made-up search of so many trials, a quarter of them in full and all judged over nine offsets, of ten classes. The
pages are served by a process of their own, as by `tuner ui`; this one appends results as a driver does and asks once a
second, as the page does.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from trainables.offsets import prior
from tuner.home import Home
from tuner.results.history import History
from tuner.results.running import Running
from tuner.spec.search_spec import SearchSpec

CLASSES, EPOCHS, TAUS = 10, 12, (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2)
COUNTS = [int(1000 * 0.1 ** (i / (CLASSES - 1))) for i in range(CLASSES)]
SERVE = (
    "import sys, time; from tuner.home import Home; from tuner.report.live.server import LiveServer\n"
    "with LiveServer(Home(sys.argv[1])) as server:\n    print(server.address, flush=True); sys.stdin.read()"
)


def metrics(epoch: int, mean: float, worst: float) -> dict[str, float]:
    each = {f"robust_acc/{c}": worst + (mean - worst) * c / (CLASSES - 1) * 2 for c in range(CLASSES)}
    means = {"robust_acc": mean, "natural_robust_acc": mean, "worst_class_robust_acc": worst, "clean_acc": 0.9}
    return {"epoch": epoch, **means, **{k: min(v, 1.0) for k, v in each.items()}, "train_loss": 1.5, "train_s": 0.4}


def curve(mean: float, worst: float) -> dict[str, Any]:
    points = []
    for tau in TAUS:
        rates = [min(1.0, worst + 0.05 * tau + (mean - worst - 0.06 * tau) * c / CLASSES * 2) for c in range(CLASSES)]
        offsets = prior(COUNTS, tau).to_dict() if tau else {"kind": "none", "tau": 0, "values": []}
        robust = [round(200 * max(rate, 0.0)) for rate in rates]
        points.append({"offsets": offsets, "count": [200] * CLASSES, "clean": [min(200, r + 30) for r in robust]})
        points[-1]["robust"] = robust
    return {"classes": [str(c) for c in range(CLASSES)], "train_counts": COUNTS, "points": points}


def events(spec: SearchSpec, trial: int, numbers: random.Random) -> list[dict[str, Any]]:
    """Those of a trial that was previewed, or trained in full."""
    space = spec.search_space()
    params = space.default() if trial <= 0 else {**space.default(), "strength": numbers.random(), "start": 0.5}
    mean, worst = numbers.uniform(0.3, 0.6), numbers.uniform(0.05, 0.3)
    about = {"trial": trial, "params": params, "method": spec.methods[0], "seed": 0}
    if trial >= 0 and trial % 4:
        found = {"metrics": metrics(10, mean, worst), "curve": curve(mean, worst), "epochs": 2}
        return [{"event": "start", **about, "preview": True}, {"event": "preview", "trial": trial, **found}]
    role = {"role": "no_search", "method": "at", "params": {}} if trial < 0 else {}
    trained = [{"event": "epoch", "trial": trial, "metrics": metrics(e + 1, mean, worst)} for e in range(EPOCHS)]
    ends = [{"event": "curve", "trial": trial, "curve": curve(mean, worst)}]
    ends.append({"event": "end", "trial": trial, "state": "finished", "reason": ""})
    return [{"event": "start", **about, **role}, *trained, *ends]


def write_history(folder: Path, spec: SearchSpec, results: int) -> None:
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(spec.to_yaml())
    numbers, now = random.Random(0), time.time() - 10 * results
    with open(folder / "history.jsonl", "w") as file:
        for trial in (0, -1, *range(1, results)):
            for event in events(spec, trial, numbers):
                now += 0.5
                file.write(json.dumps({**event, "time": now}) + "\n")


class Page:
    """Asks as the page's script does."""

    def __init__(self, address: str):
        self.address, self.version, self.picture = f"{address}api/search/s", "", -1
        self.took: list[float] = []

    def ask(self) -> dict[str, Any]:
        begin = time.perf_counter()
        with urllib.request.urlopen(
            f"{self.address}?seen={self.version}&picture={self.picture}", timeout=600
        ) as answer:
            said = json.load(answer)
        self.took.append(time.perf_counter() - begin)
        self.version, self.picture = said["version"], said["picture_of"]
        return said


def append(history: History, spec: SearchSpec, trial: int, numbers: random.Random) -> float:
    """CPU seconds that the driver needs to record a trial."""
    begin = time.process_time()
    for event in events(spec, trial, numbers):
        history.append(event.pop("event"), event.pop("trial"), **event)
    return time.process_time() - begin


def measure(home: Path, results: int, new: int) -> None:
    spec = SearchSpec(method="srat", trials=results + 4 * new, max_epochs=EPOCHS, name="s")
    folder, numbers = Home(home).search("s"), random.Random(1)
    write_history(folder, spec, results)
    history = History(folder)
    print(f"{results} trials, a history of {(folder / 'history.jsonl').stat().st_size / 2**20:.0f} MiB")
    alone = [append(history, spec, results + n, numbers) for n in range(new)]
    server = subprocess.Popen([sys.executable, "-c", SERVE, str(home)], stdin=-1, stdout=-1, text=True)
    try:
        page = Page(server.stdout.readline().strip())
        begin = time.perf_counter()
        page.ask()
        print(f"first answer after {time.perf_counter() - begin:.2f} s")
        while page.picture < 0:
            time.sleep(1)
            if problem := page.ask()["problem"]:
                raise SystemExit(problem)
        print(f"whole picture after {time.perf_counter() - begin:.2f} s")
        page.took.clear()
        shown, watched = [], []
        for trial in range(results + new, results + 2 * new):
            watched.append(append(history, spec, trial, numbers))
            reported = time.perf_counter()
            time.sleep(random.random())  # the page asks once a second, whenever a result comes
            while (said := page.ask()).get("latest", [{"trial": None}])[0]["trial"] != trial:
                time.sleep(1)
            assert trial in {point["trial"] for point in said["points"]}, "it is listed, but not drawn"
            shown.append(time.perf_counter() - reported)
    finally:
        server.stdin.close()
        server.wait(30)
    report(shown, page.took, alone, watched, folder)


def report(shown: list[float], took: list[float], alone: list[float], watched: list[float], folder: Path) -> None:
    print(f"a result is told to the page after {statistics.median(shown):.2f} s, {max(shown):.2f} s at most")
    print(f"an answer takes {statistics.median(took):.3f} s, {max(took):.3f} s at most")
    cost = [statistics.median(times) * 1000 for times in (alone, watched)]
    print(f"recording a trial takes the driver {cost[0]:.2f} ms of CPU unwatched, {cost[1]:.2f} ms watched")
    running = Running(folder)
    begin = time.process_time()
    for n in range(100):
        for trial in range(16):
            running.heard(trial, "node-1", n)
        running.write()
    each = (time.process_time() - begin) / 100
    print(f"saying once a second where 16 trials run takes it {1000 * each:.2f} ms of CPU: {each:.2%} of its time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, default=10_000)
    parser.add_argument("--new", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        measure(Path(home), args.results, args.new)


if __name__ == "__main__":
    main()
