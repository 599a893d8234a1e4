"""Reports: tables, words, pictures and the Parquet file, from made-up histories."""

import io
import json
import re
from dataclasses import replace
from html import unescape

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.histories import curve, fill, metrics, run_of, start
from tests.test_references import finish
from tests.test_wrong_input import run as command
from tuner.home import Home
from tuner.report import figures, png, trials
from tuner.report import text as report
from tuner.report.comparison import compare_runs, sentences
from tuner.report.comparison_figures import comparison_data, comparison_png
from tuner.report.console import PlainConsole, show_result
from tuner.report.files import write_pictures
from tuner.report.gain import gains
from tuner.report.html.front_page import front_page
from tuner.report.progress import Progress
from tuner.report.reference import Reference, front_in, references_of
from tuner.results.fronts import front_of
from tuner.results.history import History
from tuner.results.pareto import Front, row_label
from tuner.results.references import paper_trial
from tuner.results.summary import front_json
from tuner.results.trial_record import NO_SEARCH
from tuner.spec.objectives import parse_constraint
from tuner.spec.search_spec import SearchSpec

OBJECTIVES = ("natural_robust_acc", "worst_class_robust_acc")


@pytest.fixture
def spec():
    return SearchSpec(max_epochs=4)


@pytest.fixture
def history(tmp_path, spec):
    return fill(History(tmp_path / "search"), spec)


def row(trial, average, worst, **params):
    return {
        "trial": trial,
        "epoch": 4,
        "natural_robust_acc": average,
        "robust_acc": average,
        "worst_class_robust_acc": worst,
        "clean_acc": 0.9,
        "params": params,
        "method": "srat",
    }


def front(*rows):
    return Front.of(rows, OBJECTIVES)


@pytest.mark.parametrize(
    "value, text",
    [
        (0.1, "0.1"),
        (0.000212, "2.1e-4"),
        (1e-5, "1e-5"),
        (12.3456, "12.3"),
        (None, "-"),
        ("ldam", "ldam"),
        (3, "3"),
        (0.0, "0"),
    ],
)
def test_values_are_short(value, text):
    assert report.value_text(value) == text


def setting(*rows):
    return Reference("paper", rows)


def no_search(*rows):
    return Reference("no_search", tuple({**r, "trial": NO_SEARCH} for r in rows))


def at(tau, trial, average, worst):
    return {**row(trial, average, worst), "offsets": {"kind": "prior", "tau": tau, "values": []}}


GAINS = [
    # (rows beside the paper's (0.50, 0.10), words that must and must not stand in the sentence)
    (
        [(1, 0.50, 0.15)],
        ["gains +0.050 worst-class robust accuracy at no loss of natural average (trial 1)", "x1.50"],
        ["nothing"],
    ),
    (
        [(1, 0.55, 0.10), (2, 0.50, 0.12)],
        [
            "+0.050 natural average robust accuracy at no loss of worst class (trial 1)",
            "+0.020 worst-class robust accuracy at no loss of natural average (trial 2)",
        ],
        [],
    ),
    (
        [(1, 0.45, 0.20)],
        ["gains nothing without a loss elsewhere", "+0.100 worst class for -0.050 natural average (trial 1)"],
        ["no finished trial is better"],
    ),
    ([(1, 0.40, 0.05)], ["gains nothing: no finished trial is better in any objective", "x1.00"], ["trade-offs"]),
]


@pytest.mark.parametrize("others, said, unsaid", GAINS)
def test_gain_says_what_was_gained_and_no_more(others, said, unsaid):
    paper = row(0, 0.50, 0.10)
    text = gains(front(paper, *(row(*o) for o in others)), [setting(paper)])
    assert text.startswith(
        "Against the paper's setting, trial 0 (natural average 0.500, worst class 0.100; val, one seed)"
    )
    assert all(part in text for part in said), text
    assert not any(part in text for part in unsaid), text


@pytest.mark.parametrize(
    "method, params, said, mark",
    [
        (
            "trades",
            {"beta": 6.0},
            "Against the paper's setting, trial 0 (natural average 0.500,",
            "0 (paper's setting)",
        ),
        (
            "trades",
            {"beta": 3.0},
            "Against the default setting (0 of 1 values published), trial 0 (",
            "0 (default setting)",
        ),
        (
            "mixup",
            {"kind": "beta", "q": 1.0},
            "Against the default setting (0 of 2 values published),",
            "0 (default setting)",
        ),
    ],
)
def test_the_first_trial_is_the_papers_only_where_its_values_are_published(method, params, said, mark):
    first = {**row(0, 0.5, 0.1, **params), "method": method}
    best = front(first, {**row(1, 0.4, 0.2, **params), "method": method})
    assert said in gains(best, [setting(first)])
    assert mark in shown(report.front_table(best, [setting(first)], tuple(params), 100))


