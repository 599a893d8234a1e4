"""Our equations give the numbers of the authors' code; and the harness that says so notices when they do
not."""

import json

import pytest

from tests.oracle_tools import find
from tests.oracles import STORED, check_file, main

FILES = sorted(STORED.glob("*.json"))
EXPECTED_FIELDS = {"attack": 24, "cfa": 84, "faal": 27, "frl": 72}  # what must not silently shrink


def test_every_oracle_is_collected():
    assert len(FILES) == 21


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_oracle(path):
    report = check_file(path)
    assert report.differences == []
    assert report.fields >= EXPECTED_FIELDS.get(path.stem, 1)
    assert report.cases == len(json.loads(path.read_text())["cases"])


def _altered(path, tmp_path, change):
    document = json.loads(path.read_text())
    change(document)
    copy = tmp_path / path.name
    copy.write_text(json.dumps(document))
    return str(copy)


def _bump(value):
    """The first number of a nested list, moved by a thousandth."""
    if isinstance(value, list):
        return [_bump(value[0]), *value[1:]]
    if isinstance(value, dict):
        key = next(iter(value))
        return {**value, key: _bump(value[key])}
    return 0.123 if isinstance(value, str) else value * 1.001 + 0.001


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_changed_field_is_noticed_and_named(path, tmp_path, capsys):
    for i, case in enumerate(json.loads(path.read_text())["cases"]):
        for name in case["outputs"]:
            if "_official_quirk" in name or case["params"].get("kind", "").endswith("_official_quirk"):
                continue

            def change(document, i=i, name=name):
                document["cases"] = [document["cases"][i]]
                outputs = document["cases"][0]["outputs"]
                outputs[name] = _bump(outputs[name])

            if case["outputs"][name] in ([], "inf"):
                continue
            assert main([_altered(path, tmp_path, change)]) == 1
            said = capsys.readouterr().out
            assert case["name"] in said and name in said and "expected" in said and "got" in said


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda d: d.update(method="nonesuch"), "nonesuch"),
        (lambda d: d["cases"][0]["params"].update(kind="nonesuch"), "nonesuch"),
        (lambda d: d.update(cases=[]), "no cases"),
        (lambda d: d["cases"][0]["outputs"].update(something_new=1.0), "something_new"),
        (lambda d: d["cases"][0]["params"].clear(), "beta"),
    ],
)
def test_what_the_harness_cannot_check_is_an_error(change, word, tmp_path, capsys):
    assert main([_altered(STORED / "trades.json", tmp_path, change)]) == 1
    assert word in capsys.readouterr().out


@pytest.mark.parametrize(
    "stored, key, known",
    [
        ("attack", "loss", "ce, cw, kl"),
        ("cfol", "prior", "uniform, empirical"),
        ("cfol", "base_dist", "uniform, empirical"),
        ("class_balanced", "rule", "Reweight, DRW"),
        ("faal", "loss", "AT, TRADES, MART"),
        ("frl", "variant", "rw, rm, rw_rm"),
        ("gairat", "func", "Tanh, Sigmoid, Discrete"),
        ("imbalance", "type", "exp, step, none"),
        ("pareto", "directions", "max, min"),
        ("supcon", "contrast_mode", "all, one"),
    ],
)
def test_a_value_that_we_have_no_code_for_is_said(stored, key, known, tmp_path, capsys):
    def change(document):
        document["cases"] = document["cases"][:1]
        params = document["cases"][0]["params"]
        params[key] = ["other"] * 2 if key == "directions" else "other"

    assert main([_altered(STORED / f"{stored}.json", tmp_path, change)]) == 1
    assert f"'other'; known: {known}" in capsys.readouterr().out


def test_frequencies_serve_as_class_counts(tmp_path):
    """Adding a constant to log n_c changes nothing, as the file's notes say; float32 frequencies would."""

    def divide(document):
        for case in document["cases"]:
            counts = case["params"]["class_counts"]
            case["params"]["class_counts"] = [n / sum(counts) for n in counts]

    assert main([_altered(STORED / "balanced_softmax.json", tmp_path, divide)]) == 0


def _mark(field):
    """Every field of the first case marked as a fault of the authors' code, or its kind or name."""

    def change(document):
        case = document["cases"][0]
        if field == "name":
            case["name"] += "_official_quirk"
        else:
            case["params"]["kind"] = "pgd_attack_official_quirk"
        case["outputs"] = {key: 0.123 for key in case["outputs"]}

    return change


@pytest.mark.parametrize("field", ["name", "kind"])
def test_a_case_marked_as_a_fault_of_the_authors_is_left_out(field, tmp_path, capsys):
    assert main([_altered(STORED / "trades.json", tmp_path, _mark(field))]) == 0
    assert "skipped 1: cases of a fault" in capsys.readouterr().out


@pytest.mark.parametrize(
    "stored, change, words",
    [
        ("frl", lambda c, d: c["outputs"]["per_epoch"].pop(), ("per_epoch.length", "expected 2", "got 3")),
        ("frl", lambda c, d: c["outputs"]["per_epoch"].append(c["outputs"]["per_epoch"][-1]), ("per_epoch.length",)),
        ("frl", lambda c, d: c["outputs"].update(per_epoch=[{}, {}, {}]), ("per_epoch[0]",)),
        ("cfol", lambda c, d: c["outputs"]["per_batch"].pop(), ("per_batch.length",)),
        ("trades", lambda c, d: c.update(outputs={}), ("no field to compare",)),
        ("trades", lambda c, d: c["outputs"].update(loss={}), ("field loss: expected {}, got",)),
        ("trades", lambda c, d: c["outputs"].update(loss="x"), ("field loss: expected x, got",)),
        ("trades", lambda c, d: (_mark("name")(d), d.update(method="nonesuch")), ("nonesuch",)),
        ("trades", lambda c, d: (_mark("kind")(d), d.update(method="nonesuch")), ("nonesuch",)),
        ("dafa", lambda c, d: (_mark("name")(d), c["params"].update(kind="nonesuch")), ("nonesuch",)),
    ],
)
def test_nothing_passes_that_was_not_compared(stored, change, words, tmp_path, capsys):
    path, names = STORED / f"{stored}.json", []

    def first_case_alone(document):
        case = document["cases"][0]
        document["cases"] = [case]
        change(case, document)
        names.append(case["name"])

    assert main([_altered(path, tmp_path, first_case_alone)]) == 1
    said = capsys.readouterr().out
    assert all(word in said for word in (*names, *words)), said


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "3",
        "{}",
        "nonsense",
        '{"method": "trades", "cases": null}',
        '{"method": "trades", "cases": [1]}',
        '{"method": "trades", "cases": [{}]}',
        pytest.param("[" * 100_000, id="nested"),
    ],
)
def test_a_file_of_another_format_gets_one_sentence(text, tmp_path, capsys):
    (tmp_path / "other.json").write_text(text)
    assert main([str(tmp_path / "other.json")]) == 1
    said = capsys.readouterr().out
    assert said.count("not an oracle file") == 1 and len(said.splitlines()) == 3 and "all equal" not in said


def test_a_missing_file_is_an_error(tmp_path):
    assert main([str(tmp_path / "none.json")]) == 1


@pytest.mark.parametrize(
    "factor, total, kind, counts", [(0.11, 200, "exp", [100, 11]), (0.9, 90, "step", [30, 27, 27])]
)
def test_imbalance_of_any_factor(factor, total, kind, counts):
    params = {"total_samples": total, "num_classes": len(counts), "type": kind, "factor": factor}
    assert find("imbalance", None)({}, params)["class_counts"] == counts
