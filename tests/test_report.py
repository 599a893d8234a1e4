"""Reports: tables, words, pictures and the Parquet file, from made-up histories."""

import json
import re

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.histories import fill, metrics, run_of, start
from tuner.report import figures, png
from tuner.report import text as report
from tuner.report.files import write_pictures
from tuner.report.html.front_page import front_page
from tuner.results.fronts import front_of
from tuner.results.history import History
from tuner.results.pareto import Front
from tuner.results.references import paper_row
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
    text = report.gain(front(paper, *(row(*o) for o in others)), paper)
    assert all(part in text for part in said), text
    assert not any(part in text for part in unsaid), text
    assert "val, one seed" in text


@pytest.mark.parametrize(
    "method, params, said, mark",
    [
        ("trades", {"beta": 6.0}, "Against the paper's setting, trial 0 (natural average 0.500,", "0 (paper)"),
        ("trades", {"beta": 3.0}, "Against the default setting (0 of 1 values published), trial 0 (", "0 (default)"),
        ("mixup", {"kind": "beta", "q": 1.0}, "Against the default setting (0 of 2 values published),", "0 (default)"),
    ],
)
def test_the_first_trial_is_the_papers_only_where_its_values_are_published(method, params, said, mark):
    first = {**row(0, 0.5, 0.1, **params), "method": method}
    best = front(first, {**row(1, 0.4, 0.2, **params), "method": method})
    assert said in report.gain(best, first)
    assert mark in shown(report.front_table(best, first, tuple(params)))


def test_gain_without_anything_to_compare():
    assert "no trial has finished its full budget" in report.gain(front(), None)
    assert "nothing to compare" in report.gain(front(row(1, 0.5, 0.1)), None)


def shown(table, width=100):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))
    console.print(table)
    return console.export_text()


def test_table_marks_the_default_row_on_and_off_the_front():
    paper = row(0, 0.5, 0.1, start=0.8)
    text = shown(report.front_table(front(paper, row(3, 0.4, 0.2, start=0.25)), paper, ("start", "gamma")))
    assert "0 (default)" in text and "0.25" in text and "0.500" in text
    assert "gamma" not in text  # no row has it
    text = shown(report.front_table(front(paper, row(3, 0.6, 0.2, start=0.25)), paper, ("start",)))
    assert "0 (default, off the front)" in text


def test_table_fits_a_small_terminal_whatever_is_searched(spec, history):
    searched = spec.search_space().searched
    table = report.front_table(front_of(spec, history), paper_row(spec, history), searched)
    text = shown(table, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "0.5" in text and "one_minus_beta=1e-4" in text and "…" not in text


def test_paper_row_is_the_default_setting_at_full_budget(spec, history, tmp_path):
    assert paper_row(spec, history)["trial"] == 0
    other = History(tmp_path / "other")
    start(other, spec, 0, {**spec.search_space().default(), "start": 0.3})
    other.append("epoch", 0, metrics=metrics(4, 0.5, 0.1))
    other.append("end", 0, state="finished")
    assert paper_row(spec, other) is None


def test_parquet_has_one_row_per_front_member(spec, history, tmp_path):
    files = write_pictures(run_of(spec, history), tmp_path / "out")
    table = pq.read_table(files["front.parquet"])
    best = front_of(spec, history)
    assert table["trial"].to_pylist() == [r["trial"] for r in best.rows]
    assert {"epoch", *OBJECTIVES, "clean_acc", "param/start", "robust_acc/0", "robust_acc/3"} <= set(table.column_names)
    assert set(table["split"].to_pylist()) == {"val"} and set(table["budget"].to_pylist()) == {4}
    assert not list((tmp_path / "out").glob(".*"))  # nothing half-written stays


def data_of(page: str) -> dict:
    return json.loads(re.search(r"^const D = (.*);$", page, re.M)[1])


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
    assert page.count("</script>") == 2
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
    assert report.gain(front_of(spec, history), paper_row(spec, history))


def test_summary_names_the_search_the_front_and_the_gain(spec, history):
    text = report.summary_markdown(run_of(spec, history))
    assert "| trial | natural average | worst class | class mean | clean |" in text
    assert (
        "Against the default setting (0 of 6 values published), trial 0 (" in text
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
