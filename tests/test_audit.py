"""Certificates: an honest one holds, a changed one does not, and a received one is only read."""

import json
import shutil

import numpy as np
import pytest

from tests.conftest import tuner_here
from tests.test_received import listener, received  # noqa: F401
from tests.test_verify_killed import untested
from tests.verifying import without_ray
from tuner.errors import UsageError
from tuner.home import Home
from tuner.results.pareto import row_label
from tuner.verification import verify as module
from tuner.verification.audit import LEVEL, RUNS, _tests, tail
from tuner.verification.certificate import packed, read_certificate, unpacked
from tuner.verification.summary import flags_of
from tuner.verification.verify import verify_search


@pytest.fixture(scope="module")
def certified(finished, tmp_path_factory):
    """(home, certificate as JSON) of a verification without Ray; the attack is weak, so its random starts matter."""
    home = untested(finished[1], tmp_path_factory.mktemp("certified"))

    with without_ray():
        verify_search("first", Home(home), pick="knee", attack="pgd:5x1")
    return home, json.loads((home / "searches" / "first" / "verified.json").read_text())


def audited(home, certificate, folder, *args):
    """(exit code, JSON, stderr) of the command on a changed certificate."""
    file = folder / "received.json"
    file.write_text(certificate if isinstance(certificate, str) else json.dumps(certificate))
    done = tuner_here("audit", file, "--home", home, "--json", *args)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def changed(certificate, **fields):
    return {**certificate, **fields}


def row_changed(certificate, **fields):
    return {**certificate, "rows": [{**certificate["rows"][0], **fields}, *certificate["rows"][1:]]}


def test_what_a_certificate_says(certified):
    home, stored = certified
    found = read_certificate(home / "searches" / "first" / "verified.json")
    assert (found.search, found.attack, found.images) == ("first", "pgd:5x1", 359) and len(found.claims) >= 3
    assert {claim.role for claim in found.claims} >= {"front", "no_search"}
    for claim, row in zip(found.claims, stored["rows"]):
        label = row_label({"trial": claim.trial, "offsets": claim.offsets.to_dict()})
        _, clean, robust = flags_of(home / "searches" / "first" / "verify" / "pgd-5x1" / f"{label}.parquet")
        assert np.array_equal(claim.clean, clean) and np.array_equal(claim.robust, robust)
        assert {"device", "seconds", "versions", "code", "stages"} <= set(row) and len(row["checkpoint"]) == 64
    assert "storage" not in stored["spec"] and "study_storage" not in stored["spec"], "places stay private"


def test_flags_are_packed_as_bits():
    flags = np.array([1, 0, 0, 0, 0, 0, 0, 1, 1], dtype=bool)
    assert packed(flags) == "8180" and np.array_equal(unpacked("8180", 9), flags)
    with pytest.raises(ValueError):
        unpacked("8180", 17)


def test_an_honest_certificate_holds(certified, tmp_path):
    home, stored = certified
    for seed in (0, 5):
        code, result, _ = audited(home, stored, tmp_path, "--seed", seed)
        assert code == 0 and result["holds"] and result["sample"] == 200 and len(set(result["images"])) == 200
        assert len(result["rows"]) == len(stored["rows"]) and not any(row["clean_differ"] for row in result["rows"])


def test_a_certificate_of_before_there_were_threat_models_is_of_linf(certified, tmp_path):
    home, stored = certified
    assert {row["threat"] for row in stored["rows"]} == {"linf"}
    earlier = changed(stored, rows=[{k: v for k, v in row.items() if k != "threat"} for row in stored["rows"]])
    code, result, _ = audited(home, earlier, tmp_path, "--sample", 20)
    assert code == 0 and result["holds"]


def lies(row, which, number, value):
    """The hexadecimal flags with ``number`` of them set to ``value``: images where that is possible."""
    clean, robust = (unpacked(row[name], 359) for name in ("clean", "robust"))
    if which == "clean":
        rows, flags = np.flatnonzero(clean & ~robust), clean
    else:
        rows, flags = np.flatnonzero(clean & (robust != value)), robust
    flags[rows[:number]] = value
    return {which: packed(flags)}


@pytest.mark.parametrize(
    "which, number, value, part",
    [
        ("robust", 20, True, "images said to be robust are broken now"),
        ("robust", 20, False, "images said to be broken withstand the attack now"),
        ("clean", 1, False, "1 clean images are classified otherwise"),
    ],
)
def test_changed_flags_do_not_hold(certified, tmp_path, which, number, value, part):
    home, stored = certified
    certificate = row_changed(stored, **lies(stored["rows"][0], which, number, value))
    code, result, stderr = audited(home, certificate, tmp_path, "--sample", 359)
    first, *others = result["rows"]
    assert code == 1 and not result["holds"] and not first["holds"] and all(row["holds"] for row in others)
    assert part in first["why"] and stderr.splitlines()[-1].startswith("the certificate does not hold: ")


