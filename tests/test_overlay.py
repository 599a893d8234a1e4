"""Several searches against each other; every figure here is worked out by hand."""

import io
import json
import re

import pyarrow.parquet as pq
import pytest

from tests.browser import MISSING, Browser
from tests.histories import curve, fill, run_of, start
from tests.test_wrong_input import run
from tuner.errors import UsageError
from tuner.home import Home
from tuner.report.comparison import attained, cells, compare, compare_runs, sentences
from tuner.report.files import trials_parquet
from tuner.results.history import History
from tuner.results.pareto import Front, row_label
from tuner.results.searches import load_search
from tuner.spec.search_spec import SearchSpec

# name -> (what differs in the spec, (average, worst class) of its trials of full budget)
SEARCHES = {
    "a0": ({}, [(0.6, 0.2), (0.5, 0.3)]),
    "a1": ({"seed": 1}, [(0.7, 0.12), (0.5, 0.3)]),
    "b": ({"method": "mail"}, [(0.4, 0.4), (0.55, 0.25), (0.3, 0.3)]),
}
HELD = {"srat": [(0.4, 0.5), (0.55, 0.7)], "mail": [(0.0, 0.4), (0.5, 0.55)]}


def metrics(average, worst):
    return {
        "epoch": 4,
        "natural_robust_acc": average,
        "robust_acc": average,
        "worst_class_robust_acc": worst,
        "clean_acc": 0.9,
        "robust_acc/cat": worst,
        "robust_acc/dog": min(2 * average - worst, 1.0),
    }


def made(home, name, points, **fields):
    """A search as a driver leaves it, with one more trial that was stopped early at an enviable value."""
    spec = SearchSpec(**{"max_epochs": 4, "trials": len(points) + 1, "name": name, **fields})
    folder = home.search(name)
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(spec.to_yaml())
    history = History(folder)
    for trial, point in enumerate([*points, (0.99, 0.99)]):
        start(history, spec.lanes[0], trial, spec.lanes[0].search_space().default())
        history.append("epoch", trial, metrics={**metrics(*point), "epoch": 4 if trial < len(points) else 2})
        history.append("end", trial, state="finished" if trial < len(points) else "stopped")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    for name, (fields, points) in SEARCHES.items():
        made(home, name, points, **fields)
    made(home, "empty", [])
    return home


def compared(home, *names):
    return compare(*names, home=home)


def test_who_holds_what_of_the_combined_front(home):
    """Combined: (0.7, 0.12) a1, (0.6, 0.2) a0, (0.55, 0.25) b, (0.5, 0.3) a0 and a1, (0.4, 0.4) b."""
    found = compared(home, "a0", "a1", "b")
    assert [(r["search"], r["trial"]) for r in found.combined] == [
        ("a1", 0),
        ("a0", 0),
        ("b", 1),
        ("a0", 1),
        ("a1", 1),
        ("b", 0),
    ]
    assert found.hypervolume == pytest.approx(0.7 * 0.12 + 0.6 * 0.08 + 0.55 * 0.05 + 0.5 * 0.05 + 0.4 * 0.1)
    assert {g.label: g.holds for g in found.groups} == HELD
    srat, mail = found.groups
    assert srat.hypervolumes == pytest.approx([0.6 * 0.2 + 0.5 * 0.1, 0.7 * 0.12 + 0.5 * 0.18])
    # without srat: (0.55, 0.25) and (0.4, 0.4); without mail: (0.7, 0.12), (0.6, 0.2), (0.5, 0.3)
    assert srat.exclusive_hypervolume == pytest.approx(0.2245 - (0.55 * 0.25 + 0.4 * 0.15))
    assert mail.exclusive_hypervolume == pytest.approx(0.2245 - (0.7 * 0.12 + 0.6 * 0.08 + 0.5 * 0.1))


