"""`tuner verify`: evaluate the front's models on the test images, which no search sees, under stronger attacks.

Each result is a file of its own, ``verify/ATTACK/TRIAL.json`` beside the per-image flags in ``TRIAL.parquet``, written
when it is complete. A repeated command tests only what is missing.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.config import TrialConfig
from tuner.errors import Failed, UsageError
from tuner.execution.ray_instance import connect
from tuner.execution.resources import task_options
from tuner.execution.trial_config import trial_config
from tuner.files import DISTRIBUTION, write_atomically
from tuner.home import Home
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search
from tuner.results.trial_record import TrialRecord
from tuner.spec.search_spec import SearchSpec
from tuner.sync.mirror import push
from tuner.sync.named_places import check_named

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One model to test: the search's own trial or, where ``seed`` is given, the same setting trained anew with it."""

    trial: int
    config: TrialConfig
    path: Path  # of the result, without suffix
    seed: int | None = None

    @property
    def label(self) -> str:
        return f"trial {self.trial}" + ("" if self.seed is None else f" seed {self.seed}")


def parse_attack(text: str) -> str:
    """Return ``text`` if it is an attack: apgd, autoattack or pgd:STEPSxRESTARTS; else ``UsageError``."""
    if text == "autoattack":
        from importlib.util import find_spec

        if not find_spec("pyautoattack"):
            raise UsageError(
                f"--attack 'autoattack' needs the package pyautoattack; pip install '{DISTRIBUTION}[verify]'"
            )
    elif text != "apgd" and not re.fullmatch(r"pgd:[1-9]\d{0,4}x[1-9]\d{0,3}", text):
        raise UsageError(
            f"--attack {text!r} is not allowed; it takes apgd, autoattack or pgd:STEPSxRESTARTS such as pgd:100x10"
        )
    return text


