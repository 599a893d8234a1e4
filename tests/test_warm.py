"""What a search may be warm-started from, and that it outlives its source."""

import json
import os
import shutil

import pytest

from search_spaces.resolve import resolve
from tests.histories import fill, metrics
from tests.test_lanes import drive
from tuner.errors import Failed, UsageError
from tuner.home import Home
from tuner.optimizer.ask_tell import AskTell
from tuner.optimizer.warm_start import check_warm, warm_points, warm_trials
from tuner.results.bundle import packed_bundle, read_bundle
from tuner.results.cloning import clone
from tuner.results.history import History
from tuner.results.importing import import_search
from tuner.results.steering import setting_of
from tuner.results.trial_state import TrialState
from tuner.spec.search_spec import SearchSpec

COUNTS = (100, 20, 5)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A history waits for the disk after each line, which takes longer than all the rest here."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def spec_of(**changes):
    return SearchSpec(**{"method": "trades", "trials": 6, "scheduler": "none", **changes})


def earlier(tmp_path, **changes):
    """A home with a finished search."""
    home, spec = Home(tmp_path), spec_of(name="earlier", **changes)
    folder = home.search("earlier")
    fill(History(folder), spec.lanes[0])
    (folder / "spec.yaml").write_text(spec.to_yaml())
    return home


def test_what_a_file_of_ranges_fixes_must_agree(tmp_path):
    home = earlier(tmp_path, space={"lr": 0.3})
    for changes in ({}, {"space": {"lr": 0.1}}):
        with pytest.raises(UsageError, match=r"other parameters fixed: \{'lr': 0.3\} there"):
            check_warm(spec_of(warm_start="earlier", **changes), home)
    for same in ({"space": {"lr": 0.3}}, {"fix": {"lr": "0.3"}}):
        check_warm(spec_of(warm_start="earlier", **same), home)


@pytest.mark.parametrize(
    "there, here, said",
    [
        ({}, {"val_fraction": 0.3}, "does not fit this search: val_fraction 0.2 there, 0.3 here"),
        ({"val_per_class": 0}, {}, "does not fit this search: val_per_class 0 there, 300 here"),
        ({"set": {"lr": 0.02}}, {}, "was trained otherwise: lr 0.02 there, 0.05 here"),
        ({}, {"recipe": "paper"}, "otherwise: batch_size 32 there, 128 here; lr 0.05 there, 0.1 here; "),
        (
            {"max_epochs": 20, "recipe": "former"},
            {"max_epochs": 20},
            "otherwise: milestones '0.75,0.9' there, 'auto' here",
        ),
        ({}, {"threat": "l2:0.1"}, "does not fit this search: threat 'linf' there, 'l2:0.1' here"),
        ({"threat": "linf:0.2"}, {}, "was trained otherwise: eps 0.2 there, 0.1 here"),
        ({"threat": "linf:0.1"}, {}, None),  # the data set's
        ({"recipe": "former"}, {}, None),  # below 20 epochs the drops are where they were
        ({"set": {"lr": 0.05}}, {}, None),
        ({"method": ("trades", "mail")}, {"method": ("trades", "mail")}, None),
    ],
)
def test_images_and_training_must_agree(tmp_path, there, here, said):
    home = earlier(tmp_path, **there)
    if said is None:
        check_warm(spec_of(warm_start="earlier", **here), home)
        return
    with pytest.raises(UsageError, match=said):
        check_warm(spec_of(warm_start="earlier", **here), home)


@pytest.mark.parametrize("sampler", ["random", "qmc", "nsga2", "nsga3"])
def test_a_sampler_that_cannot_learn_from_it_is_refused(tmp_path, sampler):
    home = earlier(tmp_path)
    with pytest.raises(UsageError, match=f"no effect with --sampler {sampler}; choose one of: auto, tpe, gp"):
        check_warm(spec_of(warm_start="earlier", sampler=sampler), home)


def test_the_source_may_go_once_its_trials_are_kept(tmp_path):
    home, spec = earlier(tmp_path), spec_of(name="new", warm_start="earlier")
    known = warm_trials(spec, home, home.search("new"))
    shutil.rmtree(home.search("earlier"))
    check_warm(spec, home)
    assert known and warm_trials(spec, home, home.search("new")) == known
    with pytest.raises(UsageError, match="no search 'earlier'"):
        check_warm(spec_of(name="newer", warm_start="earlier"), home)


