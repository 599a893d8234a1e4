"""`tuner verify`: the front, the default setting and plain AT on the same test images, which no search sees, under
stronger attacks.

Each result is a file of its own, ``verify/ATTACK/TRIAL.json`` (``TRIAL@0.75.json`` with offsets) beside the per-image
flags in a Parquet file of the same name, written when it is complete. A repeated command tests only what is missing.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.config import TrialConfig
from trainables.offsets import Offsets
from trainables.threats import THREATS
from tuner.errors import Failed, UsageError
from tuner.execution.ray_instance import connect
from tuner.execution.resources import task_options, threads_per_process
from tuner.execution.trial_config import trial_config
from tuner.files import DISTRIBUTION, write_atomically
from tuner.home import Home
from tuner.results.pareto import row_label
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search
from tuner.results.trial_record import TrialRecord
from tuner.spec.plug_ins import require_same
from tuner.spec.search_spec import SearchSpec, prior_note
from tuner.sync.mirror import push
from tuner.sync.named_places import check_named
from tuner.sync.shared_dataset import data_spec, dataset_of, keep_images
from tuner.verification.code import code_version
from tuner.verification.job import Job
from tuner.verification.rows import chosen
from tuner.verification.summary import TRACK, is_of, read_result

if TYPE_CHECKING:
    import pyarrow as pa

Say = Callable[[str], None]
MOST = 8  # points of the front that are tested where nothing else is asked for


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


def check_ball(attack: str, threat: str) -> None:
    """``UsageError`` unless an attack of `parse_attack` is made for the threat model of that name."""
    if attack == "autoattack" and THREATS.plug_in(threat):
        from trainables.threat_model import find_threat_model

        if not find_threat_model(threat).norm:
            raise UsageError(
                f"--attack 'autoattack' knows no balls of {threat}; take apgd or pgd:STEPSxRESTARTS such as pgd:100x10"
            )


def verify_search(
    name: str,
    home: Home | None = None,
    *,
    pick: str | None = None,
    most: int = MOST,
    attack: str = "apgd",
    seeds: int = 0,
    dataset: str | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Test the front of search ``name``, or one ``pick`` of it, on split test, and on the same images the paper's
    setting and plain AT; returns what `--json` prints.

    ``most``: without a ``pick``, so many points of the front are tested, spread along it; ``all`` tests all of them.
    ``seeds``: so many other seeds of each setting are trained and tested too. ``say`` is called with lines of progress.
    ``dataset`` must repeat the search's where that is a URL: a search folder from somebody else carries a spec that
    they wrote, which must not choose the hosts that this machine contacts.

    ``UsageError`` for wrong input, ``Failed`` for a checkpoint that is missing or damaged.
    """
    from tuner.verification.certificate import write_certificate
    from tuner.verification.report import write_report
    from tuner.verification.summary import summary

    home, attack = home or Home(), parse_attack(attack)
    for flag, value, least in (("--seeds", seeds, 0), ("--most", most, 1)):
        if value < least:
            raise UsageError(f"{flag} {value} is not allowed; it takes a whole number of at least {least}")
    run = load_search(home, name)
    run.home.require_writable(run.folder)  # before an attack of hours
    check_named(run.spec, home, name, "verify", dataset=dataset)
    require_same(run.spec.plug_ins)
    check_ball(attack, run.spec.threat_model.name)
    home.require_own_files(name)
    rows, left_out = chosen(run, pick, most)
    jobs = make_jobs(run, rows, attack, seeds)
    for method in dict.fromkeys(row["method"] for row in rows if row["offsets"]["tau"]):
        if note := prior_note(method):
            say(note)
    todo = _untested(jobs)
    _check_images(run, todo)
    if len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} of {len(jobs)} are done already")
    if todo:
        with _saying_how_to_go_on(run, say):
            run_jobs(todo, run.spec, attack, say)
    done = [(job, stored(job)) for job in jobs]
    result = summary(run, attack, done, left_out)
    write_certificate(run, attack, done)
    write_report(result, run)
    _to_mlflow(result, run, say)
    if run.spec.storage:
        push(run.spec.storage, home, name)
    return result


def _untested(jobs: list[Job]) -> list[Job]:
    """Those that have no result on the test images as they are here."""
    known = [stored(job) for job in jobs]
    data = test_data(jobs[0]) if any(known) else None
    return [job for job, result in zip(jobs, known) if not is_of(result, data)]


