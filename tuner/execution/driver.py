"""Runs a search: proposes trials to Ray Tune, records what they report in the history, and notifies the listeners."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import replace
from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trainables.files import is_locked, locked
from trainables.reading import read_text
from trainables.storage import Storage
from tuner.errors import Failed, Interrupted, Stopped, UsageError
from tuner.escape import to_stderr
from tuner.execution.initial import prepare_init
from tuner.execution.ray_instance import check_head, connect, watch
from tuner.execution.ray_patches import quiet_tune, survive_memory_kills, without_snapshots
from tuner.execution.ray_session import abandon
from tuner.execution.ray_token import use_token
from tuner.execution.resources import at_a_time, quota_of, resolve_gpus_per_trial, threads_per_process, trial_resources
from tuner.execution.stopping import StopRequest, leave_behind, stoppable, training_time, unless_stuck
from tuner.execution.trial_config import first_trial, trial_config
from tuner.files import says_full, write_atomically
from tuner.home import Home
from tuner.optimizer.ask_tell import AskTell
from tuner.optimizer.quiet import quiet_optuna
from tuner.optimizer.warm_start import check_warm, warm_points, warm_trials
from tuner.report.files import write_pictures
from tuner.report.notifications import Notifications, places_to_notify
from tuner.report.pages import Pages
from tuner.report.progress import Progress
from tuner.results.best_epoch import parted_rows
from tuner.results.bill import trained
from tuner.results.history import History
from tuner.results.listener import Listener, Listeners, installed_listeners
from tuner.results.listing import keep_listed
from tuner.results.references import references
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search, stored_search
from tuner.results.steering import answered, ask, take_up
from tuner.results.summary import front_json, save_result, saved_result, state_of
from tuner.results.trial_record import TrialRecord
from tuner.spec.plug_ins import require_same
from tuner.spec.search_spec import SearchSpec
from tuner.sync.initial import init_of, init_text, keep_init
from tuner.sync.mirror import check_kept, mirrored, pull, push, running_from
from tuner.sync.named_places import resume_command, unasked_storage_note
from tuner.sync.shared_dataset import data_spec, dataset_of, keep_images, keep_place, share_dataset
from tuner.sync.storage_spec import check_storage, with_storage
from tuner.tracking.tracker import ASIDE, Tracker, sync

if TYPE_CHECKING:  # Ray is imported only when a search runs
    from ray import tune

    from trainables.data import Summary
    from tuner.execution.ray_callback import SearchCallback

Say = Callable[[str], None]


def check(spec: SearchSpec, home: Home) -> Summary:
    """What the search's data are. Before Ray starts: ``UsageError`` if anything is wrong with it (home, storage, data,
    model, warm start, places to notify), ``Failed`` if the head of its cluster does not answer."""
    from trainables.data import check as check_data
    from trainables.models.check import check_model
    from trainables.offsets import kind_for
    from trainables.threats import check_radius

    home.require_writable()
    check_kept(spec, home, spec.search_name)
    places_to_notify()
    require_same(spec.plug_ins)
    check_head()
    check_storage(spec)
    if spec.storage:  # another home may have begun it: what that did holds here too
        pull(spec.storage, home, spec.search_name)
    try:
        folder = home.search(spec.search_name)
        summary = check_data(data_spec(spec, dataset_of(spec, folder), folder), home.root)
        check_model(spec.model, summary.shape)
        check_radius(spec.threat_model, summary.shape)
        kind_for(spec.offsets, summary.counts["train"], summary.counts["val"])
    except ValueError as error:
        raise UsageError(str(error)) from None
    spec.goal.check_measured(summary.counts["train"])
    check_warm(spec, home)
    return summary


def search(spec: SearchSpec, home: Home | None = None, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """Run or resume the search that ``spec`` names and return its result, which is what `--json` prints.

    ``listeners`` are notified beside the terminal, the pages and MLflow. A finished search is not run again: its stored
    result is returned, unless users have asked for more since (`tuner.results.steering`). ``UsageError`` for wrong
    input, ``Interrupted`` after Ctrl-C, SIGTERM or SIGHUP, ``Stopped`` if a storage failed or Ray is gone, ``Failed``
    if the storage does not work at all.
    """
    home = home or Home()
    spec = with_storage(spec, home)
    home = Home(home.root, spec.storage)
    data, start = check(spec, home), prepare_init(spec, home)
    run = SearchRun(spec, home, spec.search_name, History(None))
    until = time.monotonic() + training_time(spec.seconds) if spec.seconds else None
    with stoppable(until, go_on=_go_on(run)) as stop, _locked(run), mirrored(spec, home, run.name):
        stop.orderly = False
        _store_spec(run)
        keep_place(spec, run.folder)
        if start:
            keep_init(run.folder, start)
        share_dataset(spec, home, run.folder)
        run = replace(run, history=History(run.folder))
        for answer in take_up(run.spec, run.history, run.folder):
            to_stderr(answered(answer))
        run = _as_changed(run)
        done = saved_result(run.folder)
        if done and done["state"] == state_of(run) != "stopped":
            _write(to_stderr, keep_listed, run)
            return done | front_json(run)  # the history is the truth
        keep_images(spec, run.folder, data.decoded, data.extra_content)
        if done:
            save_result(run.folder, None)  # if this run is killed, the old result must not be taken for its own
        return _run(run, data, listeners, stop)


def resume(
    name: str,
    home: Home | None = None,
    listeners: Sequence[Listener] = (),
    *,
    trials: int | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Go on with the search ``name`` of the home and return its result, as `search` does; no finished trial is trained
    again. ``trials``: how many it has from now on; more than before. ``changes``: other values of fields that change
    how a search runs but not its trials (``time_budget``, ``budget``, ``until_flat``, ``seeds``)."""
    home = home or Home()
    run = stored_search(home, name)
    changed = replace(run.spec, **changes)  # raises what is wrong with them, before the search is extended
    if is_locked(run.folder / ".lock"):
        raise UsageError(_running(run))
    if trials is not None and trials != run.history.in_force(run.spec).trials:
        if run.spec.storage and (elsewhere := running_from(run.spec.storage, home, name)):
            raise UsageError(elsewhere)
        ask(run, "extend", trials=trials)
    return search(changed, home, listeners)