def test_another_attack_is_told_and_not_tested(certified, tmp_path):
    home, stored = certified
    code, result, _ = audited(home, stored, tmp_path, "--attack", "pgd:40x3", "--sample", 359)
    broken = sum(row["robust_now_broken"] for row in result["rows"])
    assert code == 0 and broken > 10 and result["certificate_attack"] == "pgd:5x1"


def test_of_other_data_another_checkpoint_or_other_classes(certified, tmp_path):
    home, stored = certified
    cases = [
        (changed(stored, data="0" * 64), "pixels or labels differ"),
        (changed(stored, classes=stored["classes"][::-1]), "their order"),
        (row_changed(stored, checkpoint="0" * 64), "the checkpoint here is not"),
        (row_changed(stored, trial=77), "trial 77"),
        (row_changed(stored, eps=0.05), "eps 0.05"),
        (row_changed(stored, threat="l2"), "attacked with l2, eps 0.1"),
        (row_changed(stored, search_steps=1), "1 steps"),
    ]
    for certificate, part in cases:
        code, result, _ = audited(home, certificate, tmp_path)
        assert code == 1 and part in result["error"] and "\n" not in result["error"], result


def test_a_role_or_offsets_that_the_search_does_not_have(certified, tmp_path):
    home, stored = certified
    place = next(i for i, row in enumerate(stored["rows"]) if row["role"] == "no_search")
    known = {row["offsets"]["tau"] for row in stored["rows"]}
    shifted = {"kind": "prior", "tau": next(t for t in (0.25, 1.25, 1.5) if t not in known), "values": [0.1] * 10}
    for fields, part in (({"role": "front"}, "has role front"), ({"offsets": shifted}, "offsets of the certificate")):
        rows = [{**row, **fields} if i == place else row for i, row in enumerate(stored["rows"])]
        code, result, _ = audited(home, changed(stored, rows=rows), tmp_path)
        assert code == 1 and part in result["error"], result


@pytest.mark.parametrize(
    "text, part",
    [
        ("no JSON", "holds no JSON"),
        pytest.param("[" * 100_000, "holds no JSON", id="deep"),
        ("[1]", "is no certificate"),
        ('{"search": "first"}', "is no certificate"),
    ],
)
def test_a_file_that_is_no_certificate(finished, tmp_path, text, part):
    code, result, _ = audited(finished[1], text, tmp_path)
    assert code == 2 and part in result["error"] and "\n" not in result["error"]


def test_a_damaged_certificate(certified, tmp_path):
    home, stored = certified
    first = stored["rows"][0]
    cases = [
        (changed(stored, format=2), "has format '2'"),
        (changed(stored, rows=[]), "rows"),
        (changed(stored, rows="x"), "damaged"),
        (changed(stored, rows=[first, first]), "rows"),
        (changed(stored, images=-1), "a whole number"),
        (changed(stored, images=10**9), "a whole number"),
        (changed(stored, data="../x"), "a sha256"),
        (changed(stored, attack=["pgd"]), "a text"),
        (changed(stored, attack="fgsm"), "'fgsm'"),
        (row_changed(stored, robust=first["robust"][:-2]), "digits"),
        (row_changed(stored, robust="zz"), "damaged"),
        (row_changed(stored, robust="ff" * 45), "robust but not classified right"),
        (row_changed(stored, trial="../../x"), "a whole number"),
        (row_changed(stored, trial=True), "a whole number"),
        (row_changed(stored, role="best\x1b[2J"), "role"),
        (row_changed(stored, eps=float("nan")), "eps"),
        (row_changed(stored, eps=1.5), "eps"),
        (row_changed(stored, threat="l3"), "threat"),
        (row_changed(stored, threat=["l2"]), "damaged"),
        (row_changed(stored, offsets={"kind": "prior", "tau": 1.0, "values": [float("inf")] * 10}), "offsets"),
        (row_changed(stored, offsets={"kind": "prior", "tau": 1.0, "values": [0.0]}), "offsets"),
    ]
    for certificate, part in cases:
        code, result, stderr = audited(home, certificate, tmp_path)
        assert code == 2 and part in result["error"] and "\n" not in result["error"], (part, result)
        assert "\x1b" not in result["error"] + stderr


def test_wrong_usage(certified, tmp_path):
    home, stored = certified
    for args, part in (
        (["--sample", "0"], "--sample 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--attack", "fgsm"], "'fgsm'"),
        (["--search", "frist"], "did you mean first"),
        (["--search", "../first"], "'../first'"),
    ):
        code, result, _ = audited(home, stored, tmp_path, *args)
        assert code == 2 and part in result["error"] and "\n" not in result["error"]
    done = tuner_here("audit", tmp_path / "nowhere.json", "--home", home, "--json")
    assert done.returncode == 2 and "cannot be read" in json.loads(done.stdout)["error"]