def test_seeds_are_one_method_with_a_spread(home):
    header, rows = cells(compared(home, "a0", "a1", "b"))
    assert rows[0][:3] == ["srat", "a0, a1", "0.1720 ± 0.0028"] and rows[1][2] == "0.1975"
    assert rows[0][header.index("holds (natural average)")] == "0.400 .. 0.500, 0.550 .. 0.700"
    said = " ".join(sentences(compared(home, "a0", "a1", "b")))
    assert "reference point (0, 0)" in said and "standard deviation over seeds" in said and "split val" in said
    assert "different seeds" in said and "different seeds" not in " ".join(sentences(compared(home, "a0", "b")))


def test_a_search_of_the_same_seed_is_no_other_seed(tmp_path):
    """A clone goes its own way, and its front says nothing of how far seeds spread."""
    home = Home(tmp_path)
    made(home, "x", [(0.5, 0.1)])
    made(home, "clone", [(0.5, 0.1), (0.4, 0.2)], trials=2)
    made(home, "other", [(0.4, 0.3)], seed=1, trials=2)
    found = compared(home, "x", "clone", "other")
    assert [(g.label, [s.name for s in g.searches]) for g in found.groups] == [
        ("srat (x)", ["x", "other"]),
        ("srat (clone)", ["clone"]),
    ]
    assert "over seeds" not in " ".join(sentences(compared(home, "x", "clone")))


def test_searches_that_judge_by_half_of_val_are_told_from_those_that_judge_by_all(tmp_path):
    """`--offsets classes` fits them on the other half."""
    home = Home(tmp_path)
    for name, offsets, count in (("x", "none", 20), ("y", "classes", 10), ("z", "prior", 20)):
        made(home, name, [(0.5, 0.2)], offsets=offsets)
        judged = {"offsets": {"kind": "none", "tau": 0, "values": []}, "count": [count] * 2, "clean": [9] * 2}
        of = {"classes": ["cat", "dog"], "train_counts": [40, 9], "points": [{**judged, "robust": [5, 2]}]}
        History(home.search(name)).append("curve", 0, curve=of)
    assert "judged on 20 and 40 images of val" in " ".join(sentences(compared(home, "x", "y")))
    assert "judged on" not in " ".join(sentences(compared(home, "x", "z")))


def test_the_knee_that_a_comparison_shows_is_the_one_that_is_tested_and_exported():
    """The classes at each method's knee: that of the values as measured is another one here."""
    spec, history = SearchSpec(method="srat", trials=3, max_epochs=4), History(None)
    for trial, robust in enumerate(([10, 12, 14, 5], [6, 14, 8, 5], [9, 12, 10, 12])):
        start(history, spec, trial, spec.search_space().default() | {"start": 0.3 + 0.1 * trial})
        history.append("epoch", trial, metrics={"epoch": 4})
        point = {"offsets": {"kind": "none", "tau": 0, "values": []}, "count": [20] * 4, "clean": [20] * 4}
        of = {"classes": list("abcd"), "train_counts": [80, 40, 20, 10], "points": [{**point, "robust": robust}]}
        history.append("curve", trial, curve=of)
        history.append("end", trial, state="finished")
    search = run_of(spec, history)
    (shown,) = compare_runs([search]).groups[0].searches
    assert shown.front.knee()["trial"] == search.assessed_front().knee()["trial"] == 2
    assert search.front().knee()["trial"] == 0


def test_attainment_by_hand():
    """Fronts that cross: two of three attain what lies under the second of their heights at every average."""
    fronts = [[(0.6, 0.2), (0.5, 0.3)], [(0.7, 0.1), (0.5, 0.35)], [(0.55, 0.4)]]
    assert attained(fronts, 1) == [(0.55, 0.4), (0.6, 0.2), (0.7, 0.1)]
    assert attained(fronts, 2) == [(0.5, 0.35), (0.55, 0.2), (0.6, 0.1)]
    assert attained(fronts, 3) == [(0.5, 0.3), (0.55, 0.1)]
    assert attained([[(0.5, 0.3)], []], 2) == []  # a seed that finished nothing attains nothing