def test_gain_without_anything_to_compare():
    assert "no trial has finished its full budget" in gains(front(), [])
    assert "nothing to compare" in gains(front(row(1, 0.5, 0.1)), [])
    assert "nothing to compare" in gains(front(row(1, 0.5, 0.1)), [setting(row(0, float("nan"), 0.1))])


def test_gain_is_over_both_references_at_their_best_offsets():
    """Boxes of plain AT: 0.7 x 0, 0.48 x 0.2 and 0.3 x 0.3; the largest is the second, though not by its sum. Its
    hypervolume is of all three: 0.48 x 0.2 + 0.3 x 0.1."""
    plain = no_search(row(0, 0.7, 0.0), at(0.5, 0, 0.48, 0.2), at(1.5, 0, 0.3, 0.3))
    paper = row(0, 0.5, 0.1)
    best = front(paper, at(0.25, 4, 0.49, 0.26))
    first, second = gains(best, [plain, setting(paper)]).splitlines()
    assert first.startswith(
        "Against no search (plain AT with offsets), @0.5 (natural average 0.480, worst class 0.200; val, one seed), "
        "the front gains +0.010 natural average robust accuracy at no loss of worst class (trial 4@0.25) and +0.060 "
        "worst-class robust accuracy at no loss of natural average (trial 4@0.25). Hypervolume 0.1284 against 0.1260 "
        "(x1.02)."
    )
    assert second.startswith("Against the paper's setting, trial 0 (") and "offers other trade-offs" in second


def test_gain_says_what_holds_beyond_these_images():
    paper, plain = row(0, 0.5, 0.1), no_search(row(0, 0.5, 0.1))
    best = front(paper, row(1, 0.5, 0.15))
    difference = {"value": 0.042, "ci": [0.01, 0.08], "verdict": "gain"}
    equal = {"value": 0.0, "ci": [-0.1, 0.1], "verdict": "not distinguishable"}
    gain = {
        "over_no_search": {"hypervolume": equal, "last": None},
        "over_paper": {"hypervolume": difference, "last": {**difference, "others": [equal], "of": "0", "by": "1@0.5"}},
    }
    first, second = gains(best, [plain, setting(paper)], {"gain": gain, "images": 989}).splitlines()
    assert first == (
        "Over no search (plain AT), on 989 images of val: the search is not distinguishable from it. "
        "No point of the search has its natural average; hypervolume +0.000 (95 %: -0.100 .. +0.100)."
    )
    assert second == (
        "Over the paper's setting, trial 0, on 989 images of val: the search adds to it. Worst class +0.042 (95 %: "
        "+0.010 .. +0.080) at no lower natural average (trial 1@0.5 against trial 0); hypervolume +0.042 (95 %: "
        "+0.010 .. +0.080)."
    )


def test_gain_does_not_compare_a_point_with_itself():
    paper, equal = row(0, 0.5, 0.1), {"value": 0.0, "ci": [-0.1, 0.1], "verdict": "not distinguishable"}
    last = {**equal, "others": [equal], "of": "0", "by": "0"}
    found = {"gain": {"over_paper": {"hypervolume": equal, "last": last}}, "images": 989}
    assert gains(front(paper), [setting(paper)], found) == (
        "Over the paper's setting, trial 0, on 989 images of val: the search is not distinguishable from it. No other "
        "point has a better worst class at no lower natural average than trial 0; hypervolume +0.000 (95 %: -0.100 .. "
        "+0.100)."
    )


def shown(table, width=100):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))
    console.print(table)
    return console.export_text()


def test_table_marks_the_default_row_on_and_off_the_front():
    first, searched = row(0, 0.5, 0.1, start=0.8), ("start", "gamma")
    text = shown(report.front_table(front(first, row(3, 0.4, 0.2, start=0.25)), [setting(first)], searched, 100))
    assert "0 (default setting)" in text and "0.25" in text and "0.500" in text and text.count("default") == 1
    assert "gamma" not in text  # no row has it
    assert "offsets" not in text and "method" not in text
    text = shown(report.front_table(front(first, row(3, 0.6, 0.2, start=0.25)), [setting(first)], searched, 100))
    assert "default setting (0)" in text


def test_table_has_offsets_and_references_below_the_front():
    plain = no_search(row(0, 0.5, 0.0), at(0.5, 0, 0.48, 0.2))
    header, cells = report.front_cells(front(at(0.75, 4, 0.6, 0.3), row(4, 0.7, 0.1)), [plain], ())
    assert header == ["trial", "offsets", "natural average", "worst class", "class mean", "clean"]
    assert [line[:4] for line in cells] == [
        ["4", "-", "0.700", "0.100"],
        ["4@0.75", "prior 0.75", "0.600", "0.300"],
        ["no search", "-", "0.500", "0.000"],
        ["no search @0.5", "prior 0.5", "0.480", "0.200"],
    ]