def test_a_users_own_trial_that_nobody_would_propose_is_not_shown(tmp_path):
    """SRAT's own loss is not searched: a trial with another was shown as if it had the searched one."""
    home, spec = earlier(tmp_path, method="srat"), spec_of(name="new", method="srat", warm_start="earlier")
    kept, history = spec.search_space(), History(home.search("earlier"))
    for number, setting in ((20, {"form": "trades"}), (21, {"start": 0.3})):
        history.append("add", number, params=setting_of(kept, "srat", setting), method="srat", by="ann")
        history.append("epoch", number, metrics=metrics(12, 0.5, 0.2))
        history.append("end", number, state="finished")
    known = AskTell(spec, History(None), warm=warm_trials(spec, home, home.search("new"))).methods["srat"].known
    shown = [trial.params["start"] for trial in known.frozen(kept, 0)]
    assert len(shown) == len(known.values) - 1 and shown[0] == 0.3, "the latest first: their numbers are negative"


# ---- from another method ---------------------------------------------------------------------------------------------

# (method, its parameters, class mean and worst class of the robust accuracy): by hand, the product orders them
MADE = [
    ("done", {}, 0.5, 0.1),  # 0.05: the default setting
    ("done", {"start": 0.4}, 0.6, 0.2),  # 0.12: the best
    ("done", {"start": 0.7, "r": 2.0}, 0.4, 0.1),  # 0.04
    ("done", {"start": 0.65}, 0.3, 0.1),  # 0.03: not of the better half
    ("done", {"start": 0.5}, 0.9, None),  # failed
    ("done", {"start": 0.4, "r": 9.0}, 0.55, 0.2),  # 0.11: the same start as the best
    ("done", {"start": 0.6}, 0.2, 0.1),  # 0.02
    ("done", {"start": 0.55}, 0.15, 0.1),  # 0.015
    ("done", {"start": 0.45}, 0.1, 0.1),  # 0.01
]


def made(tmp_path, trials=MADE, **changes):
    """A home with a search of such trials."""
    methods = tuple(dict.fromkeys(method for method, *_ in trials))
    spec = spec_of(name="earlier", method=methods if len(methods) > 1 else methods[0], trials=len(trials), **changes)
    home, folder = Home(tmp_path / "home"), Home(tmp_path / "home").search("earlier")
    history = History(folder)
    for number, (method, values, mean, worst) in enumerate(trials):
        history.append("start", number, params=resolve(method, values), method=method)
        if worst is None:
            history.append("end", number, state=TrialState.FAILED)
            continue
        found = {"robust_acc": mean, "natural_robust_acc": mean, "worst_class_robust_acc": worst, "clean_acc": 0.8}
        history.append("epoch", number, metrics={"epoch": 12, **found})
        history.append("end", number, state=TrialState.FINISHED)
    (folder / "spec.yaml").write_text(spec.to_yaml())
    return home


def new(**changes):
    return spec_of(**{"method": "mail", "name": "new", "warm_start": "earlier", "trials": 8, **changes})


def asked(spec, home, folder=None):
    """As the driver asks."""
    check_warm(spec, home)
    folder = folder or home.search(spec.search_name)
    first = warm_points(spec, home, folder, COUNTS)
    return AskTell(spec, History(folder), folder, warm_trials(spec, home, folder), first=first)


def starts(history):
    return [t.params for t in history.trials.values()]


def test_the_best_trials_of_another_method_come_first(tmp_path):
    """The best starts at 0.4, which is tried once; the default's 0 becomes 0.3, the least of mail's; then 0.7."""
    home, spec = made(tmp_path), new()
    optimizer = asked(spec, home)
    assert optimizer.descriptions[1] == (
        "warm start: 3 first points from the best trials of earlier (done): plain base, start"
    )
    drive(optimizer, optimizer.history, spec)
    found, default = starts(optimizer.history), resolve("mail", {})
    assert found[:4] == [default, *({**default, "start": start} for start in (0.4, 0.3, 0.7))]
    plain = AskTell(spec_of(method="mail", name="plain", trials=8), History(None))
    drive(plain, plain.history, spec)
    cold = starts(plain.history)
    assert cold[4:6] == found[4:6] and cold[1:4] != found[1:4]  # the other first points are what they were
    assert not optimizer.methods["mail"].known.values.keys() & {-1, -2, -3}  # nothing is learnt from values


