"""What a point of a class costs along the front, by hand; and how sure the answer to `--at` is."""

import json

import numpy as np
import pytest
from scipy import stats

from tests.conftest import tuner_here
from tests.histories import curve, fill, run_of, start
from tuner.home import Home
from tuner.results.assessment import probability
from tuner.results.history import History
from tuner.results.prices import Price, class_prices
from tuner.spec.objectives import parse_constraint
from tuner.spec.search_spec import SearchSpec

SPEC = SearchSpec(
    method="trades", trials=3, max_epochs=2, name="s", objectives=("robust_acc", "worst_class_robust_acc")
)
CLASSES = ("cat", "dog", "deer", "ship")


def trained(history, trial, rates):
    """A trial with these robust accuracies of the classes."""
    start(history, SPEC, trial, {"beta": 1.0 + trial})
    mean, worst = sum(rates) / len(rates), min(rates)
    own = {"robust_acc": mean, "natural_robust_acc": mean, "worst_class_robust_acc": worst, "clean_acc": 0.9}
    per_class = {f"robust_acc/{name}": rate for name, rate in zip(CLASSES, rates)}
    history.append("epoch", trial, metrics={"epoch": 2, **own, **per_class})
    history.append("end", trial, state="finished")


def test_prices_by_hand():
    """From (cat 0.2, dog 0.6, deer 0.5, ship 0.7; mean 0.5) to (0.4, 0.3, 0.4, 0.74; mean 0.46): +20 points of cat cost
    4 on average, so 0.2 each; dog pays 30 / 20, deer 10 / 20. Ship gains 4 for the same 4; dog pays 30 / 4."""
    history = History(None)
    for trial, rates in enumerate([(0.2, 0.6, 0.5, 0.7), (0.4, 0.3, 0.4, 0.74), (0.1, 0.6, 0.5, 0.69)]):
        trained(history, trial, rates)
    ship, cat = class_prices(run_of(SPEC, history))
    assert (cat.name, cat.of, cat.by) == ("cat", "0", "1") and list(cat.payers) == ["dog", "deer"]
    assert (cat.gain, cat.price, *cat.payers.values()) == pytest.approx((20, 0.2, 1.5, 0.5))
    assert (ship.gain, ship.price, *ship.payers.values()) == pytest.approx((4, 1, 7.5, 2.5))
    assert cat.words == (
        "+1 point for cat costs 0.20 on average, paid by dog (1.50) and deer (0.50): from 0 to 1, which has 20.0 more"
    )
    free = Price("cat", 3.0, 0.0, {}, "0", "0@0.5")
    assert (
        free.words
        == "+1 point for cat costs nothing on average, and no class loses: from 0 to 0@0.5, which has 3.0 more"
    )


def test_what_a_class_costs_is_told_of_an_average_whatever_the_objectives():
    """By hand as above: of the clean accuracy, in which no row is above another, nothing would be lost."""
    history = History(None)
    for trial, rates in enumerate([(0.2, 0.6, 0.5, 0.7), (0.4, 0.3, 0.4, 0.74)]):
        trained(history, trial, rates)
    spec = SPEC.changed(objectives=("clean_acc", "worst_class_robust_acc", "robust_acc"))
    assert {p.name: round(p.price, 6) for p in class_prices(run_of(spec, history))} == {"ship": 1.0, "cat": 0.2}
    other = SPEC.changed(objectives=("worst_class_robust_acc", "clean_acc"))
    assert class_prices(run_of(other, history)) == [], "only the second is on its front"


def test_a_front_of_one_row_has_no_prices():
    history = History(None)
    assert class_prices(run_of(SPEC, history)) == []
    trained(history, 0, (0.2, 0.6, 0.5, 0.7))
    assert class_prices(run_of(SPEC, history)) == []


def test_the_command_line_shows_them(tmp_path):
    home = Home(tmp_path)
    folder = home.search("s")
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(SPEC.to_yaml())
    fill(History(folder), SPEC, trials=3, failed=False, curves=True)
    done = tuner_here("front", "s", "--prices", "--home", tmp_path)
    assert done.returncode == 0 and "+1 point for " in done.stdout, done.stderr
    (result,) = json.loads(tuner_here("front", "s", "--prices", "--home", tmp_path, "--json").stdout)
    assert result["prices"] and {"name", "gain", "price", "payers", "of", "by"} == set(result["prices"][0])
    at = tuner_here("front", "s", "--at", "worst_class_robust_acc>=0.05", "--home", tmp_path)
    assert "worst_class_robust_acc>=0.05; on new images with probability " in at.stdout, at.stderr
    (result,) = json.loads(tuner_here("front", "s", "--at", "clean_acc>=0.05", "--home", tmp_path, "--json").stdout)
    assert result["at"]["p_holds"] == 1.0


def test_how_sure_an_answer_is():
    """One model alone, of 100 images a class: within a few points of the normal approximation of its mean's error."""
    history = History(None)
    start(history, SPEC, 0, {"beta": 1.0})
    made = curve(0.5, 0.5, range(4), taus=(0,))
    point = {**made["points"][0], "count": [100] * 4, "robust": [50] * 4, "clean": [80] * 4}
    mean = {"robust_acc": 0.5, "worst_class_robust_acc": 0.5, "clean_acc": 0.8, "natural_robust_acc": 0.5}
    history.append("epoch", 0, metrics={"epoch": 2, **mean})
    history.append("curve", 0, curve={**made, "points": [point]})
    history.append("end", 0, state="finished")
    row = history.rows_of(0, SPEC.objectives)[0]
    error = np.sqrt(0.25 / 400)
    for text, sign in (("robust_acc>=0.48", 1), ("robust_acc<=0.48", -1), ("robust_acc>=0.53", 1)):
        bound = parse_constraint(text)
        expected = stats.norm.sf(bound.bound, 0.5, error) if sign > 0 else stats.norm.cdf(bound.bound, 0.5, error)
        assert probability(SPEC, history, row, bound) == pytest.approx(expected, abs=0.06), text
    assert probability(SPEC, history, row, parse_constraint("train_loss<=9")) is None