def test_the_class_mean_and_the_probability_stand_beside_other_objectives():
    rows = [{**row(n, 0.5, 0.1 * n), "natural_robust_acc": 0.9 - 0.1 * n, "p_front": 0.25 * n} for n in (1, 2)]
    header, cells = report.front_cells(Front.of(rows, ("natural_robust_acc", "worst_class_robust_acc")), [], ())
    assert header == ["trial", "natural average", "worst class", "class mean", "clean", "on the front"]
    assert cells == [["1", "0.800", "0.100", "0.500", "0.900", "25%"], ["2", "0.700", "0.200", "0.500", "0.900", "50%"]]


def test_a_long_front_is_printed_evenly():
    many = front(*(row(n, 0.9 - 0.01 * n, 0.01 * n) for n in range(22)))
    _, cells = report.front_cells(many, [setting(row(99, 0.1, 0.0))], ())
    even = [0, 2, 4, 6, 8, 10, 11, 13, 15, 17, 19, 21]  # multiples of 21 / 11, rounded
    assert [line[0] for line in cells] == [*map(str, even), "paper's setting (99)"]
    assert "10 more rows" in shown(report.front_table(many, [], (), 100))
    assert "more rows" not in shown(report.front_table(front(*many.rows[:12]), [], (), 100))


@pytest.mark.parametrize("curves", [False, True])
def test_table_fits_a_small_terminal_whatever_is_searched(spec, tmp_path, curves):
    result = front_json(run_of(spec, fill(History(tmp_path), spec, curves=curves)))
    best, references, searched = front_in(result, OBJECTIVES), references_of(result), spec.search_space().searched
    title, *lines = shown(report.front_table(best, references, searched, 80), 80).splitlines()
    assert {len(line) for line in lines if line} == {80} and {line[-1] for line in lines if line} <= set("┓┃┩│┤┘")
    text = "\n".join(lines)
    assert "sep_weight=0.5" in text and "one_minus_beta=1e-4" in text and "…" not in text
    assert ("% │" in text) == ("no " in text) == ("0@0.5" in text) == curves
    wide = shown(report.front_table(best, references, searched, 140), 140)
    assert ("prior 0.5" in wide) == curves and "natural average" in wide and "…" not in wide


def test_each_parameter_has_a_column_where_there_is_room():
    rows = front(row(1, 0.5, 0.1, beta=3.0, start=0.5), row(2, 0.4, 0.2, beta=2.0, start=0.25))
    assert " beta " in shown(report.front_table(rows, [], ("beta", "start"), 100), 100)
    narrow = shown(report.front_table(rows, [], ("beta", "start"), 60), 60)
    assert "beta=3" in narrow and "start=0.25" in narrow


def test_paper_row_is_the_default_setting_at_full_budget(spec, history, tmp_path):
    assert paper_trial(spec, history) == 0
    other = History(tmp_path / "other")
    start(other, spec, 0, {**spec.search_space().default(), "start": 0.3})
    other.append("epoch", 0, metrics=metrics(4, 0.5, 0.1))
    other.append("end", 0, state="finished")
    assert paper_trial(spec, other) is None


def test_parquet_has_one_row_per_front_member(spec, history, tmp_path):
    files = write_pictures(run_of(spec, history), tmp_path / "out")
    table = pq.read_table(files["front.parquet"])
    best = front_of(spec, history)
    assert table["trial"].to_pylist() == [r["trial"] for r in best.rows]
    assert {"epoch", *OBJECTIVES, "clean_acc", "param/start", "robust_acc/0", "robust_acc/3"} <= set(table.column_names)
    assert set(table["split"].to_pylist()) == {"val"} and set(table["budget"].to_pylist()) == {4}
    assert not list((tmp_path / "out").glob(".*"))  # nothing half-written stays


def test_parquet_has_offsets_and_counts(spec, tmp_path):
    history = fill(History(tmp_path / "search"), spec, curves=True)
    files = write_pictures(run_of(spec, history), tmp_path / "out")
    best, found = front_of(spec, history).rows, pq.read_table(files["front.parquet"]).to_pylist()
    assert [r["label"] for r in found] == [row_label(r) for r in best]
    assert any(r["tau"] for r in found) and {r["offsets_kind"] for r in found} == {r["offsets"]["kind"] for r in best}
    for r in found:
        points = history.trials[r["trial"]].curve.points
        (point,) = [p for p in points if p.offsets.tau == r["tau"]]
        assert [r[f"robust_count/{c}"] for c in range(4)] == list(point.robust)
        assert r["robust_acc/3"] == r["robust_count/3"] / r["count/3"] == pytest.approx(point.robust[3] / 1000)
        assert [r[f"offset/{c}"] for c in range(4)] == [r["tau"] * c for c in range(4)]