def _check_images(run: SearchRun, todo: Iterable[Job]) -> None:
    """``UsageError`` where models would be trained anew on other images than the search's."""
    from trainables.data import DataError, prepare
    from trainables.data.extra import extra_content

    if all(job.seed is None for job in todo):
        return
    images = data_spec(run.spec, dataset_of(run.spec, run.folder), run.folder)
    try:
        decoded = prepare(images.dataset, run.home.root, images.reading)
        keep_images(run.spec, run.folder, decoded, extra_content(images, run.home.root))
    except DataError as error:
        raise UsageError(str(error)) from None


@contextmanager
def _saying_how_to_go_on(run: SearchRun, say: Say) -> Iterator[None]:
    """After Ctrl-C, SIGTERM or SIGHUP."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"what was tested is kept; `tuner verify {run.name}{run.home.flag}` with the same options continues it")
        raise


def folder_of(attack: str) -> str:
    """``pgd-20x1``: the name of the folder for the results of an attack."""
    return attack.replace(":", "-")


def make_jobs(run: SearchRun, rows: Iterable[dict[str, Any]], attack: str, seeds: int) -> list[Job]:
    """For each of ``rows`` (`tuner.verification.rows`) a job for its model, and ``seeds`` jobs for its setting with
    other seeds.

    ``Failed`` for a checkpoint that is missing or damaged.
    """
    results = run.folder / "verify" / folder_of(attack)
    first = _first_unseen(run)
    jobs = []
    for row in rows:
        trial, label = row["trial"], row_label(row)
        record = run.history.record(trial)
        config = trial_config(run, record)
        check_checkpoint(config, record)
        what = {"offsets": Offsets.of(row.get("offsets")), "role": row["role"], "also": tuple(row["also"])}
        jobs.append(Job(trial, config, results / label, **what))
        for seed in range(first, first + seeds):
            folder = run.place("verify", "seeds", trial, seed)
            reseeded = dataclasses.replace(config, seed=seed, folder=folder)
            jobs.append(Job(trial, reseeded, results / f"{label}-seed{seed}", seed, **what))
    return jobs


def _first_unseen(run: SearchRun) -> int:
    """The first of the seeds that no trial and no replicate has: nothing was chosen by them, and all are paired by
    them."""
    own = {record.seed for record in run.history.everything()}
    return 1 + max(own | {run.spec.seed + max(run.spec.stems, run.spec.seeds) - 1})


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
    saved = (state["config"].get("trial"), state["config"].get("params"), state["epoch"])
    if saved != (record.trial, config.params, record.last.get("epoch")):
        raise Failed(f"checkpoint {path!r} is not the one that trial {record.trial} ended with")


def test_data(job: Job) -> str | None:
    """What the test images are here (`trainables.data.digest`); None where they cannot be opened, so that what is
    stored is still shown. What earlier versions stored of these images, beside the job's result, is told their tracks.
    """
    from trainables.data import DataError, digest, open_test
    from trainables.verification_run import tracks_said

    try:
        split = open_test(job.config.data_spec, Path(job.config.home))
        data, said = digest(split), tracks_said(split)
    except (DataError, OSError):
        return None
    for path in sorted(job.path.parents[1].glob("*/*.json")) if said else ():
        result = read_result(path, path.with_suffix(".parquet"))
        if result and result.get("data") == data:
            _tell_tracks(path, result, said)
    return data


def _tell_tracks(path: Path, result: dict[str, Any], said: dict[str, Any]) -> None:
    """``path``: of a stored ``result``; ``said``: as `trainables.verification_run.tracks_said`."""
    import pyarrow.parquet as pq

    if "tracks" not in said:
        if "hidden_tracks" not in result:
            write_atomically(path, json.dumps(result | said, indent=1))
        return
    table = pq.read_table(flags := path.with_suffix(".parquet"))
    if TRACK not in table.column_names and table.num_rows == len(said["tracks"]):
        _write_table(flags, table.append_column(TRACK, [said["tracks"]]))


def stored(job: Job) -> dict[str, Any] | None:
    """The job's stored result; None if there is none for the trial's present checkpoint, or it is damaged. One of
    version 0.1 is none: it lacks what differences between models are computed from."""
    from trainables.verification_run import fingerprint

    result = read_result(job.json, job.flags)
    if result is None or "failed" in result:
        return result
    fits = job.seed is not None or result["offsets"] == job.offsets.to_dict()
    return result if fits and result["checkpoint"] == fingerprint(job.config.folder) else None


def same_model(jobs: Iterable[Job]) -> list[list[Job]]:
    """The jobs by what one task does: a model that is trained anew is trained once, for all its offsets."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        key = job.path if job.seed is None else (job.trial, job.seed)
        groups.setdefault(key, []).append(job)
    return list(groups.values())