def test_the_best_are_those_for_this_search(tmp_path):
    """By the class mean alone the first one is that of 0.6, and a constraint puts first those that meet it."""
    trials = [("done", {"start": 0.4}, 0.6, 0.1), ("done", {"start": 0.5}, 0.5, 0.3), ("done", {}, 0.1, 0.1)]
    home = made(tmp_path, trials, offsets="none")
    for changes, start in (
        ({"objectives": ("natural_robust_acc",)}, 0.4),
        ({}, 0.5),
        ({"constraint": ("natural_robust_acc>=0.55",)}, 0.4),
    ):
        (points,) = warm_points(new(offsets="none", **changes), home, tmp_path / str(changes), COUNTS).values()
        assert points.settings[0]["start"] == start, changes


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["none", "preview"])
@pytest.mark.parametrize("method", ["mail", ("mail", "frl", "cfol")])
def test_killed_anywhere_it_takes_over_the_same(tmp_path, scheduler, method):
    """Also where the earlier search has changed or gone meanwhile."""
    trials = [*MADE, ("trades", {"beta": 3.0}, 0.7, 0.3)]
    spec = new(method=method, scheduler=scheduler, max_epochs=9, trials=12)
    folders = [made(tmp_path / str(i), trials, scheduler="none", max_epochs=9) for i in range(2)]
    if scheduler == "preview":  # trials of an earlier search that previewed, too
        for home in folders:
            previewed(home)
    whole = asked(spec, folders[0])
    drive(whole, whole.history, spec)
    assert any("warm start: 3 first points" in line for line in whole.descriptions)
    events = len(whole.history.path.read_text().splitlines())
    for kill in range(1, events, 3 + events // 4):
        home, folder = folders[1], folders[1].root / "searches" / f"killed-{kill}"
        own = new(method=method, scheduler=scheduler, max_epochs=9, trials=12, name=folder.name)
        first = asked(own, home, folder)
        drive(first, first.history, own, until=kill)
        shutil.move(home.search("earlier"), home.root / "gone")
        again = asked(own, home, folder)
        drive(again, again.history, own)
        shutil.move(home.root / "gone", home.search("earlier"))
        assert starts(again.history) == starts(whole.history), kill
        assert not set(again.descriptions) ^ set(first.descriptions)


def previewed(home):
    """The search ``earlier``, each of whose trials has a preview."""
    folder = home.search("earlier")
    old = History(folder)
    records = list(old.trials.values())
    spec = SearchSpec.from_stored((folder / "spec.yaml").read_text())
    shutil.rmtree(folder)
    history = History(folder)
    for t in records:
        history.append("start", t.trial, params=t.params, method=t.method, preview=True)
        if t.last:
            history.append("preview", t.trial, epochs=2, metrics=t.last)
    (folder / "spec.yaml").write_text(
        SearchSpec(**{**spec.identity(), "scheduler": "preview", "name": "earlier"}).to_yaml()
    )


def test_each_of_several_methods_has_its_own(tmp_path):
    home = made(tmp_path, [*MADE, ("trades", {"beta": 3.0}, 0.7, 0.3), ("trades", {"beta": 9.0}, 0.65, 0.3)])
    spec = new(method=("trades", "frl", "cfol"), trials=12)
    optimizer = asked(spec, home)
    said = [line for line in optimizer.descriptions if "warm start" in line]
    assert said == [
        "trades: warm start: 1 first point from the best trials of earlier (trades): KL weight",
        "frl: warm start: 3 first points from the best trials of earlier (trades, done): KL weight, start",
        "cfol: warm start: nothing, earlier shares no searched coordinate",
    ]
    drive(optimizer, optimizer.history, spec)
    frl = resolve("frl", {})
    trades, frl = (starts(optimizer.history.lane(method)) for method in ("trades", "frl"))
    assert trades[:2] == [{"beta": 6.0}, {"beta": 3.0}]  # the same method's as it is
    default, start = resolve("frl", {}), {"beta": 1.5, "start": 0.4}
    assert frl[1:4] == [{**default, "beta": 3.0}, {**default, "beta": 6.0}, {**default, **start}]


def test_what_a_user_adds_or_narrows_goes_before(tmp_path):
    """A setting that somebody added is not proposed again, and none that a space narrowed since does not have."""
    home, spec = made(tmp_path), new()
    optimizer, default = asked(spec, home), resolve("mail", {})
    history = optimizer.history
    history.append("start", 0, params=default, method="mail")
    history.append("start", 1, params={**default, "start": 0.4}, method="mail", added="ada")
    again = AskTell(spec, history, first=optimizer.first).methods["mail"]
    assert again.next().trial == 0 and again.next().trial == 1  # those that were interrupted
    assert again.next().params == {**default, "start": 0.3}
    optimizer.methods["mail"].space = new(space={"start": [0.6, 0.7]}).search_space()
    assert optimizer.methods["mail"]._given()["start"] == 0.7


def test_what_users_add_takes_no_place_among_the_first_points(tmp_path):
    """They counted as first points: after five of them, what the earlier search gives was never tried."""
    home, spec = made(tmp_path), new()
    optimizer, default = asked(spec, home), resolve("mail", {})
    history, (first, *_) = optimizer.history, optimizer.first["mail"].settings
    history.append("start", 0, params=default, method="mail")
    history.append("end", 0, state="finished")
    for number in range(1, 6):
        params = {**default, "start": 0.5 + number / 100}
        history.append("add", number, params=params, method="mail", by="ada", request=str(number))
        history.append("end", number, state="finished")
    again = AskTell(spec, history, first=optimizer.first).methods["mail"].next()
    assert (again.trial, again.params) == (6, first)


@pytest.mark.parametrize(
    "changes, there, said",
    [
        ({"dataset": "mnist"}, {}, "does not fit this search: dataset 'digits' there, 'mnist' here"),
        ({"max_epochs": 11}, {}, "max_epochs 12 there, 11 here"),
        ({"scheduler": "preview"}, {}, "scheduler 'none' there, 'preview' here"),
        ({"set": {"eps": 0.2}}, {}, "was trained otherwise: eps 0.1 there, 0.2 here"),
        ({"set": {"lr": 0.2}}, {}, None),
        ({"recipe": "paper"}, {}, None),
        ({"space": {"lr": [0.01, 0.1]}, "fix": {"form": "at"}}, {}, None),
        ({"sampler": "random"}, {}, "has no effect with --sampler random"),
        (
            {"fix": {"start": 0.4, "form": "at"}},
            {},
            "shares no searched coordinate with this search: done has start there; mail has margin slope, margin bias",
        ),
        ({"method": "cfol"}, {}, "done has start there; cfol has none here"),
        ({"method": ("cfol", "srat")}, {}, None),
        ({"method": "trades"}, {"space": {"lr": [0.01, 0.1]}}, "done has start, lr there; trades has KL weight here"),
        ({"method": "trades", "space": {"lr": [0.01, 0.1]}}, {"space": {"lr": [0.01, 0.1]}}, None),
    ],
)
def test_what_another_method_may_differ_in(tmp_path, changes, there, said):
    home = made(tmp_path, **there)
    if said is None:
        check_warm(new(**changes), home)
        return
    with pytest.raises(UsageError, match=said) as refused:
        check_warm(new(**changes), home)
    assert "\n" not in str(refused.value)


def test_trials_at_the_default_setting_give_no_point(tmp_path):
    home = made(tmp_path, [("trades", {}, 0.5, 0.1)])
    optimizer = asked(new(method="wat"), home)
    said = "warm start: nothing, the best trials of earlier (trades) stand at the default setting"
    assert optimizer.descriptions[1] == said and optimizer.first["wat"].settings == []


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept["mail"]["settings"][0].update(start="late"),
        lambda kept: kept["mail"]["settings"][0].update(start=7.0),
        lambda kept: kept["mail"]["settings"][0].update(gamma=1.0),
        lambda kept: kept["mail"]["settings"].append([1]),
        lambda kept: kept["mail"].update(more=1),
        lambda kept: kept.pop("mail"),
        lambda kept: kept["mail"].update(methods=[{}]),
    ],
)
def test_points_that_were_changed_by_hand_are_refused(tmp_path, change):
    home, spec = made(tmp_path), new()
    asked(spec, home)
    path = home.search("new") / "warm-start" / "points.json"
    kept = json.loads(path.read_text())
    change(kept)
    path.write_text(json.dumps(kept))
    with pytest.raises(Failed, match="the warm start of search 'new' cannot be read: "):
        check_warm(spec, home)