def _as_changed(run: SearchRun) -> SearchRun:
    """The search as users have changed it meanwhile."""
    return replace(run, spec=run.history.in_force(run.spec))


def _go_on(run: SearchRun) -> str:
    return f"`{resume_command(run.spec, run.home, run.name)}` continues it"


def fill_mlflow(name: str, home: Home | None = None, say: Say = lambda text: None) -> bool:
    """``tuner sync``: fill MLflow from the history alone; False if MLflow did not take all of it.

    ``UsageError`` while the search is running, since its driver logs it then.
    """
    home = home or Home()
    run = load_search(home, name)
    home.require_writable(run.folder)
    with _locked(run):
        write_pictures(run)
        if run.spec.storage and not unasked_storage_note(run.spec, home, name):
            push(run.spec.storage, home, name, tests=False)
        return sync(run, warn=say, left=leave_behind)


@contextmanager
def _locked(run: SearchRun) -> Iterator[None]:
    """Allow one driver per search: ``UsageError`` while another holds the lock, which ends with its process."""
    run.folder.mkdir(parents=True, exist_ok=True)
    run.home.require_own_files(run.name)
    with ExitStack() as stack:
        try:
            mine = stack.enter_context(locked(run.folder / ".lock", patience=0.5))
        except OSError as error:
            raise UsageError(f"search {run.name!r} cannot be locked: {error.filename}: {error.strerror}") from None
        if not mine:
            raise UsageError(_running(run))
        yield


def _running(run: SearchRun) -> str:
    return f"search {run.name!r} is running already; wait for it, or give this one another --name"


def _store_spec(run: SearchRun) -> None:
    """Write the spec into the search's folder; ``UsageError`` if another spec has this name."""
    path = run.folder / "spec.yaml"
    if path.exists():
        new, stored = (s.changed().identity() for s in (run.spec, SearchSpec.from_stored(read_text(path))))
        if stored != new:
            differs = [k for k in new | stored if new.get(k) != stored.get(k)]
            more = differs == ["trials"] and new["trials"] > stored["trials"]
            command = resume_command(run.spec, run.home, run.name, f" --trials {new['trials']}")
            extend = f", or extend it: {command}" if more else ""
            raise UsageError(
                f"search {run.name!r} exists with another {', '.join(differs)}; choose another --name{extend}"
            )
    write_atomically(path, run.spec.to_stored())