def verify_here(jobs: list[Job], attack: str, threads: int = 1) -> Iterator[dict[str, Any]]:
    """Runs on a worker, for jobs of the same model: yields the events of `trainables.verification_run.retest`."""
    from trainables.verification_run import retest

    offsets = [job.offsets for job in jobs]
    yield from retest(jobs[0].config, attack, offsets, retrain=jobs[0].seed is not None, threads=threads)


def run_jobs(jobs: list[Job], spec: SearchSpec, attack: str, say: Say) -> None:
    """Run one Ray task per model, as many at a time as fit; each result is written as soon as it is complete.

    ``Failed`` if a worker is lost or raises.
    """
    # Ray prints its nodes' complaints on stdout, where only results belong
    with redirect_stdout(sys.stderr), connect(spec) as ray:

        def start(group: list[Job]) -> Any:
            trains = group[0].seed is not None
            options = task_options(ray, spec, trains=trains)
            threads = threads_per_process(spec) if trains else int(spec.cpus_per_trial)
            return ray.remote(verify_here).options(num_returns="streaming", **options).remote(group, attack, threads)

        running = {start(group): group for group in same_model(jobs)}
        done = 0
        while running:
            (stream,), _ = ray.wait(list(running), num_returns=1)
            group = running[stream]
            try:
                event = ray.get(next(stream))
            except StopIteration:
                del running[stream]
                continue
            except ray.exceptions.RayError as error:
                raise Failed(f"{group[0].label}: {_one_line(error)}") from None
            done += keep(group, attack, event)
            job = group[event.get("at", 0)]
            say(f"{job.label}: {said(job, event)}" + (f"  ({done}/{len(jobs)} done)" if "stage" not in event else ""))


def keep(group: list[Job], attack: str, event: dict[str, Any]) -> int:
    """Write what an event of `verify_here` completes; returns the number of jobs that it does."""
    if "failed" in event:
        for job in group:
            store(job, attack, event)
        return len(group)
    if "result" in event:
        store(group[event["at"]], attack, event)
        return 1
    return 0


def _one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "cause", None) or error).split())[:500]


def said(job: Job, event: dict[str, Any]) -> str:
    """An event of `verify_here` for people."""
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

    result = {"trial": job.trial, "seed": job.config.seed, "attack": attack, "split": "test", "code": code_version()}
    names = ["index", "label", "clean", "robust", "broken_by"]
    if "failed" in event:
        table, result["failed"] = pa.table({n: [] for n in names}), event["failed"]
    else:
        measured = dict(event["result"])
        labels, broken_by, tracks = measured.pop("labels"), measured.pop("broken_by"), measured.pop("tracks", None)
        stages = [s["name"] for s in measured["stages"]]
        table = pa.table(
            {
                "index": range(len(labels)),
                "label": labels,
                "clean": broken_by != 0,
                "robust": broken_by < 0,
                "broken_by": [stages[b] if b >= 0 else "" for b in broken_by.tolist()],
                **({} if tracks is None else {TRACK: tracks}),
            }
        )
        result |= measured
    _write_table(job.flags, table)
    write_atomically(job.json, json.dumps(result, indent=1))


def _write_table(file: Path, table: pa.Table) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_atomically(file, sink.getvalue().to_pybytes())


def _to_mlflow(result: dict[str, Any], run: SearchRun, say: Say) -> None:
    """Log to MLflow on every call, so that a server that was down gets the result the next time.

    A failure is only reported: the results do not depend on MLflow.
    """
    from tuner.tracking.after_search import log_test

    try:
        log_test(result, run)
    except Failed as error:
        say(f"{error}; the results are kept, and `tuner verify {run.name}{run.home.flag}` tries again")