def verify_search(
    name: str,
    home: Home | None = None,
    *,
    pick: str | None = None,
    attack: str = "apgd",
    seeds: int = 0,
    dataset: str | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Test the front of search ``name``, or one ``pick`` of it, on split test; returns what `--json` prints.

    ``seeds``: so many other seeds of each setting are trained and tested too. ``say`` is called with lines of progress.
    ``dataset`` must repeat the search's where that is a URL: a search folder from somebody else carries a spec that
    they wrote, which must not choose the hosts that this machine contacts.

    ``UsageError`` for wrong input, ``Failed`` for a checkpoint that is missing or damaged.
    """
    from tuner.verification.report import write_report
    from tuner.verification.summary import summary

    home, attack = home or Home(), parse_attack(attack)
    if seeds < 0:
        raise UsageError(f"--seeds {seeds} is not allowed; it takes a whole number of at least 0")
    run = load_search(home, name)
    check_named(run.spec, home, name, "verify", dataset=dataset)
    jobs = make_jobs(run, [row["trial"] for row in picked_rows(run, pick)], attack, seeds)
    todo = [job for job in jobs if stored(job) is None]
    if len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} of {len(jobs)} are done already")
    if todo:
        run_jobs(todo, run.spec, attack, say)
    result = summary(run, attack, [(job, stored(job)) for job in jobs])
    write_report(result, run)
    _to_mlflow(result, run, say)
    if run.spec.storage:
        push(run.spec.storage, home, name)
    return result


def picked_rows(run: SearchRun, pick: str | None) -> list[dict]:
    """The rows of the front, or only the one that ``pick`` names: a trial, knee, worst or average.

    ``UsageError`` where the front is empty or there is no such member.
    """
    front, name = run.front(), run.name
    if not front.rows:
        raise UsageError(f"search {name!r} has no finished full-budget trial yet; tuner resume {name} goes on with it")
    try:
        return list(front.rows) if pick is None else [front.pick(pick)]
    except ValueError as error:
        raise UsageError(f"--pick: {error}") from None


def folder_of(attack: str) -> str:
    """``pgd-20x1``: the name of the folder for the results of an attack."""
    return attack.replace(":", "-")


def make_jobs(run: SearchRun, trials: Iterable[int], attack: str, seeds: int) -> list[Job]:
    """For each of ``trials`` a job for its model, and ``seeds`` jobs for its setting with other seeds.

    ``Failed`` for a checkpoint that is missing or damaged.
    """
    results, own_seed = run.folder / "verify" / folder_of(attack), run.spec.seed
    jobs = []
    for trial in trials:
        record = run.history.trials[trial]
        config = trial_config(run, record)
        check_checkpoint(config, record)
        jobs.append(Job(trial, config, results / str(trial)))
        for seed in range(own_seed + 1, own_seed + 1 + seeds):
            folder = run.place("verify", "seeds", trial, seed)
            reseeded = dataclasses.replace(config, seed=seed, folder=folder)
            jobs.append(Job(trial, reseeded, results / f"{trial}-seed{seed}", seed))
    return jobs


def check_checkpoint(config: TrialConfig, record: TrialRecord) -> None:
    """``Failed`` unless the trial's checkpoint is complete and belongs to the trial's last epoch in the history."""
    from trainables.checkpoint import NAME, DamagedCheckpoint, read_checkpoint
    from trainables.storage import below, explain

    path = below(config.folder, NAME)
    try:
        state = read_checkpoint(config.folder)
    except DamagedCheckpoint as error:
        raise Failed(str(error)) from None
    except OSError as error:
        raise Failed(explain(config.folder, error)) from None
    if state is None:
        raise Failed(f"checkpoint {path!r} is missing")
    saved = (state["config"]["trial"], state["config"]["params"], state["epoch"])
    if saved != (record.trial, config.params, record.last.get("epoch")):
        raise Failed(f"checkpoint {path!r} is not the one that trial {record.trial} ended with")


def stored(job: Job) -> dict[str, Any] | None:
    """The job's stored result; None if there is none for the trial's present checkpoint."""
    from trainables.verification_run import fingerprint

    path = job.path.with_suffix(".json")
    if not path.exists() or not job.path.with_suffix(".parquet").exists():
        return None
    result = json.loads(path.read_text())
    if "failed" in result:
        return result
    return result if result["checkpoint"] == fingerprint(job.config.folder) else None


def _remote(job: Job, attack: str, threads: int) -> Iterator[dict[str, Any]]:
    """Runs on a worker: yields events of progress, then {"result": ...} or {"failed": reason}."""
    from trainables.verification_run import retest

    yield from retest(job.config, attack, retrain=job.seed is not None, threads=threads)


def run_jobs(jobs: list[Job], spec: SearchSpec, attack: str, say: Say) -> None:
    """Run one Ray task per job, as many at a time as fit; each result is written as soon as it is complete.

    ``Failed`` if a worker is lost or raises.
    """
    with connect(spec) as ray:
        task = ray.remote(_remote).options(num_returns="streaming", **task_options(ray, spec))
        running = {task.remote(job, attack, int(spec.cpus_per_trial)): job for job in jobs}
        done = 0
        while running:
            (stream,), _ = ray.wait(list(running), num_returns=1)
            try:
                event = ray.get(next(stream))
            except StopIteration:
                del running[stream]
                continue
            except ray.exceptions.RayError as error:
                raise Failed(f"{running[stream].label}: {_one_line(error)}") from None
            job = running[stream]
            if "result" in event or "failed" in event:
                done += 1
                store(job, attack, event)
            say(
                f"{job.label}: {_event_text(job, event)}"
                + (f"  ({done}/{len(jobs)} done)" if "stage" not in event else "")
            )


def _one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "cause", None) or error).split())[:500]


def _event_text(job: Job, event: dict[str, Any]) -> str:
    if "stage" in event:
        s = event["stage"]
        outcome = "classified wrong" if s["name"] == "clean" else "broken"
        return f"{s['name']}: {s['broken']} of {s['tried']} images {outcome} in {s['seconds']:.1f} s"
    if "epoch" in event:
        return f"trained epoch {event['epoch']} of {job.config.max_epochs}"
    return f"failed: {event['failed']}" if "failed" in event else f"tested in {event['result']['seconds']:.1f} s"


def store(job: Job, attack: str, event: dict[str, Any]) -> None:
    """Write the last event of a job as its result. The JSON file comes last: it says that both files are complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    result = {"trial": job.trial, "seed": job.config.seed, "attack": attack, "split": "test"}
    names = ["index", "label", "clean", "robust", "broken_by"]
    if "failed" in event:
        table, result["failed"] = pa.table({n: [] for n in names}), event["failed"]
    else:
        measured = dict(event["result"])
        labels, broken_by = measured.pop("labels"), measured.pop("broken_by")
        stages = [s["name"] for s in measured["stages"]]
        table = pa.table(
            {
                "index": range(len(labels)),
                "label": labels,
                "clean": broken_by != 0,
                "robust": broken_by < 0,
                "broken_by": [stages[b] if b >= 0 else "" for b in broken_by.tolist()],
            }
        )
        result |= measured
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_atomically(job.path.with_suffix(".parquet"), sink.getvalue().to_pybytes())
    write_atomically(job.path.with_suffix(".json"), json.dumps(result, indent=1))


def _to_mlflow(result: dict[str, Any], run: SearchRun, say: Say) -> None:
    """Log to MLflow on every call, so that a server that was down gets the result the next time.

    A failure is only reported: the results do not depend on MLflow.
    """
    from tuner.tracking.after_search import log_test

    try:
        log_test(result, run)
    except Failed as error:
        say(f"{error}; the results are kept, and `tuner verify {run.name}` tries again")
