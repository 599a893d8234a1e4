"""Runs a search: proposals to Ray Tune's actors, what they report into the history and to the listeners."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any

from tuner.errors import Failed, Interrupted, UsageError
from tuner.execution.ray_instance import connect
from tuner.execution.ray_patches import quiet_tune, survive_memory_kills
from tuner.execution.ray_storage import forget_ray, ray_place
from tuner.execution.ray_token import use_token
from tuner.execution.resources import resolve_gpus_per_trial, trial_resources
from tuner.execution.stopping import stoppable, training_time
from tuner.execution.trial_config import first_trial, trial_config
from tuner.files import write_atomically
from tuner.home import Home
from tuner.optimizer.ask_tell import AskTell
from tuner.optimizer.warm_start import check_warm, warm_trials
from tuner.report.files import write_pictures
from tuner.report.pages import Pages
from tuner.report.progress import Progress
from tuner.results.history import History
from tuner.results.listener import Listener, Listeners
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search
from tuner.results.summary import front_json, save_result, saved_result, state_of
from tuner.results.trial_record import TrialRecord
from tuner.spec.search_spec import SearchSpec
from tuner.sync.mirror import mirrored
from tuner.sync.shared_dataset import dataset_of, share_dataset
from tuner.sync.storage_spec import check_storage, with_storage
from tuner.tracking.tracker import Tracker, sync

Say = Callable[[str], None]


def check(spec: SearchSpec, home: Home) -> None:
    """Everything that can be wrong with a search, found before Ray starts; raises ``UsageError`` (one sentence)."""
    from trainables.data import DataSpec
    from trainables.data import check as check_data
    from trainables.models.check import check_model

    home.require_writable()
    check_storage(spec)
    try:
        data = dataset_of(spec, home.search(spec.search_name))
        summary = check_data(DataSpec(data, spec.imbalance, spec.seed), home.root)
        check_model(spec.model, summary.shape)
    except ValueError as error:
        raise UsageError(str(error)) from None
    check_warm(spec, home)


def search(spec: SearchSpec, home: Home | None = None, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """Run, or go on with, the search that ``spec`` names, and return its result: what `--json` prints.

    ``listeners`` hear what happens beside the terminal, the pages and MLflow. A search that is finished already is not
    run again: its stored result comes back. Raises ``UsageError`` for what is wrong with the input, ``Interrupted``
    after Ctrl-C or SIGTERM, ``Failed`` where a storage failed.
    """
    home = home or Home()
    spec = with_storage(spec, home)
    home = Home(home.root, spec.storage)
    check(spec, home)
    run = SearchRun(spec, home, spec.search_name, History(None))
    with _owned(run), mirrored(spec, home, run.name):
        _claim(run)
        share_dataset(spec, home, run.folder)
        run = replace(run, history=History(run.folder))
        done = saved_result(run.folder)
        if done:
            if done["state"] == state_of(run) != "stopped":
                return done
            save_result(run.folder, None)  # it must not pass for the result of this run, should this run be killed
        return _run(run, listeners)


def fill_mlflow(name: str, home: Home, say: Say) -> bool:
    """``tuner sync``: MLflow from the history alone. ``UsageError`` while the search is running: its driver logs it."""
    run = load_search(home, name)
    with _owned(run):
        write_pictures(run)
        return sync(run, warn=say)


@contextmanager
def _owned(run: SearchRun) -> Iterator[None]:
    """One driver per search at a time; the lock goes with the process, however it ends."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(run.folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"search {run.name!r} is running already; wait for it, or give this one another --name"
            ) from None
        yield


def _claim(run: SearchRun) -> None:
    """A name belongs to one spec: the same spec goes on, another one is refused."""
    path = run.folder / "spec.yaml"
    if path.exists():
        ours, theirs = run.spec.identity(), SearchSpec.from_yaml(path.read_text()).identity()
        if theirs != ours:
            differs = [k for k in ours | theirs if ours.get(k) != theirs.get(k)]
            raise UsageError(f"search {run.name!r} exists with another {', '.join(differs)}; choose another --name")
    write_atomically(path, run.spec.to_yaml())


