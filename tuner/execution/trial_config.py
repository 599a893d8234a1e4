"""The configuration that a trial receives."""

from __future__ import annotations

from dataclasses import asdict, replace

from search_spaces import method_space
from search_spaces.param import params_of
from trainables.config import TrialConfig
from tuner.results.search_run import SearchRun
from tuner.results.trial_record import TrialRecord
from tuner.sync.shared_dataset import dataset_of


def first_trial(run: SearchRun) -> TrialConfig:
    """The first method's default setting without trunk and checkpoints: what a trial costs is measured with it."""
    lane = run.spec.lanes[0]
    record = TrialRecord(0, lane.search_space().default(), lane.method, seed=run.spec.seed)
    return replace(trial_config(run, record), trunk="none", folder=None)


def trial_config(run: SearchRun, record: TrialRecord) -> TrialConfig:
    """Exactly what the sampler proposed, split into the method's own parameters and those of training.

    A name that both have (``schedule``) is the method's.
    """
    spec, names = run.spec, params_of(method_space(record.method).Params)
    lane = spec.of(record.method)
    proposed_training = {k: v for k, v in record.params.items() if k not in names}
    return TrialConfig(
        method=record.method,
        params={k: v for k, v in record.params.items() if k in names},
        training={**asdict(lane.training()), **proposed_training},
        dataset=dataset_of(spec, run.folder),
        imbalance=spec.imbalance,
        model=spec.model,
        max_epochs=spec.max_epochs,
        objectives=spec.objectives,
        seed=record.seed,
        data_seed=spec.seed,
        val_fraction=spec.val_fraction,
        val_per_class=spec.val_per_class,
        home=str(run.home.root),
        trunk=spec.trunk if record.method in spec.methods and lane.epoch_plan.latest_branch else "none",
        trunk_from=max(1, lane.epoch_plan.trunk_epochs),
        storage=spec.storage,
        offsets=spec.offsets,
        trial=record.trial,
        folder=run.place("trials", record.trial),
    )