def test_two_settings_of_one_method_are_told_apart(home, tmp_path):
    other = Home(tmp_path)
    made(other, "x", [(0.5, 0.1)])
    made(other, "y", [(0.4, 0.2)], fix={"start": 0.5})
    made(other, "both", [(0.5, 0.3)], method=("srat", "mail"), trials=4)
    assert [g.label for g in compared(other, "x", "y").groups] == ["srat (x)", "srat (y)"]
    assert [g.label for g in compared(other, "both").groups] == ["srat", "mail"]


def test_three_objectives_have_no_stairs(tmp_path):
    home, three = Home(tmp_path), ("robust_acc", "worst_class_robust_acc", "clean_acc")
    for name, method, points in (("x", "srat", [(0.5, 0.1)]), ("y", "mail", [(0.4, 0.2)])):
        made(home, name, points, method=method, objectives=three)
    found = compared(home, "x", "y")
    assert found.hypervolume == pytest.approx(0.9 * (0.5 * 0.1 + 0.4 * 0.1)) and len(cells(found)[0]) == 5


def test_a_search_without_results_holds_nothing(home):
    found = compared(home, "a0", "empty")
    assert found.groups[1].hypervolumes == [0.0] and cells(found)[1][1][3:] == ["0.0000", "-", "-"]
    assert isinstance(found.groups[1].searches[0][3], Front)


def test_searches_that_vary_what_judges_them_are_not_compared(tmp_path):
    home = Home(tmp_path)
    for name in "xy":
        made(home, name, [(0.5, 0.1)], space={"eps": [0.05, 0.1]})
    with pytest.raises(UsageError, match="search 'x' cannot be overlaid: it varies eps"):
        compared(home, "x", "y")
    assert compared(home, "x").groups


@pytest.mark.parametrize(
    "fields, part",
    [
        ({"imbalance": "step:10"}, "imbalance 'exp:10' and 'step:10'"),
        ({"dataset": "cifar10"}, "dataset"),
        ({"objectives": ("robust_acc", "clean_acc")}, "objectives"),
        ({"set": {"eps": 0.05}}, "eps 0.1 and 0.05"),
        ({"threat": "l2:0.1"}, "threat model 'linf' and 'l2'"),
        ({"set": {"eval_attack": 3}}, "attack steps"),
    ],
)
def test_what_cannot_be_compared_is_refused(home, tmp_path, capsys, monkeypatch, fields, part):
    other = Home(tmp_path)
    made(other, "x", [(0.5, 0.1)])
    made(other, "y", [(0.5, 0.1)], **fields)
    code, out, _ = run(
        capsys, monkeypatch, "front", "x", "y", "--html", tmp_path / "p.html", "--json", "--home", tmp_path
    )
    error = json.loads(out)["error"]
    assert code == 2 and "searches 'x' and 'y' cannot be overlaid" in error and part in error and "\n" not in error
    assert not (tmp_path / "p.html").exists()


@pytest.mark.slow
def test_files_that_cannot_be_written(home, capsys, monkeypatch, tmp_path):
    for where, part in ((tmp_path, "is a folder"), ("/proc/nowhere/x.png", "cannot be written")):
        code, out, _ = run(capsys, monkeypatch, "front", "a0", "b", "--png", where, "--json", "--home", home.root)
        assert code == 2 and part in json.loads(out)["error"]
    with pytest.raises(UsageError, match="did you mean"):
        load_search(home, "a2")


@pytest.fixture(scope="module")
def written(home, tmp_path_factory):
    """(page, picture, table, what was printed) of one overlay through the command line."""
    from tests.conftest import tuner

    out = tmp_path_factory.mktemp("out")
    files = [out / "page.html", out / "picture.png", out / "trials.parquet"]
    done = tuner(
        "front",
        "a0",
        "a1",
        "b",
        "--html",
        files[0],
        "--png",
        files[1],
        "--parquet",
        files[2],
        "--json",
        "--home",
        home.root,
    )
    assert done.returncode == 0, done.stderr
    return *files, json.loads(done.stdout)


