"""Where defaults come from: every line says it, and trial 0 is called the paper's only where its values are."""

import ast
import dataclasses
import html
import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import search_spaces
from search_spaces import METHODS, method_space
from search_spaces.param import SOURCES, choice, param, params_of, uniform
from search_spaces.provenance import legend_label, paper_label, published
from search_spaces.registry import Unusable, check_space
from search_spaces.training import Training
from tests.histories import fill, run_of
from tests.test_wrong_input import run
from tuner.home import Home
from tuner.report import figures, png
from tuner.report.comparison import compare
from tuner.report.comparison_figures import comparison_data
from tuner.report.html.front_page import front_page
from tuner.results.history import History
from tuner.spec.parameter_schema import value_schema
from tuner.spec.search_spec import SearchSpec

FILES = [Path(search_spaces.__file__).with_name(f"{name}.py") for name in (*METHODS.built_in, "training")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_line_says_where_its_default_comes_from(path):
    calls = [c for c in ast.walk(ast.parse(path.read_text())) if isinstance(c, ast.Call)]
    for line in [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "param"]:
        given = {k.arg: ast.literal_eval(k.value) for k in line.keywords if k.arg == "source"}
        assert given.get("source") in SOURCES, f"{path.name}, line {line.lineno}: no source"


def test_what_no_one_has_read_is_not_called_published():
    """Constants that were found neither in a paper nor in code, and methods without any public code."""
    ours = {
        "srat": ("one_minus_beta", "start", "sep_weight", "temperature"),
        "done": ("r", "eta"),
        "mixup": ("kind", "q"),
    }
    for method, names in ours.items():
        assert {params_of(method_space(method).Params)[n].source for n in names} == {"ours"}, method
    for method in ("sovr", "ewat"):
        assert {p.source for p in params_of(method_space(method).Params).values()} == {"second-hand"}
    assert params_of(method_space("trades").Params)["beta"].source == "code"
    assert params_of(Training)["lr"].source == "code" and params_of(Training)["eval_attack"].source == "ours"


# Counted by hand. srat: loss (recalled), one_minus_beta, strength, start, sep_weight, temperature (ours). faal: form
# and radius are the authors', start is not. frl: all but start.
@pytest.mark.parametrize(
    "method, label",
    [
        ("trades", "the paper's setting"),
        ("mail", "the paper's setting"),
        ("at", "the paper's setting"),
        ("srat", "the default setting (0 of 6 values published)"),
        ("faal", "the default setting (2 of 3 values published)"),
        ("frl", "the default setting (6 of 7 values published)"),
        ("lsat", "the default setting (0 of 1 values published)"),
    ],
)
def test_what_a_first_trial_is_called(method, label):
    assert paper_label(method) == label
    assert paper_label(method, {**SearchSpec(method=method).search_space().default(), "lr": 0.02}) == label


def test_a_fixed_value_is_published_only_as_the_default_or_as_a_choice_with_defaults_of_its_own():
    def of(method, **fix):
        return published(method, SearchSpec(method=method, fix=fix).search_space().default())

    assert of("trades", beta=6.0) == (1, 1) and of("trades", beta=5.0) == (0, 1)
    assert of("mail", form="trades") == (5, 5)  # form, slope, bias, beta, start: the paper's MAIL-TRADES
    assert of("mail", form="mart") == (4, 5)  # no slope and bias are published for it
    assert of("wmmr", detach=True) == (2, 3)  # form, alpha; a parameter that no search varies, changed
    with pytest.raises(ValueError, match="unknown method 'trade'"):
        paper_label("trade")


def test_legends_have_a_short_form():
    assert legend_label(paper_label("srat")) == "the default setting"
    assert legend_label(paper_label("trades")) == "the paper's setting"


def test_a_line_without_a_source_is_ours_and_an_unknown_one_is_refused():
    def space(**source):
        fields = [("a", float, param(0.5, uniform(0, 1), "m", **source)), ("b", int, param(1, choice(1, 2), "m"))]
        return type("S", (), {"PAPER": "p", "SUMMARY": "s", "Params": dataclasses.make_dataclass("Params", fields)})

    check_space(space(source="code"))
    assert [p.source for p in params_of(space(source="code").Params).values()] == ["code", "ours"]
    with pytest.raises(Unusable, match="source of its parameter a must be one of: paper, code, second-hand, ours"):
        check_space(space(source="folklore"))


def test_tuner_space_shows_the_sources(capsys, monkeypatch):
    _, out, _ = run(capsys, monkeypatch, "space", "faal")
    assert "trial 0 is the default setting (2 of 3 values published)" in out and "source" in out
    assert [line for line in out.splitlines() if "radius" in line and " 0.5 " in line and " code " in line]
    _, out, _ = run(capsys, monkeypatch, "space", "faal", "--json")
    assert {p["name"]: p["source"] for p in json.loads(out)["params"]} == {
        "form": "code",
        "radius": "code",
        "beta": "code",
        "per_class": "code",
        "start": "ours",
    }
    assert json.loads(out)["recipe_of_form"]["at"] == {"clean_bn": "twice"}
    _, out, _ = run(capsys, monkeypatch, "space", "cfa")
    assert out.splitlines()[-1].endswith("; 200 epochs; with --fix form=at also attack_bn train")
    _, out, _ = run(capsys, monkeypatch, "methods", "--json")
    assert all(p["source"] in SOURCES for row in json.loads(out) for p in row["params"])


def test_the_schema_of_a_parameter_says_it_too():
    described = value_schema(params_of(method_space("frl").Params)["max_radius"])["description"]
    assert described == "largest factor on the radius (default: code); exists only with mode in {remargin, both}"


@pytest.mark.parametrize("method, name", [("srat", "default setting"), ("trades", "paper's setting")])
def test_pictures_name_the_first_trial_by_what_it_is(method, name, tmp_path):
    spec = SearchSpec(method=method, max_epochs=4)
    data = figures.picture_data(run_of(spec, fill(History(tmp_path / "search"), spec)))
    first = next(p for p in data["points"] if p["paper"])
    assert data["paperName"] == first["setting"] == name and f", {name})" in first["text"]
    assert [r["name"] for r in data["references"]] == [name]
    assert [p["setting"] for p in data["points"] if not p["paper"]] == [""] * (len(data["points"]) - 1)
    assert paper_label(method) in html.unescape(front_page(data)), "the gain is over it"
    axes = Figure().add_subplot()
    png.draw_front(axes, data)
    assert name in [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_comparison_names_the_first_trials_of_all_methods(tmp_path):
    home = Home(tmp_path)
    for name, method in (("x", "trades"), ("y", "srat"), ("z", "mail")):
        folder = home.search(name)
        folder.mkdir(parents=True)
        spec = SearchSpec(method=method, max_epochs=4, name=name)
        (folder / "spec.yaml").write_text(spec.to_yaml())
        fill(History(folder), spec)

    def named(*searches):
        return comparison_data(compare(*searches, home=home))["paperName"]

    assert named("x", "z") == "paper's setting of each method"
    assert named("x", "y") == "paper's setting or default setting of each method"