def _run(run: SearchRun, listeners: Sequence[Listener]) -> dict[str, Any]:
    """Run the trials and say what came of it. Whatever ends the search, the listeners hear of the end."""
    spec, history, begin = run.spec, run.history, time.time()
    saved, trained = history.epochs_saved(spec.max_epochs), history.epochs_trained()
    until = begin + training_time(spec.time_budget) if spec.time_budget else None
    with Progress(run) as progress:
        every = Listeners([progress, Pages(), Tracker(run, warn=progress.say), *listeners], progress.say)
        every.search_started(run)
        state = "failed"
        try:
            ended_early = _tune(run, every, progress.say, until)
            state = state_of(run)  # what stops it after the last trial's end stops nothing
        finally:
            history.write_parquet()
            every.search_ended(run, state)
    by = {why: epochs - saved[why] for why, epochs in history.epochs_saved(spec.max_epochs).items()}
    result = {
        **front_json(run),
        "epochs_trained": history.epochs_trained() - trained,
        "epochs_saved": sum(by.values()),
        "epochs_saved_by": by,
        "wall_s": round(time.time() - begin, 2),
        **every.result(),
    }
    save_result(run.folder, result)
    if ended_early == "signal":
        raise Interrupted(result)
    if ended_early == "storage":
        raise Failed(
            f"search {run.name!r} stopped because its storage failed; `tuner resume {run.name}` goes on with it"
        )
    return result


def _tune(run: SearchRun, listener: Listener, say: Say, until: float | None) -> str | None:
    """Run the trials; returns why it ended early ("signal", "time budget", "storage") or None."""
    use_token()
    quiet_tune()
    from ray import tune

    from tuner.execution.ray_callback import SearchCallback

    optimizer = AskTell(run.spec, run.history, run.folder, warm_trials(run.spec, run.home, run.folder), until=until)
    for line in optimizer.descriptions:
        say(line)
    callback = SearchCallback(run, optimizer, listener, say)
    with connect(run.spec) as ray, stoppable(until) as stop:
        callback.ask_nodes, callback.stop = _nodes(run, stop), stop
        spec = resolve_gpus_per_trial(ray, run.spec, partial(first_trial, run), say)
        survive_memory_kills()
        tuner: tune.Tuner = _tuner(replace(run, spec=spec), optimizer, callback, stop)
        tuner.fit()
        # a search that is told to end does not wait for answers
        if stop.why in (None, "storage") and (wrong := callback.ask_nodes().result()):
            raise UsageError(wrong)
    forget_ray(run)  # the history has it all
    return stop.why or ("time budget" if optimizer.late else None)


def _nodes(run: SearchRun, stop: Callable[[str], None]) -> Callable[[], Future[str | None]]:
    """Asks the nodes whether they can use the search's storage: once, and not before the first trial trains, because
    on a small machine their answers take seconds."""
    from tuner.execution.nodes import unshared

    @cache
    def ask() -> Future[str | None]:
        found = unshared(run.spec, run.home)
        found.add_done_callback(lambda f: stop("storage") if f.exception() or f.result() else None)
        return found

    return ask


def _tuner(run: SearchRun, optimizer: AskTell, callback, stop):
    """Ray Tune, told to ask our optimizer for everything."""
    from ray import tune

    from trainables.ray_adapter import TrialActor
    from tuner.execution.ray_scheduler import Ending, RungScheduler
    from tuner.execution.ray_searcher import ProposalSearcher

    def configure(record: TrialRecord) -> dict[str, Any]:
        callback.started(record)
        return {"trial": trial_config(run, record).to_dict(), "threads": int(run.spec.cpus_per_trial)}

    return tune.Tuner(
        tune.with_resources(TrialActor, tune.PlacementGroupFactory([trial_resources(run.spec)])),
        tune_config=tune.TuneConfig(
            search_alg=ProposalSearcher(optimizer, configure),
            num_samples=-1,  # until the searcher says so: lost trials come again
            scheduler=RungScheduler(optimizer, stop) if optimizer.stops else None,
            max_concurrent_trials=run.spec.max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="ray", **ray_place(run), callbacks=[callback], stop=Ending(stop), verbose=0),
    )