def test_a_parameter_that_came_later_has_its_default(tmp_path):
    home, spec = made(tmp_path), new()
    before = asked(spec, home).first["mail"].settings
    path = home.search("new") / "warm-start" / "points.json"
    kept = json.loads(path.read_text())
    del kept["mail"]["settings"][0]["normalise"]
    path.write_text(json.dumps(kept))
    assert asked(spec, home).first["mail"].settings == before


def test_it_goes_with_a_clone_and_a_bundle(tmp_path):
    home, spec = made(tmp_path), new()
    optimizer = asked(spec, home)
    drive(optimizer, optimizer.history, spec, until=20)
    folder = home.search("new")
    (folder / "spec.yaml").write_text(spec.to_yaml())
    text = (folder / "warm-start" / "points.json").read_bytes()
    assert (clone("new", "copy", home).folder / "warm-start" / "points.json").read_bytes() == text
    theirs = Home(tmp_path / "theirs")
    assert (import_search(folder, theirs).run.folder / "warm-start" / "points.json").read_bytes() == text
    about = {
        "search": "new",
        "python": "",
        "code": "",
        "training": {},
        "data": "",
        "machine": {"device": "", "processor": ""},
    }
    names = ("spec.yaml", "history.jsonl", "warm-start/points.json")
    (tmp_path / "b.zip").write_bytes(packed_bundle(about, {}, {name: (folder / name).read_bytes() for name in names}))
    assert read_bundle(tmp_path / "b.zip").files["warm-start/points.json"] == text
    resumed = asked(spec, theirs)  # where the earlier search never was
    assert resumed.first == optimizer.first
