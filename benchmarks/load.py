"""What a full home costs: `tuner ls` of many searches, opening a long history, readers beside a writer.

    .venv/bin/python -m benchmarks.load            prints seconds, of the wall clock and of the CPU
    .venv/bin/python -m benchmarks.load --users    instead: equal searches of three users on one Ray cluster, at once

Ten classes, trials of 12 epochs; made-up numbers. Nothing is trained but by the three users.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tuner.home import Home
from tuner.results.history import History
from tuner.results.listing import KEPT, keep_listed
from tuner.results.searches import load_search
from tuner.spec.search_spec import SearchSpec

EPOCHS, CLASSES = 12, 10
SEARCHES, RESULTS, READERS, USERS = 1000, 100_000, 50, 3


def metrics(epoch: int) -> dict[str, float]:
    rates = {f"{kind}_acc/{c}": 0.123456789012 + c / 100 for kind in ("robust", "clean") for c in range(CLASSES)}
    means = ("robust", "clean", "natural_robust", "worst_class_robust", "worst_class_clean", "tail_robust")
    more = {"robust_acc_gap": 0.1, "nsd": 0.2, "train_loss": 1.5, "weight_ess": 0.9, "train_s": 0.4, "eval_s": 0.1}
    return {"epoch": epoch, **rates, **{f"{name}_acc": 0.23456789012345 for name in means}, **more}


def write_history(folder: Path, results: int, trials: int | None = None) -> None:
    """``results`` epochs of trials that train `EPOCHS` each."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "history.jsonl", "w") as file:

        def write(event: str, trial: int, **fields: object) -> None:
            file.write(json.dumps({"event": event, "trial": trial, "time": 1e9, **fields}) + "\n")

        for trial in range(-(-results // EPOCHS)):
            write("start", trial, params={"beta": 6.0}, method="trades", seed=0)
            for epoch in range(1, min(EPOCHS, results - trial * EPOCHS) + 1):
                write("epoch", trial, metrics=metrics(epoch))
            write("end", trial, state="finished", reason="")


def clocked(what: str, do) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    do()
    print(f"{what:60} {time.perf_counter() - wall:6.2f} s, CPU {time.process_time() - cpu:6.2f} s", flush=True)


def tuner(home: Path, *args: str) -> float:
    """CPU seconds of a command in a process of its own."""
    code = "import resource, sys; from tuner.cli import main\ntry: main()\nexcept SystemExit: pass\n" + (
        "print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), file=sys.stderr)"
    )
    words = [sys.executable, "-c", code, *args, "--home", str(home)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stderr.split()[-1])


def listed(home: Home, what: str) -> None:
    begin = time.perf_counter()
    cpu = tuner(home.root, "ls", "--json")
    print(f"{what:60} {time.perf_counter() - begin:6.2f} s, CPU {cpu:6.2f} s")


def readers(home: Home, folder: Path) -> None:
    """`READERS` threads of this process open the search while it is written; every view of it is whole."""
    history, stop = History(folder), threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(len(History(folder).trials))

    threads = [threading.Thread(target=read) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    first = len(history.trials)
    for trial in range(first, first + 20):
        history.append("start", trial, params={"beta": 6.0}, method="trades")
        history.append("epoch", trial, metrics=metrics(1))
    stop.set()
    for thread in threads:
        thread.join()
    assert all(first <= n <= first + 20 for n in seen), "a reader saw less than was written before"


def users(root: Path) -> None:
    """`USERS` homes search the same on one cluster, with one worker each; all of them get the same front."""
    from tuner.execution.ray_instance import listens

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ray = Path(sys.executable).with_name("ray")
    start = [ray, "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", port, "--include-dashboard"]
    start += ["false", "--num-cpus", str(USERS), "--temp-dir", root / "r", "--disable-usage-stats"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    head = subprocess.Popen(start, **quiet, start_new_session=True)
    try:
        while not listens("127.0.0.1", int(port)):
            assert head.poll() is None, "the cluster does not start"
            time.sleep(0.2)
        time.sleep(10)  # its raylet joins
        words = "search --method srat --trials 5 --max-epochs 4 --max-concurrent 1 --name s --json".split()
        small = [part for name in ("passes", "attack_steps", "eval_attack") for part in ("--set", f"{name}=1")]
        begin = time.perf_counter()
        drivers = [
            subprocess.Popen(
                [sys.executable, "-m", "tuner.cli", *words, *small, "--home", str(root / f"home{user}")],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "RAY_ADDRESS": f"127.0.0.1:{port}", "OMP_NUM_THREADS": "1"},
            )
            for user in range(USERS)
        ]
        results = [json.loads(driver.communicate()[0]) for driver in drivers]
        assert [driver.returncode for driver in drivers] == [0] * USERS
        assert all(result["front"] == results[0]["front"] and result["state"] == "finished" for result in results)
        print(f"{f'{USERS} users, one cluster: all ended, with equal fronts':60} {time.perf_counter() - begin:6.2f} s")
    finally:
        head.terminate()
        head.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", action="store_true", help="searches of three users in place of all else")
    if parser.parse_args().users:
        with tempfile.TemporaryDirectory(prefix="u", dir="/tmp") as root:  # short: Ray's sockets lie below it
            users(Path(root))
        return
    with tempfile.TemporaryDirectory() as root:
        home = Home(Path(root) / "home")
        spec = SearchSpec(method="trades", trials=4, max_epochs=EPOCHS, scheduler="none")
        for number in range(SEARCHES):
            folder = home.search(f"s{number:04}")
            write_history(folder, 4 * EPOCHS)
            (folder / "spec.yaml").write_text(spec.to_yaml())
            keep_listed(load_search(home, folder.name))  # as its driver does at its end
        listed(home, f"tuner ls of {SEARCHES} searches of 48 results")
        listed(home, "the same again")
        (home.root / KEPT).unlink()
        listed(home, "of a home that was copied here")
        large = Path(root) / "large"
        write_history(large, RESULTS)
        clocked(f"a history of {RESULTS} results opened", lambda: History(large))
        few = Path(root) / "few"
        write_history(few, 100)
        clocked(f"20 trials written beside {READERS} readers", lambda: readers(home, few))


if __name__ == "__main__":
    main()