def test_parquet_says_over_how_many_seeds_its_metrics_are_means(tmp_path):
    """Its counts are those of one: beside means they gave other accuracies without a word."""
    spec, history = SearchSpec(method="wat", trials=1, seeds=2), History(None)
    finish(history, 0, (0, 300, 200), params=spec.search_space().default())
    finish(history, 1, (0, 200, 100), params=spec.search_space().default(), of=0, seed=1)
    files = write_pictures(run_of(spec, history), tmp_path)
    (row,) = pq.read_table(files["front.parquet"]).to_pylist()
    assert (row["seeds"], row["robust_acc/a"], row["robust_count/a"], row["count/a"]) == (2, 250 / 400, 300, 400)


def test_a_trial_is_a_curve_in_the_pictures(spec, tmp_path):
    history = fill(History(tmp_path / "search"), spec, curves=True)
    data = figures.picture_data(run_of(spec, history))
    finished = [t.trial for t in history.with_state("finished")]
    assert sum(p["trial"] == 1 for p in data["points"]) == 3 and sum(p["trial"] == 2 for p in data["points"]) == 1
    assert [c["trial"] for c in data["curves"]] == [t for t in finished if t != 0], "the paper's is a reference"
    assert data["members"] == [row_label(r) for r in front_of(spec, history).rows]
    assert {p["id"] for p in data["points"] if p["front"]} == set(data["members"])
    point = next(p for p in data["points"] if p["id"] == "1@0.5")
    worst = min(history.trials[1].curve.points[1].robust) / 1000
    assert point["y"] == point["values"]["worst class"] == worst
    assert "trial 1@0.5" in point["text"] and "offsets: prior 0.5" in point["text"] and "class mean: " in point["text"]
    assert point["offsets"]["values"] == {"0": 0, "1": 0.5, "2": 1.0, "3": 1.5}
    plain, paper = data["references"]
    assert (plain["long"], paper["long"]) == ("no search (plain AT with offsets)", "default setting")
    assert [p["tau"] for p in plain["points"]] == [0, 0.5, 1.0] and plain["shownName"] == "no search @1"
    assert paper["shown"]["id"] == "0"


def test_labels_do_not_cover_each_other():
    """The picture is 1 x 1; `b` is too near to `a`, and `c` to the end `d`, which comes first."""
    points = [{"id": n, "x": x, "y": y} for n, x, y in (("a", 0.9, 0.1), ("b", 0.88, 0.12), ("c", 0.5, 0.6))]
    points += [{"id": "d", "x": 0.45, "y": 0.64}, {"id": "e", "x": 0.9, "y": 0.5}]
    data = {"points": points, "range": [[0, 1], [0, 1]]}
    figures.label_points(data, ["a", "b", "c", "d"])
    assert [p["label"] for p in points] == ["a", "", "", "d", ""]
    figures.label_points(data, ["a", "b", "e", "d"])
    assert [p["label"] for p in points] == ["a", "", "", "d", "e"]


def test_a_much_worse_trial_does_not_squeeze_the_picture(spec, tmp_path):
    history = fill(History(tmp_path / "search"), spec, curves=True)
    before = figures.picture_data(run_of(spec, history))
    start(history, spec, 9, spec.search_space().resolve(lambda p: getattr(p.range, "choices", [0.3])[0]))
    history.append("epoch", 9, metrics=metrics(4, 0.02, 0.0))
    history.append("end", 9, state="finished")
    data = figures.picture_data(run_of(spec, history))
    low = data["range"][0][0]
    assert 0.1 < low < min(p["x"] for p in data["points"] if p["front"])
    assert before["note"] == "" and data["note"] == "1 of 15 points are worse than what the picture shows."
    assert data["range"][1] == pytest.approx(before["range"][1], abs=0.1)


def test_what_an_assessment_adds_is_shown(spec, tmp_path, monkeypatch):
    run = run_of(spec, fill(History(tmp_path / "search"), spec, curves=True))
    label = row_label(run.front().rows[0])
    about = {"p_front": 0.83, "ci": {"worst_class_robust_acc": [0.11, 0.33]}, "shrunk": {"robust_acc": 0.456}}
    plain = {name: value for name, value in front_json(run).items() if name not in ("band", "gain")}
    rows = [row | (about if row_label(row) == label else {}) for row in map(dict, run.front().rows)]
    found = {"value": 0.04, "ci": [0.01, 0.07], "verdict": "gain"}
    result = {
        **plain,
        "front": rows,
        "images": 40,
        "band": {"x": [0.3, 0.5], "low": [0.2, 0.1], "high": [0.3, 0.2]},
        "gain": {"over_paper": {"hypervolume": found, "last": {**found, "others": [found], "of": "0@1", "by": label}}},
    }
    monkeypatch.setattr(figures, "front_json", lambda run: result)
    data = figures.picture_data(run)
    text = next(p["text"] for p in data["points"] if p["id"] == label)
    assert "on the front with probability 83%" in text and "95 % interval 0.110 .. 0.330" in text
    assert "class mean: " in text and "expected on new images 0.456" in text
    assert data["bands"][0]["x"] == [0.3, 0.5, 0.5, 0.3] and data["bands"][0]["y"] == [0.3, 0.2, 0.1, 0.2]
    assert "on 40 images of val: the search adds to it. Worst class +0.040 (95 %: +0.010 .. +0.070)" in data["gain"]
    assert png.png(data).startswith(b"\x89PNG")


