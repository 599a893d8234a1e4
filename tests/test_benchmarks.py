"""The scripts of benchmarks/ that anybody may repeat: each says its help and does nothing else."""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import held_out, what_adds

FOLDER = Path(held_out.__file__).parent
# started by another script, in an environment that has NePS
NOT_BY_HAND = {"primo_program"}
SCRIPTS = {path.stem for path in FOLDER.glob("*.py") if "__main__" in path.read_text()} - NOT_BY_HAND


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        import_module(f"benchmarks.{name}").main()
    assert ended.value.code == 0 and "usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given, options, searched",
    [
        ([], "", []),
        (["--", "--trials", "1"], "--trials 1", ["--trials", "1"]),
        (["--data", "/photos/cifar10", "--", "--trials", "1"], "cifar10 10,000 --trials 1", ["--trials", "1"]),
    ],
)
def test_held_out_searches_what_it_is_asked_for_once(tmp_path, monkeypatch, given, options, searched):
    asked = []

    def search(method, seed, its, home):
        asked.append((method, seed, its))
        said = {"objectives": ["robust_acc"], "trials": {}, "epochs_trained": 3}
        return SimpleNamespace(spec=SimpleNamespace(max_epochs=3)), said

    monkeypatch.setattr(held_out, "RESULTS", tmp_path / "held_out.jsonl")
    monkeypatch.setattr(held_out, "run_search", search)
    monkeypatch.setattr(held_out, "judged", lambda run: [])
    monkeypatch.setattr(held_out, "thinned", lambda *of, **how: "parquet:thinned")
    monkeypatch.setattr(sys, "argv", ["held_out", "--methods", "srat", "--seeds", "0,1", *given])
    held_out.main()
    data = ["--dataset", "parquet:thinned"] if "--data" in given else []
    assert asked == [("srat", 0, [*searched, *data]), ("srat", 1, [*searched, *data])]
    rows = [json.loads(line) for line in held_out.RESULTS.read_text().splitlines()]
    assert [(row["method"], row["seed"], row["options"]) for row in rows] == [("srat", n, options) for n in (0, 1)]
    held_out.main()
    assert len(asked) == 2


def test_what_adds_pools_the_spread_between_seeds():
    """By hand: logs of 1.1 and 1.21 differ by ln 1.1, those of b by nothing, so that the pooled variance is half of
    (ln 1.1)^2 / 2 = 0.004542, with 2 degrees of freedom, whose t is 4.3027."""
    found = {"a": [1.1, 1.21], "b": [0.9, 0.9], "as plain": [1.001, 0.995], "once": [1.5]}
    deviation, freedom = what_adds.spread(found)
    assert freedom == 2 and deviation == pytest.approx(0.047656, rel=1e-4)
    mean, low, high = what_adds.interval(found["a"], deviation, freedom)
    assert (mean, low, high) == pytest.approx((1.15369, 0.99799, 1.33368), rel=1e-4)
    assert what_adds.interval(found["once"], deviation, freedom)[1] == pytest.approx(1.5 / 1.22757, rel=1e-4)
    assert what_adds.same(found["as plain"]) and not what_adds.same(found["b"])


def test_what_adds_says_which_trainings_diverged():
    rows = [{"setting": "at", "seed": seed, "held_out": 0.5, "test": []} for seed in (0, 1, 2)]
    rows += [{"setting": "trades", "seed": seed, "held_out": 0.6 - 0.1 * seed} for seed in (0, 1)]
    rows.append({"setting": "trades", "seed": 2, "held_out": 0.0, "failed": "the loss is not finite"})
    (line,) = (line for line in what_adds.page(rows).splitlines() if line.startswith("| trades"))
    assert "| 1.10 |" in line and line.endswith("| 2 | not distinguishable; diverged under 1 more |")
