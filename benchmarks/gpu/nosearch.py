"""What no search gives: plain AT, its best class offsets, its head with rows of equal length, under full AutoAttack.

A unit is a setting, a seed and an attack. Offsets are chosen on `val` (`best_row`), as a search's reference is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.gpu.models import Models, Target, attack_all, chunk, left, plain, with_offsets
from benchmarks.gpu.setup import Setup
from benchmarks.held_out import STEPS, over_offsets
from benchmarks.live_arms import OBJECTIVES
from benchmarks.live_stages import Line
from trainables.attack_copy import Frozen
from trainables.curve import Curve
from trainables.data import DataSpec, open_test
from trainables.head_repair import equal_norms
from tuner.results.references import best_row

POINTS = ("plain", "offsets", "head norms")
ATTACKS = ("autoattack", "apgd")


def units(setup: Setup) -> list[tuple[str, int, str]]:
    """Setting, seed and attack, in the order of their worth; those of which a row is missing."""
    size = setup.size
    every = [(setting, seed, attack) for seed in range(size.seeds) for attack in ATTACKS for setting in size.settings]
    return [(setting, seed, a) for setting, seed, a in every if left(setup, keys(setting, seed), (a,))]


def keys(setting: str, seed: int) -> list[dict[str, Any]]:
    return [{"part": "nosearch", "setting": setting, "seed": seed, "point": point} for point in POINTS]


def planned(setup: Setup) -> list[tuple[str, float]]:
    """The next chunk of the first unit that is not complete, trained from its beginning."""
    if not (open_ := units(setup)):
        return []
    setting, seed, attack = open_[0]
    trained = ("train", setup.size.epochs * setup.images(setting))
    known = setup.ledger.find(part="nosearch", setting=setting, seed=seed, point="curve")
    curve = [] if known else [("curve", float(setup.size.apgd[0]))]
    return [("rest", 1), trained, ("sweep", 1), *curve, *left(setup, keys(setting, seed), (attack,))]


def run(setup: Setup) -> None:
    models = Models(setup)
    for setting, seed, attack in units(setup):
        attack_all(setup, targets(setup, models, setting, seed), (attack,))


def targets(setup: Setup, models: Models, setting: str, seed: int) -> list[Target]:
    """The three models of a unit; none where training diverged, which is a row of its own."""
    line, result = plain(models, setup.job(setting, seed))
    if result.curve is None:
        key = {"part": "nosearch", "setting": setting, "seed": seed, "point": "failed"}
        if not setup.ledger.find(**key):
            setup.ledger.add(key, failed=result.failed)
        return []
    curve, config = result.curve, line.config
    along_offsets(setup, models, line, curve, setting, seed)
    values = [{name: curve.metrics(point)[name] for name in OBJECTIVES} for point in curve.points]
    best = values.index(best_row(values, OBJECTIVES))
    shared = {"config": config, "classes": len(curve.classes), "train_counts": list(curve.train_counts)}
    model = partial(models.model, line, line.last)
    offsets = curve.points[best].offsets
    made = (
        ({"val": values[0]}, model),
        ({"val": values[best], "offsets": offsets.to_dict()}, lambda: with_offsets(model(), offsets.values)),
        ({}, lambda: equal_norms(model())),
    )
    return [Target(key, {**shared, **about}, make) for key, (about, make) in zip(keys(setting, seed), made)]


def along_offsets(setup: Setup, models: Models, line: Line, curve: Curve, setting: str, seed: int) -> None:
    """A row with the whole curve on test images, at the offsets that were chosen on `val`, under PGD of more steps: far
    cheaper than AutoAttack at every offset, and too kind."""
    images, chunks = setup.size.apgd
    some = chunk(open_test(DataSpec(setup.dataset), setup.home, setup.device), 0, images, chunks)
    training = line.config.full_training()

    def measured() -> dict[str, Any]:
        model = Frozen(models.model(line, line.last))
        points = over_offsets(model, some, curve, training.eps, STEPS * training.eval_attack)
        each = [{"tau": p.offsets.tau, "count": p.count, "robust": p.robust} for p in points]
        return {"steps": STEPS * training.eval_attack, "points": each}

    setup.ledger.once("curve", len(some), measured, part="nosearch", setting=setting, seed=seed, point="curve")