def test_without_curves_nothing_is_claimed_beyond_these_images(spec, history):
    result, data = front_json(run_of(spec, history)), figures.picture_data(run_of(spec, history))
    assert (result["band"], result["images"], result["gain"], result["hypervolume_claimed"]) == (None, None, {}, None)
    assert data["bands"] == [] and data["gain"].startswith("Against the default setting (0 of 6 values published)")
    assert not any("p_front" in row or "ci" in row for row in result["front"])


def data_of(page: str) -> dict:
    return json.loads(re.search(r'id="data">(.*)</script>', page)[1])


def test_page_shows_every_trial_and_what_defines_the_search(spec, history):
    page = front_page(figures.picture_data(run_of(spec, history)))
    data = data_of(page)
    assert sorted(p["trial"] for p in data["points"]) == list(range(6))  # the failed one never had a value
    assert {p["trial"] for p in data["points"] if p["style"] == "stopped"} == {2, 5}
    assert "cdn.plot" not in page.split("<script>")[0] and "src=" not in page.split("<script>")[0]
    for word in ("srat on digits", "exp:10", "split val", "budget 4 epochs", "eps 0.1", "1 failed"):
        assert word in page
    point = data["points"][0]
    assert "trial 0" in point["text"] and "start = 0.8" in point["text"] and "epoch 4 of 4" in point["text"]


def test_staircase_reaches_from_edge_to_edge():
    xs, ys = figures.staircase([(0.6, 0.1), (0.4, 0.3)], [[0.2, 0.7], [0.0, 0.4]])
    assert list(zip(xs, ys)) == [(0.2, 0.3), (0.4, 0.3), (0.4, 0.1), (0.6, 0.1), (0.6, 0.0)]


def test_names_cannot_break_the_page(tmp_path):
    spec = SearchSpec(max_epochs=4)
    history = fill(History(tmp_path), spec, classes=["</script><b>", "a&b", "@@PLOTLY@@"])
    page = front_page(figures.picture_data(run_of(spec, history)))
    assert page.count("</script>") == 3
    assert "</script><b>" in data_of(page)["points"][0]["robust"]


@pytest.mark.parametrize("case", ["empty", "only stopped", "nan"])
def test_pictures_are_honest_about_an_empty_front(tmp_path, spec, case):
    history = History(tmp_path / "search")
    if case != "empty":
        start(history, spec, 0, spec.search_space().default())
        value = float("nan") if case == "nan" else 0.4
        history.append("epoch", 0, metrics=metrics(4, value, 0.1))
        history.append("end", 0, state="finished" if case == "nan" else "stopped")
    files = write_pictures(run_of(spec, history), tmp_path / "out")
    assert "no trial has finished its full budget" in files["front.html"].read_text()
    assert pq.read_table(files["front.parquet"]).num_rows == 0
    assert files["front.png"].read_bytes().startswith(b"\x89PNG")
    assert "no trial has finished" in report.summary_markdown(run_of(spec, history))


@pytest.mark.slow
@pytest.mark.parametrize(
    "objectives", [("robust_acc",), ("worst_class_robust_acc",), ("robust_acc", "worst_class_robust_acc", "clean_acc")]
)
def test_any_number_of_objectives(tmp_path, objectives):
    spec = SearchSpec(max_epochs=4, objectives=objectives)
    history = fill(History(tmp_path / "search"), spec)
    files = write_pictures(run_of(spec, history), tmp_path / "out")
    page = files["front.html"].read_text()
    assert ("3 objectives" in page) == (len(objectives) == 3)
    assert data_of(page)["x"] == objectives[0] and data_of(page)["y"] != objectives[0]
    assert "Against the default setting (0 of 6 values" in report.summary_markdown(run_of(spec, history))


def test_summary_names_the_search_the_front_and_the_gain(spec, history):
    text = report.summary_markdown(run_of(spec, history))
    assert "| trial | natural average | worst class | class mean | clean |" in text
    assert (
        "Against the default setting (0 of 6 values published)" in text
        and "`one_minus_beta`" in text
        and "split val" in text
    )
    assert len(text) < 8000  # MLflow cuts longer tags