def test_json_and_files(written):
    page, picture, table, said = written
    assert [s["search"] for s in said] == ["a0", "a1", "b"] and said[0]["hypervolume"] == pytest.approx(0.17)
    assert said[1]["reference"] == [0, 0] and said[1]["split"] == "val"
    (mine,) = said[1]["overlay"]["methods"]
    assert (mine["method"], mine["seed"], mine["on_combined_front"]) == ("srat", 1, [0, 1])
    assert mine["holds"] == [list(part) for part in HELD["srat"]]
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = pq.read_table(table).to_pydict()
    assert len(rows["search"]) == 3 + 3 + 4 and set(rows["method"]) == {"srat", "mail"}
    assert {"trial", "state", "epoch", "robust_acc", "param/slope", "param/sep_weight"} <= set(rows)
    assert [p.name for p in page.parent.iterdir() if p.name.startswith(".")] == []


def test_the_table_holds_a_parameter_that_is_text_in_one_search_and_a_number_in_another():
    """A choice of a plug-in's method, such as auto or 4, where a search has tried one of them alone."""
    runs = []
    for name, value in (("a", "auto"), ("b", 4), ("c", None)):
        spec, history = SearchSpec(method="mail", trials=1, name=name), History(None)
        start(history, spec, 0, {"steps": value})
        history.append("epoch", 0, metrics=metrics(0.5, 0.2))
        runs.append(run_of(spec, history))
    rows = pq.read_table(io.BytesIO(trials_parquet(runs))).to_pydict()
    assert list(rows)[:2] == ["search", "trial"] and rows["param/steps"] == ["auto", "4", None]
    assert rows["robust_acc"] == [0.5] * 3


def test_other_libraries_read_the_table_as_it_is(written):
    import duckdb
    import pandas
    import polars

    path, best = str(written[2]), [("b", 0.4), ("a0", 0.3), ("a1", 0.3)]
    frames = [pandas.read_parquet(path), polars.read_parquet(path).to_pandas(), duckdb.sql(f"FROM '{path}'").df()]
    for frame in frames:
        full = frame[frame.state == "finished"]
        assert len(frame) == 10 and sorted(full.groupby("search").worst_class_robust_acc.max().items()) == sorted(best)


def test_the_terminal_table(home, capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "front", "a0", "b", "--home", home.root)
    assert code == 0 and "Methods on val" in out and "Combined front" in out and "0.550 .. 0.600" in out


@pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(written, width):
    with Browser(width, 844) as browser:
        browser.open(written[0].as_uri())
        browser.wait("document.querySelectorAll('#params .main-svg').length >= 9")
        front = "document.getElementById('front')"
        stairs = browser.js(f"return {front}.data.filter(t => t.meta === 'staircase').map(t => [t.name, t.line.dash])")
        assert stairs == [["srat: attained by 2 of 2 seeds (band: 1 to 2)", "solid"], ["mail: attained", "dash"]]
        assert browser.js(f"return {front}.data.filter(t => t.meta === 'band').length") == 1
        symbols = browser.js(f"return {front}.data.filter(t => /front/.test(t.meta)).map(t => t.marker.symbol)")
        assert len(set(symbols)) == 2, "told apart without colour too"
        assert browser.js("return D.points.length") == 7, "what was stopped early is not compared"
        text = browser.js("return document.body.innerText")
        assert "split val" in text and "budget 4 epochs" in text and "0.1720 ± 0.0028" in text
        titles = browser.js("return [...document.querySelectorAll('.xtitle, .ytitle')].map(e => e.textContent)")
        assert sum("(fraction)" in t for t in titles) >= 3 and any("on val" in t for t in titles)
        assert browser.js("return document.documentElement.scrollWidth") <= width
        choose(browser, "trial", "b 1")
        bars = browser.wait(
            "(g => g.data[0].name === 'trial b 1' && g.data.map(t => [t.x, t.y]))(document.getElementById('classes'))"
        )
        assert bars[0] == [["cat", "dog"], pytest.approx([0.25, 0.85])]
        choose(browser, "method", "1")
        names = browser.wait(
            "(t => t.length && t)([...document.querySelectorAll('#params .xtitle')].map(e => e.textContent))"
        )
        assert "slope" in names and "sep_weight" not in names
        dimensions = browser.js("return document.getElementById('parallel').data[0].dimensions.map(d => d.label)")
        assert dimensions == [*names, "natural_robust_acc", "worst_class_robust_acc"]
        assert browser.js("return performance.getEntriesByType('resource').length") == 0 and browser.errors() == []