def _run(run: SearchRun, data: Summary, listeners: Sequence[Listener], stop: StopRequest) -> dict[str, Any]:
    """Run the trials and return the result. However the search ends, the listeners are told of its end.

    ``Interrupted`` after a signal, ``Stopped`` if the storage failed or Ray is gone.
    """
    stop.orderly, spec, history, begin, to = True, run.spec, run.history, time.monotonic(), places_to_notify()
    trained_before = history.epochs_trained()
    with Progress(run) as progress:
        tracker = Tracker(run, warn=progress.say, close_s=lambda: stop.close_s, data=data)
        notifications = [Notifications(to, progress.say, lambda: stop.close_s)] if to else []
        own = [*listeners, *installed_listeners(progress.say)]
        listener = Listeners([progress, Pages(), *notifications, tracker, *own], progress.say)
        listener.search_started(run)
        progress.say(data.words)
        if start := init_of(spec, run.folder):
            progress.say(f"{init_text(start)} ({'; '.join(start['notes'])})" if start["notes"] else init_text(start))
        state = "failed"
        try:
            with redirect_stdout(sys.stderr):  # Ray prints its nodes' complaints on stdout, where only results belong
                ended_early = unless_stuck(lambda: _tune(run, data, listener, progress.say, stop), stop, progress.say)
                ended_early = ended_early or stop.reason
            run = _as_changed(run)
            state = state_of(run)  # by the trials: a stop after the last trial's end does not make it "stopped"
        finally:
            stop.phase = "the pictures and MLflow"
            _write(progress.say, history.write_parquet)
            if stop.reason in _WHY:
                listener.trouble(f"the search stopped because {_WHY[stop.reason]}")
            listener.search_ended(run, state)
            leave_behind([*tracker.threads, *(each.thread for each in notifications)])
    saved_by = history.epochs_saved(spec.max_epochs)  # in all: what a preview saved, its promotion takes back
    apart = parted_rows(run.front(), history.trials)
    result = {
        **front_json(run),
        **({"parted": apart} if apart else {}),
        **({"spent": spec.budget} if ended_early == "budget" else {}),
        "epochs_trained": history.epochs_trained() - trained_before,
        "epochs_saved": sum(saved_by.values()),
        "epochs_saved_by": saved_by,
        "bill": trained(spec, history).to_dict(),
        "wall_s": round(time.monotonic() - begin, 2),
        **listener.result(),
    }
    _write(to_stderr, save_result, run.folder, result)
    _write(to_stderr, keep_listed, run)
    _tidy(run)
    stop.phase = f"storage {spec.storage}" if spec.storage else ""
    if ended_early == "signal":
        raise Interrupted(result)
    if ended_early in _WHY:
        raise Stopped(f"search {run.name!r} stopped because {_WHY[ended_early]}; {_go_on(run)}", result)
    return result


_WHY = {
    "storage": "its storage failed",
    "nodes": "not all nodes can run its trials",
    "ray": "Ray is gone",
    "disk": "its home cannot be written, for example because the disk is full: make room",
}


def _tidy(run: SearchRun) -> None:
    """Remove what processes that were killed left: half-written files, and checkpoints of previews that have ended. No
    trial of this search writes any more; stems may be another search's, and `tuner verify` writes beside us."""
    here, shared = f"searches/{run.name}", Storage(run.home.place(run.spec.storage))
    with suppress(OSError):
        for file, _ in [*shared.files(f"{here}/previews", recursive=True)]:
            trial = file.partition("/")[0]
            if trial.isdigit() and int(trial) in run.history and run.history.record(int(trial)).preview:
                shared.remove(f"{here}/previews/{file}")
    shutil.rmtree(run.folder / ASIDE, ignore_errors=True)
    for folder in ("trials", "previews"):
        shared.remove_abandoned(f"{here}/{folder}", seconds=0.0)
    for place in (shared, Storage(run.home.root)):
        place.remove_abandoned(below=False)
        for folder in (here, "stems"):
            place.remove_abandoned(folder)


def _write(say: Say, write: Callable[..., Any], *args: Any) -> None:
    """Write what follows from the history; where that fails, it is only said: the result is still to be printed."""
    try:
        write(*args)
    except OSError as error:
        say(f"not written: {error}")


