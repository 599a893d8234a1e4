"""A front of several methods, searched as `tuner search` does but for Ray, and verified beside no search.

A unit is a seed on balanced images. So that a front costs few trainings, all trials fork late from plain AT, the
no-search reference of the same seed: previews as always, full trainings at `START` of the epochs, the default settings
too; a method with an earlier ``start`` acts from there. With ``--form trades`` the methods that have a choice fork from
a second stem.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.gpu import nosearch
from benchmarks.gpu.models import Models, Target, attack_all, left, with_offsets
from benchmarks.gpu.setup import START, Setup, forked_at
from benchmarks.live_arms import Ours, Run, Stem
from benchmarks.live_stages import Line, Stage, stem_kind
from trainables.offsets import Offsets
from tuner.results.fronts import front_of
from tuner.results.pareto import row_label
from tuner.results.trial_record import TrialRecord
from tuner.spec.epoch_plan import PREVIEW_LENGTH
from tuner.spec.schedulers import SHARE
from tuner.verification.rows import spread

SETTING = "none"
ATTACKS = ("autoattack",)


class FromOneStem(Ours):
    """The search with late forks, and one stem for all methods of a form."""

    def enter(self, record: TrialRecord) -> None:
        config, reference = self.job.config(record, self.spec, self.history), record.role is not None
        if record.full and not reference:
            config = replace(config, fork=round(START * config.max_epochs), stem=config.training)
        kind = True, stem_kind(config)[1]  # with losses on `val`, which some methods read
        if kind not in self._stems:
            self._stems[kind] = Stem(self.job.stem(self.spec, *kind))
        stem = self._stems[kind]
        line = stem.line if reference else Line(config, stem.line)
        self.runs[record.trial] = Run(line, config.fork, stem)

    def _of_stem(self, number: int, stem: Stem) -> Stage | None:
        stage = super()._of_stem(number, stem)
        return stage and replace(stage, keep=forked_at(stage.until, stage.line.last))


def key(setup: Setup, seed: int) -> dict[str, Any]:
    return {"part": "front", "setting": SETTING, "seed": seed, "form": setup.form}


def unit(setup: Setup) -> int | None:
    """The first seed whose front is not complete."""
    return next((seed for seed in range(setup.size.seeds) if work(setup, seed)), None)


def work(setup: Setup, seed: int) -> list[tuple[str, float]]:
    """What is left to do of a seed's front, up to its next chunk of test images."""
    size, found = setup.size, setup.ledger.find(**key(setup, seed), row="search")
    to_attack = nosearch.keys(SETTING, seed)
    if found:
        if not all((setup.work / "lines" / name).exists() for name in found["lines"]):
            return []  # its models are gone: it has been verified as far as it came
        to_attack += [{**key(setup, seed), "point": label} for label in found["verified"]]
        return left(setup, to_attack, ATTACKS)
    own, previews = size.epochs - round(START * size.epochs), size.trials - len(size.methods)
    in_full = len(size.methods) + math.ceil(previews / SHARE)
    known = setup.ledger.find(**to_attack[0]) and (setup.work / "lines").exists()
    stems = (0 if known else size.epochs) + (0 if setup.form == "at" else size.epochs - own)
    epochs = in_full * own + previews * math.ceil(PREVIEW_LENGTH * size.epochs) + stems
    attacks = left(setup, [*to_attack, *({**key(setup, seed), "point": n} for n in range(size.verified))], ATTACKS)
    return [("train", epochs * setup.images(SETTING)), ("sweep", in_full + previews + 1), *attacks]


def planned(setup: Setup) -> list[tuple[str, float]]:
    seed = unit(setup)
    return [] if seed is None else [("rest", 1), *work(setup, seed)]


def run(setup: Setup) -> None:
    seed = unit(setup)
    if seed is None:
        return
    models = Models(setup)
    arm = FromOneStem(setup.job(SETTING, seed, setup.size.methods))
    while (stage := arm.next(1)) is not None:
        arm.told(stage, models.run(stage))
    front = front_of(arm.spec, arm.history)
    rows = {row_label(row): row for row in spread(front, setup.size.verified)} if front.rows else {}
    if not setup.ledger.find(**key(setup, seed), row="search"):
        lines = sorted({models.place_of(arm.runs[row["trial"]].line).name for row in rows.values()})
        setup.ledger.add({**key(setup, seed), "row": "search"}, lines=lines, **described(arm, front, list(rows)))
    mine = [target(models, arm, row, {**key(setup, seed), "point": label}) for label, row in rows.items()]
    attack_all(setup, [*mine, *nosearch.targets(setup, models, SETTING, seed)], ATTACKS)


def target(models: Models, arm: Ours, row: dict[str, Any], named: dict[str, Any]) -> Target:
    """A point of the front: its trial's model with its offsets."""
    record, line = arm.history.record(row["trial"]), arm.runs[row["trial"]].line
    offsets = Offsets.of(row["offsets"])
    about = {"method": record.method, "params": record.params, "offsets": offsets.to_dict()}
    about |= {"val": {name: row[name] for name in arm.spec.objectives}, "train_counts": list(record.curve.train_counts)}
    about |= {"config": line.config, "classes": len(record.curve.classes)}
    return Target(named, about, partial(made, models, line, offsets))


def made(models: Models, line: Line, offsets: Offsets) -> Any:
    return with_offsets(models.model(line, line.last), offsets.values)


def described(arm: Ours, front: Any, verified: list[str]) -> dict[str, Any]:
    """What the search came to, on `val`."""
    points = [
        {"label": row_label(row), "method": arm.history.record(row["trial"]).method}
        | {name: row[name] for name in arm.spec.objectives}
        for row in front.rows
    ]
    states = [[record.method, str(record.state), record.full] for record in arm.history.trials.values()]
    return {"verified": verified, "front": points, "trials": states, "claim": arm.claim()}
