"""The scripts of benchmarks/ that anybody may repeat: each says its help and does nothing else."""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import held_out

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
