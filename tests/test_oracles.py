"""Our equations give the numbers of the authors' code; and the harness that says so notices when they do
not."""

import json

import pytest

from tests.oracles import STORED, check_file, main

FILES = sorted(STORED.glob("*.json"))
EXPECTED_FIELDS = {"attack": 24, "cfa": 81, "faal": 27, "frl": 69}  # what must not silently shrink


def test_every_oracle_is_collected():
    assert len(FILES) == 18


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


@pytest.mark.parametrize("change, word", [
    (lambda d: d.update(method="nonesuch"), "nonesuch"),
    (lambda d: d["cases"][0]["params"].update(kind="nonesuch"), "nonesuch"),
    (lambda d: d.update(cases=[]), "no cases"),
    (lambda d: d["cases"][0]["outputs"].update(something_new=1.0), "something_new"),
    (lambda d: d["cases"][0]["params"].clear(), "beta"),
])
def test_what_the_harness_cannot_check_is_an_error(change, word, tmp_path, capsys):
    assert main([_altered(STORED / "trades.json", tmp_path, change)]) == 1
    assert word in capsys.readouterr().out


def test_a_missing_file_is_an_error(tmp_path):
    assert main([str(tmp_path / "none.json")]) == 1
