"""Runs a search: proposals to Ray Tune's actors, results into the history, the fronts and MLflow."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from tuner.errors import Failed, Interrupted, UsageError
from tuner.execution.ray_instance import connect
from tuner.execution.ray_patches import _quiet_ray
from tuner.execution.ray_storage import forget_ray, ray_place
from tuner.execution.resources import resolve_gpus_per_trial, trial_resources
from tuner.execution.stopping import _stoppable, training_time
from tuner.execution.trial_config import first_trial, trial_config
from tuner.files import write_atomically
from tuner.home import Home
from tuner.optimizer.ask_tell import AskTell
from tuner.optimizer.warm_start import check_warm, warm_trials
from tuner.report.progress import Progress
from tuner.results.history import History, TrialRecord
from tuner.results.replicates import total_trials
from tuner.results.summary import front_json, save_result, saved_result, state_of
from tuner.results.trial_state import TrialState
from tuner.spec.epoch_plan import burn_in_reach
from tuner.spec.search_spec import SearchSpec
from tuner.sync.mirror import mirrored
from tuner.sync.shared_dataset import dataset_of, share_dataset
from tuner.sync.storage_spec import check_storage, with_storage


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


def search(spec: SearchSpec, home: Home | None = None) -> dict[str, Any]:
    """Run, or go on with, the search that ``spec`` names, and return its result (see DESIGN's JSON).

    A search that is finished already is not run again: its stored result comes back. Raises ``UsageError`` for what is
    wrong with the input and ``Interrupted`` after Ctrl-C, SIGTERM.
    """
    home = home or Home()
    spec = with_storage(spec, home)
    home = Home(home.root, spec.storage)
    check(spec, home)
    name = spec.search_name
    folder = home.search(name)
    with _owned(folder, name), mirrored(spec, home, name):
        _claim(folder, spec, name)
        share_dataset(spec, home, folder)
        history = History(folder)
        done = saved_result(folder)
        if done:
            if done["state"] == state_of(spec, history) != "stopped":
                return done
            save_result(folder, None)  # it must not pass for the result of this run, should this run be killed
        return _run(spec, home, name, folder, history)


def fill_mlflow(name: str, home: Home, say: Callable[[str], None]) -> bool:
    """``tuner sync``: MLflow from the history alone. ``UsageError`` while the search is running: its driver logs it."""
    from tuner.results.searches import load_search
    from tuner.tracking.tracker import sync

    spec, history = load_search(home, name)
    with _owned(home.search(name), name):
        return sync(spec, home, name, history, warn=say)


@contextmanager
def _owned(folder: Path, name: str):
    """One driver per search at a time; the lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"search {name!r} is running already; wait for it, or give this one another --name"
            ) from None
        yield


def _claim(folder: Path, spec: SearchSpec, name: str) -> None:
    """A name belongs to one spec: the same spec goes on, another one is refused."""
    path = folder / "spec.yaml"
    if path.exists():
        theirs = SearchSpec.from_yaml(path.read_text())
        if theirs.identity() != spec.identity():
            ours, others = spec.identity(), theirs.identity()
            differs = [k for k in ours | others if ours.get(k) != others.get(k)]
            raise UsageError(f"search {name!r} exists with another {', '.join(differs)}; choose another --name")
    write_atomically(path, spec.to_yaml())


def _run(spec: SearchSpec, home: Home, name: str, folder: Path, history: History) -> dict[str, Any]:
    from tuner.tracking.tracker import Tracker, sync

    begin = time.time()
    before = sum(len(t.epochs) for t in history.everything())
    saved = history.epochs_saved(spec.max_epochs)
    trained = history.epochs_trained()
    with Progress(spec, total_trials(spec), before) as progress:
        for record in history.everything():
            if record.state != TrialState.RUNNING:
                progress.count(record)
        progress.say(
            f"search {name}: {total_trials(spec)} trials x {spec.max_epochs} epochs of "
            f"{spec.method_names} on {spec.dataset} ({spec.imbalance}), model {spec.model}, "
            f"eps {spec.training().eps:.4g}"
        )
        for line in [*spec.notes, *trunk_lines(spec)]:
            progress.say(line)
        tracker = Tracker(spec, home, name, warn=progress.say, later=True)
        state = "failed"
        try:
            until = begin + training_time(spec.time_budget) if spec.time_budget else None
            interrupted = _tune(spec, home, folder, history, progress, tracker, until)
            state = state_of(spec, history)  # who stops it after the last trial's end stops nothing
        finally:
            history.write_parquet()
            logged = tracker.close(state, folder, history)
        if before and logged:  # what a killed driver had not sent yet
            sync(spec, home, name, history, warn=progress.say)
    by = {why: epochs - saved[why] for why, epochs in history.epochs_saved(spec.max_epochs).items()}
    result = {
        **front_json(spec, name, home, history),
        "epochs_trained": history.epochs_trained() - trained,
        "epochs_saved": sum(by.values()),
        "epochs_saved_by": by,
        "wall_s": round(time.time() - begin, 2),
        "mlflow": {"tracking_uri": tracker.tracking_uri, "run_id": tracker.run_id},
    }
    save_result(folder, result)
    if interrupted == "signal":
        raise Interrupted(result)
    if interrupted == "storage":
        raise Failed(f"search {name!r} stopped because its storage failed; `tuner resume {name}` goes on with it")
    return result


