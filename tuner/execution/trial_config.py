"""The configuration that a trial receives."""

from __future__ import annotations

from dataclasses import asdict, replace

from search_spaces import method_space
from search_spaces.param import params_of
from trainables.config import TrialConfig
from tuner.results.references import fork_of
from tuner.results.replicates import other_seeds
from tuner.results.search_run import SearchRun
from tuner.results.trial_record import TrialRecord
from tuner.spec.search_spec import SearchSpec
from tuner.sync.initial import init_of
from tuner.sync.shared_dataset import dataset_of, found_at


def first_trial(run: SearchRun) -> TrialConfig:
    """The first method's default setting without stem and checkpoints: what a trial costs is measured with it."""
    lane = run.spec.lanes[0]
    record = TrialRecord(0, lane.search_space().default(), lane.method, seed=run.spec.seed)
    return replace(trial_config(run, record), fork=0, folder=None)


def trial_config(run: SearchRun, record: TrialRecord) -> TrialConfig:
    """Exactly what the sampler proposed, split into the method's own parameters and those of training.

    A name that both have (``schedule``) is the method's. Of a preview the method begins at the fork at the latest.
    """
    spec, names = run.spec, params_of(method_space(record.method).Params)
    lane = spec.of(record.method)
    plan, stem = lane.epoch_plan, asdict(lane.training())
    params = record.params if record.full else plan.previewed(record.params)
    proposed_training = {k: v for k, v in record.params.items() if k not in names}
    fork = fork_of(spec, run.history, record)
    return TrialConfig(
        method=record.method,
        params={k: v for k, v in params.items() if k in names},
        training={**stem, **proposed_training},
        dataset=dataset_of(spec, run.folder),
        imbalance=spec.imbalance,
        model=spec.model,
        threat=spec.threat_model.name,
        max_epochs=spec.max_epochs,
        objectives=spec.objectives,
        seed=record.seed,
        data_seed=spec.seed,
        val_fraction=spec.val_fraction,
        val_per_class=spec.val_per_class,
        image_size=spec.image_size,
        test_split=spec.test_split,
        groups=spec.groups,
        home=str(run.home.root),
        fork=fork,
        stem=stem if fork else {},
        spare_seeds=_spare_seeds(spec, record),
        stem_from=max(1, spec.forks[0]),
        cool_down=None if record.full else plan.preview[1],
        storage=spec.storage,
        init=(start := init_of(spec, run.folder)) and start["weights"],
        offsets=spec.offsets,
        trial=record.trial,
        extra=found_at(spec.extra_data, run.folder),
        extra_ratio=spec.extra_ratio if spec.extra_data != "none" else 0.0,
        processes=spec.processes,
        folder=run.place("trials" if record.full else "previews", record.trial),
    )


def _spare_seeds(spec: SearchSpec, record: TrialRecord) -> tuple[int, ...]:
    """Whose stems are trained while this trial waits for its own: other trials' or their replicates'."""
    if spec.budget:  # what nobody may need is not bought
        return ()
    own, turns = range(spec.seed, spec.seed + spec.stems), min(spec.stems, spec.lanes[0].trials)
    return tuple(other_seeds(spec, record, max(turns, spec.seeds) - 1)) if record.seed in own else ()