def choose(browser, place, value):
    browser.js("const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.onchange()", place, value)


def test_names_cannot_break_the_page(tmp_path):
    from tuner.report.comparison_figures import comparison_data
    from tuner.report.html.front_page import front_page

    home = Home(tmp_path)
    for name, method in (("x", "srat"), ("y", "mail")):
        made(home, name, [(0.5, 0.1)], method=method, model="cnn")
    page = front_page(comparison_data(compared(home, "x", "y")))
    assert page.count("</script>") == 3 and not re.search("@@(GAIN|NOTE|TABLE|DATA|SCRIPT)@@", page)


def test_one_search_of_several_methods_says_what_it_gained_too(tmp_path, capsys, monkeypatch):
    home = Home(tmp_path)
    spec = SearchSpec(max_epochs=4, trials=2, name="two", method=["srat", "mail"])
    home.search("two").mkdir(parents=True)
    (home.search("two") / "spec.yaml").write_text(spec.to_yaml())
    fill(History(home.search("two")), spec.lanes[0], classes=("cat", "dog"), curves=True, failed=False)
    code, out, err = run(capsys, monkeypatch, "front", "two", "--home", tmp_path, "--html", tmp_path / "two.html")
    assert code == 0, err
    assert out.startswith("two (") and "Over no search (plain AT with offsets), on 2000 images of val" in out
    assert out.index("Over no search") < out.index("Methods on val") < out.index("mail: 0 trials")
    assert "Over no search (plain AT with offsets), on 2000" in (tmp_path / "two.html").read_text()


def test_points_of_curves_are_compared(tmp_path, capsys, monkeypatch):
    """x's classes have 80 and 70 training images and robust accuracies of 0.9 and 0.1, with offsets 0.81 and 0.17, 0.72
    and 0.24 (see `tests.histories.curve`): natural averages of 79 / 150, 76.7 / 150 and 74.4 / 150 = 0.496. y has
    (0.505, 0.2)."""
    home = Home(tmp_path)
    made(home, "y", [(0.505, 0.2)], method="mail")
    made(home, "x", [])
    spec, history = SearchSpec(max_epochs=4, trials=1, name="x"), History(home.search("x"))
    start(history, spec, 1, spec.lanes[0].search_space().default())
    history.append("epoch", 1, metrics=metrics(0.5, 0.1))
    history.append("curve", 1, curve=curve(0.5, 0.1, ("cat", "dog")))
    history.append("end", 1, state="finished")
    found = compared(home, "x", "y")
    assert [(r["search"], row_label(r)) for r in found.combined] == [
        ("x", "1"),
        ("x", "1@0.5"),
        ("y", "0"),
        ("x", "1@1"),
    ]
    assert cells(found)[1][0][-1] == "x 1, x 1@0.5, x 1@1"
    assert found.groups[1].exclusive_hypervolume == pytest.approx((0.505 - 0.496) * (0.2 - 0.17))
    code, out, err = run(
        capsys, monkeypatch, "front", "x", "y", "--home", tmp_path, "--json", "--html", tmp_path / "c.html"
    )
    assert code == 0, err
    methods = [r["overlay"]["methods"][0] for r in json.loads(out)]
    assert methods[0]["on_combined_front"] == [1]
    assert methods[0]["rows_on_combined_front"] == ["1", "1@0.5", "1@1"]
    data = json.loads(re.search(r'id="data">(.*)</script>', (tmp_path / "c.html").read_text())[1])
    assert data["members"] == ["x 1", "x 1@0.5", "y 0", "x 1@1"]
    knee = next(p for p in data["points"] if p["id"] == "x 1@1")
    assert knee["front"] and knee["robust"] == {"cat": 0.72, "dog": 0.24}