# ---- a certificate from somebody else -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../stolen", "/etc", "s3://bucket/x", "second"])
def test_its_name_only_chooses_among_ones_own_searches(certified, tmp_path, name):
    home, stored = certified
    code, result, _ = audited(home, changed(stored, search=name), tmp_path)
    assert code == 2 and ("--search NAME" in result["error"] or "damaged" in result["error"])
    if name == "second":
        code, result, _ = audited(home, changed(stored, search=name), tmp_path, "--search", "first", "--sample", 9)
        assert code == 0 and result["search"] == "first"


def test_it_does_not_choose_whom_this_machine_asks(certified, finished, tmp_path, listener):  # noqa: F811
    """Places in the certificate are never read; those of a received search's spec must be named again."""
    home, stored = certified
    address, seen = listener
    data = f"parquet:s3://bucket/set?endpoint_override={address}&scheme=http&region=us-east-1"
    spec = {**stored["spec"], "dataset": data, "storage": f"s3://bucket/x?endpoint_override={address}"}
    code, result, _ = audited(home, changed(stored, spec=spec), tmp_path, "--sample", 9)
    assert code == 0 and result["holds"]
    theirs = tmp_path / "theirs"
    received(finished, theirs, dataset=data)
    code, result, _ = audited(theirs, stored, tmp_path)
    assert code == 2 and f"--dataset '{data}'" in result["error"] and seen == []


# ---- how sure -------------------------------------------------------------------------------------------------------


def test_binomial_tail_by_hand():
    assert tail(3, 3, 0.2) == pytest.approx(0.008) and tail(0, 5, 0.3) == pytest.approx(1)
    assert tail(2, 3, 0.5) == pytest.approx(0.5) and tail(7, 7, 0.5) == pytest.approx(1 / 128)


def test_tests_by_hand():
    """Three images that the certificate alone of five runs calls robust, one that another run alone does, and one that
    the certificate alone calls broken (of two runs that are compared, so it counts with the four that differ)."""
    said = np.array([1, 1, 1, 0, 0], dtype=bool)
    runs = np.zeros((RUNS, 5), dtype=bool)
    runs[2, 3] = True
    runs[:, 4] = True
    found = _tests(said, runs, np.ones(5, dtype=bool))
    assert found["p_robust"] == pytest.approx(4 * 0.2**3 * 0.8 + 0.2**4), "three or four of four, at 1/5"
    assert found["p_broken"] == pytest.approx(15 / 16), "at least one of four, at 1/2"


def simulated(lied, rng, images=200):
    """Runs of an attack that breaks each image with a probability of its own; ``lied`` broken images called robust."""
    breaks = np.concatenate([np.full(90, 1.0), np.full(80, 0.0), rng.random(images - 170)])
    runs = rng.random((RUNS + 1, images)) >= breaks
    said, first = runs[0].copy(), runs[1]
    said[:lied] = True
    maybe = ~(said & first)
    again = [first, *(np.where(maybe, run, first) for run in runs[2:])]
    return _tests(said, np.stack(again), maybe)


def test_an_attacks_noise_is_no_lie_and_a_few_lies_are_seen():
    """30 of 200 images are a matter of chance, far more than in any attack we have seen; no level is exceeded."""
    rng = np.random.default_rng(0)
    found = [simulated(0, rng) for _ in range(1000)]
    for name in ("p_robust", "p_broken"):
        assert np.mean([f[name] < LEVEL for f in found]) <= 0.015
    assert np.mean([simulated(9, rng)["p_robust"] < LEVEL for _ in range(200)]) > 0.95


def test_a_search_without_references_still_verifies(finished, tmp_path, monkeypatch):
    """A home of version 0.1: no reference, no curves."""
    home = untested(finished[1], tmp_path)
    folder = home / "searches" / "first"
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    kept = [event for event in lines if event["trial"] >= 0 and event["event"] != "curve"]
    (folder / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in kept))
    shutil.rmtree(folder / "trials" / "-1", ignore_errors=True)

    def here(jobs, spec, attack, say):
        for group in module.same_model(jobs):
            for event in module.verify_here(group, attack):
                module.keep(group, attack, event)

    monkeypatch.setattr(module, "run_jobs", here)
    monkeypatch.setattr(module, "_to_mlflow", lambda *args: None)
    result = verify_search("first", Home(home), attack="pgd:2x1")
    assert {r["role"] for r in result["rows"]} <= {"front", "paper"} and not any(
        r["offsets"]["tau"] for r in result["rows"]
    )
    assert {g["over"] for g in result["gain"]} <= {"paper"}
    with pytest.raises(UsageError, match="'no_search' has not finished"):
        from tuner.verification.export import export_model

        export_model("first", "no_search", tmp_path / "out", Home(home))