def _tune(
    spec: SearchSpec, home: Home, folder: Path, history: History, progress: Progress, tracker, until: float | None
) -> str | None:
    """Run the trials; returns why it ended early ("signal", "time budget", "storage") or None."""
    _quiet_ray()
    from ray import tune

    from trainables.ray_adapter import TrialActor
    from tuner.execution.nodes import unshared
    from tuner.execution.ray_callback import SearchCallback
    from tuner.execution.ray_patches import survive_memory_kills
    from tuner.execution.ray_scheduler import Ending, RungScheduler
    from tuner.execution.ray_searcher import ProposalSearcher

    lanes = AskTell(spec, history, folder, warm_trials(spec, home, folder), until=until)
    for line in lanes.descriptions:
        progress.say(line)
    watch = SearchCallback(spec, history, lanes, [progress, tracker], progress.say, tracker.wait_for_import)

    def configure(record: TrialRecord) -> dict[str, Any]:
        watch.started(record)
        return {"trial": trial_config(spec, home, folder, record).to_dict(), "threads": int(spec.cpus_per_trial)}

    with connect(spec) as ray, _stoppable(until) as stop:

        @cache
        def asked():
            """The nodes, once and not before the first trial trains: on a small machine their answers take seconds."""
            found = unshared(spec, home)
            found.add_done_callback(lambda f: stop("storage") if f.exception() or f.result() else None)
            return found

        watch.nodes, watch.stop = asked, stop
        spec = resolve_gpus_per_trial(ray, spec, partial(first_trial, spec, home, folder), progress.say)
        survive_memory_kills()
        tuner = tune.Tuner(
            tune.with_resources(TrialActor, tune.PlacementGroupFactory([trial_resources(spec)])),
            tune_config=tune.TuneConfig(
                search_alg=ProposalSearcher(lanes, configure),
                num_samples=-1,  # until the searcher says so: lost trials come again
                scheduler=RungScheduler(lanes, stop) if lanes.stops else None,
                max_concurrent_trials=spec.max_concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="ray", **ray_place(spec, folder), callbacks=[watch], stop=Ending(stop), verbose=0
            ),
        )
        tuner.fit()
        if stop.why in (None, "storage") and (wrong := asked().result()):  # who wants to end does not wait for answers
            raise UsageError(wrong)
    forget_ray(spec, folder)  # the history has it all
    return stop.why or ("time budget" if lanes.late else None)


def trunk_lines(spec: SearchSpec) -> list[str]:
    """`trunk_line` of every method."""
    several = len(spec.methods) > 1
    return [(f"{lane.method}: " if several else "") + trunk_line(lane) for lane in spec.lanes]


def trunk_line(spec: SearchSpec) -> str:
    """What trials share before they differ, or why they share nothing."""
    first, last = spec.epoch_plan.trunk_epochs, spec.epoch_plan.latest_branch
    reach = burn_in_reach(spec.search_space())
    if last and spec.trunk != "auto":
        return f"trunk: every trial starts from {first} epochs of plain AT"
    if last:
        epochs = first if first == last else f"{first} to {last}"
        return f"trunk: the first {epochs} epochs are trained once for all trials"
    if spec.trunk == "none":
        return "no trunk: --no-trunk"
    if reach and "start" in spec.search_space().params:
        return (
            f"no trunk: what is searched acts before the reweighting starts ({', '.join(reach)}); "
            "--fix them and all trials share those epochs"
        )
    return f"no trunk: {spec.method} reweights from the first epoch (--trunk at:N starts it from N epochs of plain AT)"
