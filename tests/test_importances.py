"""How much each parameter matters: PED-ANOVA and fANOVA of Optuna on what the trials of a search were worth."""

import json
import random

import pytest

from tests.conftest import tuner_here
from tests.histories import _draw, curve, metrics
from tuner.home import Home
from tuner.optimizer.importances import LEAST, Importances, importances_of
from tuner.results.history import History
from tuner.spec.search_spec import SearchSpec

SPEC = SearchSpec(method="srat", trials=80, max_epochs=12, scheduler="preview", name="s")


def previewed(history, spec, trials, worst_of, method="srat"):
    """Random settings whose previews are worth ``worst_of(params)``; trial 0 is the default setting, in full."""
    numbers, space = random.Random(0), spec.search_space()
    history.append("start", 0, params=space.default(), method=method)
    for trial in range(1, trials + 1):
        params = space.resolve(lambda p: _draw(p.range, numbers))
        history.append("start", trial, params=params, method=method, preview=True)
        worth = worst_of(params)
        history.append("preview", trial, epochs=2, metrics=metrics(10, 0.5, worth), curve=curve(0.5, worth))


@pytest.mark.slow
def test_the_parameter_that_decides_is_named_by_both():
    history = History(None)
    previewed(history, SPEC, 60, lambda params: 0.05 + 0.4 * params["start"])
    (found,) = importances_of(SPEC, history)
    assert (found.method, found.trials, found.previews) == ("srat", 60, True)
    for shares in (found.ped_anova, found.fanova):
        assert next(iter(shares)) == "start" and shares["start"] > 0.6 and sum(shares.values()) == pytest.approx(1)
    assert set(found.ped_anova) == set(SPEC.search_space().searched), "PED-ANOVA knows conditions"
    assert {"gamma", "scale"} & set(found.fanova) == set(), "not all trials have them"
    assert "Both name start first." in found.words and "leaves out what not all trials have" in found.words
    assert "rough" not in found.words and importances_of(SPEC, history) == [found], "the same again"


def test_what_a_user_added_counts_where_the_search_could_have_proposed_it():
    """SRAT's own loss is not searched: what another one made of a setting says nothing of its parameters."""
    history, default = History(None), SPEC.search_space().default()
    for number, setting in ((0, {}), (1, {"start": 0.4}), (2, {"form": "trades"})):
        history.append("add", number, params=default | setting, method="srat", preview=True, by="ann")
        history.append("preview", number, epochs=2, metrics=metrics(10, 0.5, 0.2), curve=curve(0.5, 0.2))
    assert importances_of(SPEC, history)[0].trials == 2


def test_they_may_disagree_and_say_so():
    """A third of the trials is bad by one parameter, which makes most of the spread; the best of the others differ in
    another one."""
    history = History(None)
    previewed(history, SPEC, 80, lambda p: 0.05 if p["strength"] < 0.7 else 0.3 + 0.05 * p["start"])
    (found,) = importances_of(SPEC, history)
    assert next(iter(found.fanova)) == "strength" and next(iter(found.ped_anova)) == "start"
    assert "They disagree: the best differ most in start, the spread of all comes most from strength." in found.words


def test_too_few_and_all_alike():
    history = History(None)
    previewed(history, SPEC, LEAST - 1, lambda params: params["start"] / 4)
    (few,) = importances_of(SPEC, history)
    assert few.ped_anova is None and few.words == "Too few to say: 11 previews; from 12 on two measures are shown."
    alike = History(None)
    previewed(alike, SPEC, 20, lambda params: 0.2)
    assert importances_of(SPEC, alike)[0].words.startswith("Nothing to say: all 20 previews are worth the same")


def test_of_a_method_that_varies_nothing_more_trials_would_not_help():
    """Plain AT under several seeds beside SRAT: "from 12 on two measures are shown" was never kept."""
    spec = SearchSpec(method=("srat", "at"), trials=4, max_epochs=4, stems=2)
    history = History(None)
    history.append("start", 0, params=spec.of("srat").search_space().default(), method="srat")
    for trial in (1, 2):
        history.append("start", trial, params={}, method="at", seed=trial)
    srat, plain = importances_of(spec, history)
    assert srat.words.startswith("Too few to say") and plain.words == "Nothing to say: the search varies nothing of at."


def test_of_many_trials_the_latest_count(monkeypatch):
    from tuner.optimizer import importances as module

    monkeypatch.setattr(module, "MOST", 20)
    history = History(None)
    previewed(history, SPEC, 40, lambda params: 0.05 if len(history.trials) < 22 else 0.05 + 0.4 * params["start"])
    (found,) = importances_of(SPEC, history)
    assert found.trials == 20 and next(iter(found.fanova)) == "start"


def test_each_method_has_its_own():
    spec = SearchSpec(method=("srat", "dafa"), trials=40, max_epochs=12, scheduler="preview", name="s")
    history = History(None)
    previewed(history, spec.of("srat"), 15, lambda params: params["start"] / 4)
    found = importances_of(spec, history)
    assert [(f.method, f.trials) for f in found] == [("srat", 15), ("dafa", 0)] and found[1].ped_anova is None
    assert "With 15 previews both are rough." in found[0].words


def test_the_command(tmp_path):
    folder = Home(tmp_path).search("s")
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(SPEC.to_yaml())
    previewed(History(folder), SPEC, 14, lambda params: 0.05 + 0.4 * params["start"])
    done = tuner_here("front", "s", "--importances", "--home", tmp_path)
    assert "PED-ANOVA" in done.stdout and "start" in done.stdout and "rough" in done.stdout, done.stderr
    (result,) = json.loads(tuner_here("front", "s", "--importances", "--home", tmp_path, "--json").stdout)
    (found,) = result["importances"]
    assert set(found) == {*Importances.__dataclass_fields__, "words"} and found["trials"] == 14
    both = tuner_here("front", "s", "--importances", "--prices", "--home", tmp_path)
    assert both.returncode == 2 and "give one of them" in both.stderr