def test_parallel_coordinates_of_the_picture(tmp_path):
    """Trial 1 lies in the middle of its axes; it has no gamma and no margin, whose axes it passes below."""
    from matplotlib.figure import Figure

    spec, history = SearchSpec(max_epochs=4), History(tmp_path / "search")
    for trial, (average, worst) in enumerate([(0.4, 0.1), (0.5, 0.2), (0.6, 0.3)]):
        params = {"loss": "focal" if trial else "ce", "start": (0.2, 0.575, 0.95)[trial], "strength": float(trial)}
        start(history, spec, trial, params)
        history.append(
            "epoch",
            trial,
            metrics={"epoch": 4, "natural_robust_acc": average, "robust_acc": average, "worst_class_robust_acc": worst},
        )
        history.append("end", trial, state="finished" if trial else "stopped")
    axes, data = Figure().add_subplot(), figures.picture_data(run_of(spec, history))
    png.draw_parallel(axes, data, 0)
    names = [tick.get_text() for tick in axes.get_xticklabels()]
    lines = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == len(names)]
    assert len(lines) == 2, "a trial that was stopped is drawn"
    assert names[-2:] == list(OBJECTIVES) and {"loss", "start", "gamma", "max_margin"} <= set(names)
    found = dict(zip(names, lines[0]))
    assert found["start"] == found["strength"] == found["loss"] == pytest.approx(0.5)
    assert found["gamma"] == found["max_margin"] < 0 and found["natural_robust_acc"] == pytest.approx(0.5)


def test_a_trial_on_the_front_twice_shows_its_parameters_once():
    params = dict.fromkeys("abcdef", 1)
    rows = [at(tau, 4, 0.6 - 0.1 * tau, 0.1 + 0.1 * tau) | {"params": params} for tau in (0, 0.5)]
    _, cells = report.front_cells(front(*rows, {**row(5, 0.2, 0.5), "params": params}), [], tuple("abcdef"))
    assert [line[-1] for line in cells] == ["a=1 b=1 c=1 d=1 e=1 f=1", "as 4", "a=1 b=1 c=1 d=1 e=1 f=1"]


def test_an_answer_that_is_off_the_front_says_so():
    """A bound on what is no objective may pick one; `--pick` takes none of them."""
    best, other = row(4, 0.6, 0.3), row(5, 0.5, 0.2)
    bound = parse_constraint("clean_acc>=0.1")
    assert "trial 5, not on the front (on val: " in report.kept_text(other, bound, front(best))
    assert "trial 4 (on val: " in report.kept_text(best, bound, front(best))


AT = [
    ("worst_class_robust_acc>=0.15", "1@0.5"),
    ("worst_class_robust_acc>=0.2", "1@1"),
    ("worst_class_robust_acc<=0.2", "1"),
    ("natural_robust_acc>=0.58", "1@0.5"),  # it is bounded, so the worst class counts
    ("robust_acc>=0.535", "1"),  # no objective: the first counts
    ("robust_acc_gap<=0.5", "2"),
]


@pytest.mark.parametrize("constraint, label", AT)
def test_the_cheapest_point_that_keeps_a_constraint(tmp_path, spec, constraint, label, capsys, monkeypatch):
    """Natural average, class mean and worst class over tau 0, 0.5 and 1 (see `curve`; 80, 70, 60 and 50 of 260 training
    images): of trial 0 (0.551, 0.5, 0.1), (0.531, 0.49, 0.17) and (0.511, 0.48, 0.24); of trial 1 (0.608, 0.55, 0.1),
    (0.586, 0.54, 0.18) and (0.565, 0.53, 0.26). Trial 2 has no curve: 0.589, 0.5, 0.147. Trial 3 is better but was
    stopped. Gaps: 0.8, 0.64, 0.48; 0.9, 0.72, 0.54; 0.35."""
    home = Home(tmp_path)
    history = History(home.search("s"))
    (tmp_path / "searches" / "s").mkdir(parents=True)
    (tmp_path / "searches" / "s" / "spec.yaml").write_text(spec.to_yaml())
    for trial, (mean, worst, state) in enumerate(
        [(0.5, 0.1, "finished"), (0.55, 0.1, "finished"), (0.5, 0.15, "finished"), (0.9, 0.8, "stopped")]
    ):
        start(history, spec, trial, spec.search_space().default())
        history.append("epoch", trial, metrics={**metrics(4, mean, worst), "robust_acc": mean})
        if trial < 2:
            history.append("curve", trial, curve=curve(mean, worst))
        history.append("end", trial, state=state)
    code, out, err = command(capsys, monkeypatch, "front", "s", "--at", constraint, "--home", tmp_path, "--json")
    assert code == 0, err
    assert row_label(json.loads(out)[0]["at"]) == label
    code, out, err = command(capsys, monkeypatch, "front", "s", "--at", constraint, "--home", tmp_path)
    assert code == 0 and out.startswith(f"s, {constraint}: trial {label}")
    assert "(on val: " in out and "class mean" in out
    code, out, err = command(capsys, monkeypatch, "front", "s", "--at", "clean_acc>=0.99", "--home", tmp_path)
    assert (code, out) == (1, "")
    assert err == "Error: no finished trial of s has clean_acc>=0.99, with any of its offsets\n"
    code, out, err = command(capsys, monkeypatch, "front", "s", "--at", "clean_acc>=2", "--home", tmp_path)
    assert code == 2 and "--at 'clean_acc>=2' is not allowed: clean_acc is a share from 0 to 1" in err


