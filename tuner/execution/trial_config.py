"""What a trial is told."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from search_spaces import method_space
from search_spaces.param import params_of
from trainables.config import TrialConfig
from tuner.home import Home
from tuner.results.history import TrialRecord
from tuner.spec.search_spec import SearchSpec
from tuner.sync.shared_dataset import dataset_of


def first_trial(spec: SearchSpec, home: Home, folder: Path) -> TrialConfig:
    """The paper's setting, trained alone: what a trial costs is measured with it."""
    lane = spec.lanes[0]
    record = TrialRecord(0, lane.search_space().default(), lane.method, seed=spec.seed)
    return replace(trial_config(spec, home, folder, record), trunk="none", folder=None)


def trial_config(spec: SearchSpec, home: Home, folder: Path, record: TrialRecord) -> TrialConfig:
    """What the trial is told: exactly what the sampler proposed, split into the method's own and common knobs."""
    names = params_of(method_space(record.method).Params)  # its name wins where a knob has it too (schedule)
    own, lane = {k: v for k, v in record.params.items() if k in names}, spec.of(record.method)
    knobs = {**asdict(lane.training()), **{k: v for k, v in record.params.items() if k not in names}}
    return TrialConfig(
        method=record.method,
        params=own,
        training=knobs,
        dataset=dataset_of(spec, folder),
        imbalance=spec.imbalance,
        model=spec.model,
        max_epochs=spec.max_epochs,
        seed=record.seed,
        data_seed=spec.seed,
        home=str(home.root),
        trunk=spec.trunk if lane.epoch_plan.latest_branch else "none",
        trunk_from=max(1, lane.epoch_plan.trunk_epochs),
        storage=spec.storage,
        trial=record.trial,
        folder=home.place(spec.storage, "searches", folder.name, "trials", record.trial),
    )