def _tune(run: SearchRun, data: Summary, listener: Listener, say: Say, stop: StopRequest) -> str | None:
    """Run the trials; return why the search ended early ("signal", "time budget", "budget", "storage"), or None.

    ``UsageError`` if the nodes do not share the storage, or are not alike.
    """
    use_token()
    quiet_tune()
    stop.abandon = abandon  # also while Ray starts
    from tuner.execution.ray_callback import SearchCallback

    warm = warm_trials(run.spec, run.home, run.folder)
    first = warm_points(run.spec, run.home, run.folder, data.counts["train"])
    optimizer = AskTell(
        run.spec, run.history, run.folder, warm, first=first, references=references(run.spec), until=stop.until
    )
    for line in optimizer.descriptions:
        say(line)
    callback = SearchCallback(run, optimizer, listener, say)
    with connect(run.spec) as ray, _watched(ray, stop, say):
        _check_nodes(run.spec)
        callback.ask_nodes, callback.stop, callback.ending = _nodes_checker(run, stop), stop, stop
        spec = resolve_gpus_per_trial(ray, run.spec, partial(first_trial, run), say)
        optimizer.gpus_per_trial = float(spec.gpus_per_trial)
        quota, most = _quota(spec, ray.cluster_resources(), say)
        spec = replace(spec, max_concurrent=most)
        survive_memory_kills()
        without_snapshots()
        with quiet_optuna():  # once for all results: to enter it empties the caches of all loggers
            while True:
                _ray_tuner(replace(run, spec=spec), quota, optimizer, callback, stop).fit()
                if stop.reason or not callback.take_up():
                    break  # else something was asked for after Ray Tune had heard that there is nothing more
        # after a signal or at the end of the time budget the search does not wait for the nodes' answers
        if stop.reason in (None, "storage", "nodes") and (problem := callback.ask_nodes().result()):
            raise UsageError(problem)
    shutil.rmtree(run.folder / "ray", ignore_errors=True)  # the history holds everything
    return stop.reason or ("budget" if optimizer.spent else "time budget" if optimizer.late else None)


def _quota(spec: SearchSpec, cluster: dict[str, float], say: Say) -> tuple[dict[str, float], int | None]:
    """What a trial takes of the cluster's quotas, and how many trials may then run at a time; None: as many as fit."""
    quota = quota_of(spec, cluster)
    most = min((n for n in (spec.max_concurrent, at_a_time(quota, cluster)) if n is not None), default=None)
    if quota:
        shares = ", ".join(f"{amount:g} of the {cluster[name]:g} of {name}" for name, amount in quota.items())
        say(f"quota: a trial takes {shares}")
    return quota, most


def _check_nodes(spec: SearchSpec) -> None:
    """``Failed`` if a node lacks a package that the search uses, before anything trains."""
    from tuner.execution.nodes import nodes_plug_in_problem

    if problem := nodes_plug_in_problem(spec.plug_ins):
        raise Failed(problem)


@contextmanager
def _watched(ray: ModuleType, stop: StopRequest, say: Say) -> Iterator[None]:
    """In this block ``stop.lost`` tells whether Ray is gone. What follows from that, or from a full disk, stops the
    search."""
    stop.lost = watch(ray, say)
    try:
        yield
    except Exception as error:
        why, full = stop.lost(), stop.reason == "disk"
        if not why and not full and not says_full(error):
            raise
        if not full:  # else that was said, and Ray Tune could not read a snapshot that it could not write
            say(f"Ray is gone: {why}" if why else f"the search stops: {' '.join(str(error).split())[-300:]}")
        stop("ray" if why else "disk")
    finally:
        stop.lost = lambda: None


def _nodes_checker(run: SearchRun, stop: Callable[[str], None]) -> Callable[[], Future[str | None]]:
    """A function that asks the nodes, once, whether they can use the search's storage and run its trials as this
    machine would; if not, it stops the search.

    It is called when the first trial trains, not before: on a small machine the answers take seconds.
    """
    from tuner.execution.nodes import nodes_problem

    @cache
    def ask() -> Future[str | None]:
        problem = nodes_problem(run)
        problem.add_done_callback(lambda f: stop("nodes") if f.exception() or f.result() else None)
        return problem

    return ask


def _ray_tuner(
    run: SearchRun, quota: dict[str, float], optimizer: AskTell, callback: SearchCallback, stop: StopRequest
) -> tune.Tuner:
    """Ray Tune, set up to leave every decision to our optimizer. ``quota``: what a trial takes beside its resources, of
    whichever node has it."""
    from ray import tune

    from trainables.ray_adapter import TrialActor
    from tuner.execution.ray_scheduler import DeadTrials, SearchStopper
    from tuner.execution.ray_searcher import ProposalSearcher

    def configure(record: TrialRecord) -> dict[str, Any]:
        callback.started(record)
        return {"trial": trial_config(run, record).to_dict(), "threads": threads_per_process(run.spec)}

    bundles = [trial_resources(run.spec), *([quota] if quota else [])]  # the first is where it runs
    return tune.Tuner(
        tune.with_resources(TrialActor, tune.PlacementGroupFactory(bundles)),
        tune_config=tune.TuneConfig(
            search_alg=ProposalSearcher(optimizer, configure),
            num_samples=-1,  # until the searcher returns FINISHED: an interrupted trial is suggested again
            scheduler=DeadTrials(optimizer),
            max_concurrent_trials=run.spec.max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="ray", storage_path=str(run.folder), callbacks=[callback], stop=SearchStopper(stop), verbose=0
        ),
    )