def test_a_front_that_the_constraints_left_empty_is_no_unfinished_search(tmp_path, capsys, monkeypatch):
    """In the terminal, on the page, in MLflow, and where a point of it is asked for."""
    spec = SearchSpec(max_epochs=4, name="s", constraint=("clean_acc>=0.999",))
    home = Home(tmp_path)
    folder = home.search("s")
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(spec.to_yaml())
    run = run_of(spec, fill(History(folder), spec, curves=True), home, "s")
    said = "no trial that has finished its full budget satisfies the constraints (clean_acc>=0.999)."
    assert said in report.summary_markdown(run).replace("\\", "")
    assert said in unescape(write_pictures(run, tmp_path / "out")["front.html"].read_text())
    code, out, _ = command(capsys, monkeypatch, "front", "s", "--home", tmp_path)
    assert code == 0 and said in out
    for asked in (["verify", "s"], ["export", "s", "--pick", "knee", "--to", tmp_path / "model"]):
        code, _, err = command(capsys, monkeypatch, *asked, "--home", tmp_path)
        assert code == 2 and "has finished its full budget satisfies the constraints" in err and "resume" not in err
    code, _, err = command(capsys, monkeypatch, "front", "s", "--at", "clean_acc>=0.01", "--home", tmp_path)
    assert code == 1 and "has clean_acc>=0.01 and satisfies the search's constraints, with any of its offsets" in err


def test_a_constraint_is_named_wherever_a_front_is_shown(tmp_path, capsys, monkeypatch):
    """Models that violate it are drawn too, some better in both objectives than the front: the legend denied that."""
    spec = SearchSpec(method="wat", trials=2, max_epochs=4, name="s", constraint=("clean_acc>=0.8",))
    home, default = Home(tmp_path), spec.search_space().default()
    (folder := home.search("s")).mkdir(parents=True)
    (folder / "spec.yaml").write_text(spec.to_yaml())
    history = History(folder)
    for trial, (mean, worst, clean) in enumerate([(0.4, 0.2, 0.9), (0.5, 0.3, 0.7)]):
        start(history, spec, trial, default)
        history.append("epoch", trial, metrics={**metrics(4, mean, worst), "clean_acc": clean})
        history.append("end", trial, state="finished")
    run, bound = run_of(spec, history, home, "s"), "clean_acc>=0.8"
    data = figures.picture_data(run)
    assert data["members"] == ["0"] and data["line"].count(f"constraint {bound}") == 1
    assert data["styles"]["front"]["name"].startswith("Pareto front: no other model that satisfies the constraints")
    plain = figures.picture_data(run_of(replace(spec, constraint=()), history, home, "s"))
    assert "no other model of the search" in plain["styles"]["front"]["name"] and "constraint" not in plain["line"]
    texts = {p["id"]: p["text"] for p in data["points"]}
    assert "(full budget, violates the constraints" in texts["1"] and "(on the front, " in texts["0"]
    assert not any("violates" in p["text"] for p in plain["points"])
    assert f"constraint {bound}" in report.summary_markdown(run).replace("\\", "")
    assert front_json(run)["constraint"] == [bound] and "constraint" not in front_json(run_of(SearchSpec(), history))
    code, out, _ = command(capsys, monkeypatch, "front", "s", "--home", tmp_path)
    assert code == 0 and f"Pareto front on val with {bound}" in out
    console = PlainConsole(file=io.StringIO(), width=140)
    console.print(trials.view(run, "stopped", 140))
    assert f"Pareto front on val with {bound}" in console.file.getvalue()
    assert f"Of s only models with {bound} are on a front." in sentences(compare_runs([run]))


