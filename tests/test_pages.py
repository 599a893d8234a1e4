"""The generated pages of docs/ are current, and a method's card says what its code and the stored runs say."""

import inspect
import json
import sys

import pytest

from benchmarks import method_cards
from benchmarks.method_cards import built_in_methods, card, index
from benchmarks.pages import RESULTS, generated, stale
from search_spaces import METHODS
from search_spaces.param import describe, params_of
from tests.test_methods_report import run
from trainables.methods import method_class


def test_generated_pages_are_current():
    assert not {path.name for path in stale()}, "run: make docs"


def test_every_method_of_ours_has_a_card_and_a_row():
    cards = {path.stem for path in generated() if path.parent.name == "methods"} - {"index", "evidence", "training"}
    assert cards == set(built_in_methods()) and len(cards) == 29
    assert all(f"| [`{name}`]({name}.md) | " in index() for name in cards)


def test_a_method_of_another_package_has_no_card(monkeypatch):
    monkeypatch.setattr(method_cards, "METHODS", {**METHODS, "elsewhere": METHODS["at"]})
    assert "elsewhere" not in built_in_methods()


@pytest.mark.parametrize("name", ["at", "mail", "srat"])
def test_a_card_has_every_parameter_with_its_range_and_default(name):
    page = card(name, [])
    for param in params_of(METHODS[name].Params).values():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{param.name}` |"))
        assert f" {param.default}" in row and param.doc in row
        assert describe(param.range).replace("|", "\\|") in row
        assert all(f"{value} with " in row for by in param.by.values() for value in by.values())


def test_a_card_has_the_equation_in_words_and_in_code():
    page = card("lsat", [])
    assert inspect.getdoc(sys.modules[method_class("lsat").__module__]) in page
    assert "```text\ndef forward(self, batch: Batch)" in page
    assert "    return " in page.partition("def forward")[2].partition("```")[0]


def test_a_card_says_what_attacks_cost_as_it_was_measured():
    """By their steps, of which a targeted attack has one for each class: LRAT's two are no two of plain AT's."""
    measured = json.loads((RESULTS / "method_cost.json").read_text())
    steps, most = {row["method"]: row["attack"] for row in measured}, {}
    for row in measured:
        most[row["method"]] = max(most.get(row["method"], 0.0), row["per_epoch"])
    dear = {name: count for name, count in steps.items() if count > steps["at"]}
    assert set(dear) == {name for name in built_in_methods() if "attacks a training step" in card(name, [])}
    for name, count in dear.items():
        assert f"of {count} steps in all to plain AT's {steps['at']}" in card(name, [])
        assert f"up to about {count / steps['at']:.2g} times" in card(name, []) and round(most[name]) == count / 10


def test_cautions_follow_from_the_code():
    def cautions(name):
        return card(name, []).partition("## Cautions\n\n")[2].partition("\n\n## ")[0].splitlines()

    assert cautions("at") == ["- None known."]
    assert cautions("robal")[:1] == ["- Needs at least one training image of every class."]
    assert any("cosine classifier" in line for line in cautions("robal"))
    assert any("2 attacks a training step" in line for line in cautions("lrat"))
    assert any("Reads figures of `val`" in line for line in cautions("wat"))
    assert any("With some settings reads figures of `val`" in line for line in cautions("fairfront"))
    assert not any("figures of `val`" in line for line in cautions("srat"))
    assert any("acts from `start` on" in line for line in cautions("srat"))
    assert any("Has no `start`" in line for line in cautions("trades"))
    assert {n for n in built_in_methods() if any("Its stem is not that of most" in line for line in cautions(n))} == {
        "robal",
        "wat",
    }


def test_a_card_shows_the_method_beside_plain_at_of_the_same_kind_of_run():
    runs = [run("trades", 0.1), run("trades", 0.2, 1), run("dafa", 0.3), run("dafa", 0.4, 1), run("at", 0.0)]
    longer = run("at", 0.5, epochs=9)
    row = "| cnn, 2 epochs, 90 images, CPU | none | 2 | 48.3 +- 2.4 (36.7) | 35.0 +- 7.1 (0.0) |"
    page = card("dafa", [*runs, longer])
    assert row in page and "| cnn, 9 epochs" not in page
    claim = "| DAFA is above TRADES on the worst class | none | +20.0 | +20.0, +20.0 | **true** |"
    assert f"| cnn, 2 epochs, 90 images, CPU {claim}" in page
    assert claim in card("trades", runs) and claim not in card("srat", runs)
    assert "No runs of ours are stored." in card("srat", runs)
    plain = card("at", runs)
    assert "| cnn, 2 epochs, 90 images, CPU | none | 1 | 36.7 | 0.0 |" in plain


def test_a_collapse_is_a_caution():
    one_class = run("srat", 0.0, clean=[1.0, 0.0, 0.0])
    assert "- Collapsed to one class in our run on none, cnn, seed 0." in card("srat", [one_class])
    assert "Collapsed" not in card("dafa", [one_class]) and "Collapsed" not in card("srat", [run("srat", 0.1)])