def test_trials_that_are_judged_by_attacks_of_their_own_gain_nothing(spec, capsys):
    """A smaller radius is no better method: not in what a search says, in its result, nor when it is verified."""
    own = SearchSpec(max_epochs=4, space={"eps": [0.01, 0.02]})
    assert "a weaker one looks like a better trial" in "".join(own.notes) and not spec.own_attacks
    run = run_of(own, fill(History(None), own, curves=True))
    assert front_json(run)["gain"] == {} and front_json(run)["own_attacks"] == ["eps"]
    said = "Nothing is compared with the references: the search varies eps"
    assert said in report.summary_markdown(run) and said in figures.picture_data(run)["gain"]
    assert said not in report.summary_markdown(run_of(spec, fill(History(None), spec, curves=True)))
    Progress(run).search_started(run)
    assert "eps searched\n" in capsys.readouterr().err


def test_where_plain_at_is_searched_its_first_trial_is_the_one_reference(tmp_path):
    spec = SearchSpec(method="at", max_epochs=4)
    result = front_json(run_of(spec, fill(History(tmp_path), spec, trials=1, failed=False)))
    assert [(r.role, r.plain["trial"], r.name) for r in references_of(result)] == [("no_search", 0, "no search")]
    text = gains(front_in(result, spec.objectives), references_of(result))
    assert text.startswith("Against no search (plain AT), trial 0 (natural average") and "\n" not in text


def test_axes_hold_what_trials_have_beyond_the_searched_ranges():
    """The default setting of a search whose ranges leave it out, and a setting that a user added."""
    narrowed = {"loss": ["focal", "ldam"], "start": [0.3, 0.5], "clip_grad": {"low": 0.5, "high": 5.0, "log": True}}
    spec = SearchSpec(max_epochs=4, space=narrowed)
    history = fill(History(None), spec, failed=False)
    history.append("add", 6, params=history.trials[1].params | {"start": 0.2}, method="srat", seed=0, by="ada")
    run = run_of(spec, history)
    axes = {axis["name"]: axis for axis in figures.picture_data(run)["methods"][0]["searched"]}
    assert axes["loss"]["ticks"] == [["focal", "focal"], ["ldam", "ldam"], ["ce", "ce"]]
    assert axes["loss"]["range"] == [-0.5, 2.5]
    assert axes["start"]["range"][0] < 0.2 < 0.8 < axes["start"]["range"][1]
    assert history.trials[0].params["clip_grad"] == 0.0
    assert not axes["clip_grad"]["log"] and axes["clip_grad"]["range"][0] < 0.0, "0 has no place on a logarithmic axis"
    assert axes["sep_weight"]["log"]
    other = run_of(SearchSpec(max_epochs=4, seed=1), fill(History(None), spec), name="other")
    both = compare_runs([run, other])
    assert comparison_png(both, comparison_data(both)).startswith(b"\x89PNG")


def test_what_is_told_at_the_end_adds_up_and_says_of_which_images_it_is(spec, tmp_path, capsys):
    """Trials that a user skipped, or asked to be tried again, were in no count; the values of an epoch stood beside
    those of the table, which are of all of val."""
    history = fill(History(None), spec, curves=True)
    history.append("start", 7, params=history.trials[1].params, method="srat", seed=0)
    history.append("skip", 7, by="ada", request="1")
    history.append("retry", 6, by="ada", request="2")
    apart = {"trial": 0, "best_epoch": 2, "objectives": {"robust_acc": [0.6, 0.4]}}
    result = front_json(run_of(spec, history)) | {"epochs_trained": 9, "wall_s": 3.0, "parted": [apart]}
    show_result(result, spec, Home(tmp_path), as_json=False)
    said = capsys.readouterr().out
    assert "untouched" not in said, "which tuner verify may have opened since"
    assert "4 in full, 0 previewed, 2 stopped, 0 failed, 1 waiting, 1 skipped; 9 epochs in 3 s" in said
    assert (
        "on the images of val that judge every epoch: trial 0 at epoch 2 (class mean 0.600, at the end 0.400)" in said
    )


@pytest.mark.parametrize(
    "spent, larger",
    [
        ("40epochs", " --budget 80epochs"),
        ("1.5gpu-h", " --budget 3gpu-h"),
        ("15epochs", " --budget 50epochs"),
        ("1500000epochs", " --budget 3000000epochs"),
        (None, ""),
    ],
)
def test_how_to_go_on_names_more_where_the_budget_is_spent(spent, larger, tmp_path, capsys):
    """The command that was shown trained nothing, and showed itself again."""
    spec = SearchSpec(method="trades", name="s", trials=9)
    result = front_json(run_of(spec, fill(History(None), spec))) | {"epochs_trained": 9, "wall_s": 3.0}
    result |= {"bill": {"epochs": 14, "max_epochs": 36}} | ({"spent": spent} if spent else {})
    show_result(result, spec, Home(tmp_path), as_json=False)
    assert f"go on     tuner resume s{larger} --home" in capsys.readouterr().out
