"""The replayed searches: tables of anybody's, epochs counted by hand, a front's true value by hand."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import search_quality
from benchmarks.contenders import contenders
from benchmarks.replay import Contender, load, replay

# (average, worst class) at the last epoch, x, kind; the front is A, B: 0.5 * 0.2 + 0.4 * (0.4 - 0.2) = 0.18
LAST = {"A": (0.5, 0.2, 1.0, "p"), "B": (0.4, 0.4, 3.0, "q"), "C": (0.3, 0.1, 40.0, "p"), "D": (0.2, 0.3, 2.0, None)}
EPOCHS = 3


def rows(**columns):
    found = []
    for trial, (average, worst, x, kind) in enumerate(LAST.values()):
        for seed in (0, 1):
            off = 0.01 if seed else -0.01  # the truth is the mean over both seeds
            for epoch in range(1, EPOCHS + 1):
                share = epoch / EPOCHS
                found.append(
                    {
                        "trial": trial,
                        "seed": seed,
                        "epoch": epoch,
                        "robust_acc": (average + off) * share,
                        "worst_class_robust_acc": worst * share,
                        "cost_s": 1.0,
                        "x": x,
                        "kind": kind,
                        "train_loss_of_mine": 2 - share,
                        **{k: v[trial] for k, v in columns.items()},
                    }
                )
    return found


def written(tmp_path, table):
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "table.parquet")
    return str(tmp_path / "table.parquet")


class Scripted(Contender):
    """Proposes configurations in the order of the table; ``until``: the epoch where a trial is stopped."""

    def __init__(self, problem, until=()):
        self.problem, self.until, self.ended = problem, dict(until), []

    def propose(self, number):
        return self.problem.params[number]

    def report(self, job, epoch, point):
        return epoch < self.until.get(job.number, EPOCHS + 1)

    def end(self, job, complete):
        self.ended.append((job.config, job.epoch))

    def shown(self):
        return self.ended


def played(problem, workers=1, until=(), **options):
    return replay(problem, lambda p, s: Scripted(p, until), workers=workers, budget=100, seed=0, **options)


def test_a_table_of_anybodys(tmp_path):
    cut = [r for r in rows() if r["trial"] == 0 and r["epoch"] < EPOCHS]  # a trial that did not get to its end
    (problem,) = load(written(tmp_path, rows() + [{**r, "trial": 9} for r in cut]))
    assert problem.params == [{"x": 1.0, "kind": "p"}, {"x": 3.0, "kind": "q"}, {"x": 40.0, "kind": "p"}, {"x": 2.0}]
    assert problem.best_hypervolume == pytest.approx(0.18) and problem.front_size == 2
    assert problem.space.params["x"].range.log and problem.space.params["kind"].range.choices == ("p", "q")
    assert problem.nearest({"x": 3.1, "kind": "p"}, used={0}) == 2
    assert problem.nearest({"x": 3.1, "kind": "q"}, used=set()) == 1


def test_epochs_are_counted_and_the_front_has_its_true_value(tmp_path):
    (problem,) = load(written(tmp_path, rows()))
    spent, value = zip(*played(problem))
    assert spent == (3, 6, 9, 12) and value == pytest.approx((0.1, 0.18, 0.18, 0.18))
    spent, value = zip(*played(problem, until={1: 1}))
    assert spent == (3, 4, 7, 10)
    assert value[1] == pytest.approx(0.1)  # B as it was at epoch 1: (0.4, 0.4) / 3 lies below A
    assert [s for s, _ in played(problem, workers=2)] == [5, 6, 11, 12]


def test_the_trunk_is_trained_once_as_far_as_trials_share_it(tmp_path):
    (problem,) = load(written(tmp_path, rows(start=[1 / 3, 2 / 3, 0.0, 2 / 3])))
    assert [problem.start(c) for c in range(4)] == [1, 2, 0, 2]
    assert [s for s, _ in played(problem, trunk=True)] == [3, 5, 8, 9]  # -1, 0, -2 epochs that were there


@pytest.mark.process
def test_the_command_reads_any_table(tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    names = ["random, full budget", "Ray Tune stock (OptunaSearch + ASHA)", "ours", "ours, --no-trunk"]
    args = {"--table": written(tmp_path, rows()), "--seeds": 2, "--workers": 2, "--full-trials": 4, "--jobs": 1}
    words = [str(w) for pair in [*args.items(), ("--json", out), *(("--only", n) for n in names)] for w in pair]
    monkeypatch.setattr("sys.argv", ["", *words])
    search_quality.main()
    found = {row["contender"]: row for row in json.loads(out.read_text())}
    assert set(found) == set(names[:3])  # nobody knows whether this table's trials share a burn-in
    for row in found.values():
        assert row["budget"] == 12 and row["configurations"] == 4 and row["best_hypervolume"] == pytest.approx(0.18)
        assert 0 < row["hypervolume"]["1.0"][0] < 1.001
    assert found["random, full budget"]["hypervolume"]["1.0"] == [pytest.approx(1.0)] * 3
    assert 6 <= found["random, full budget"]["epochs_to_95_median"] <= 12


def test_what_only_a_few_trials_have_is_left_out(tmp_path):
    table = rows()
    longer = [{**r, "epoch": EPOCHS + 1} for r in table if r["trial"] == 0 and r["epoch"] == EPOCHS]
    again = [{**r, "seed": 9} for r in table if r["trial"] == 1 and r["seed"] == 0]
    diverged = [{**r, "robust_acc": None} if r["trial"] == 2 and r["epoch"] == EPOCHS else r for r in table]
    (problem,) = load(written(tmp_path, diverged + longer + again))
    assert problem.curves.shape == (3, 2, EPOCHS, 2) and [p["x"] for p in problem.params] == [1.0, 3.0, 2.0]
    assert problem.left_out == ", 1 trials left out, 1 seeds left out, 1 epochs left out"


def test_percent_are_taken_as_fractions(tmp_path):
    table = [{**r, **{k: 100 * r[k] for k in ("robust_acc", "worst_class_robust_acc")}} for r in rows()]
    (problem,) = load(written(tmp_path, table))
    assert problem.best_hypervolume == pytest.approx(0.18) and "percent" in problem.left_out


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_a_parameter_that_the_first_trial_lacks(tmp_path, nothing):
    (problem,) = load(written(tmp_path, rows(momentum=[nothing, 0.5, nothing, 0.9], layers=[[1], [1], [2], [1]])))
    assert [p.get("momentum") for p in problem.params] == [None, 0.5, None, 0.9]
    assert problem.space.default() == {"x": 1.0, "kind": "p", "momentum": 0.5, "layers": "[1]"}
    for maker, _ in (contenders()[name] for name in ("Optuna TPE, full budget", "ours, --sampler random")):
        assert replay(problem, maker, workers=2, budget=100, seed=0)[-1][1] > 0


def test_a_known_methods_condition_on_what_the_table_lacks(tmp_path):
    (problem,) = load(written(tmp_path, [{**r, "method": "frl"} for r in rows(margin_rate=[0.1, 0.2, 0.3, 0.4])]))
    assert problem.space.params["margin_rate"].when == {} and not problem.space.conditional  # of `mode`, not recorded
    assert "margin_rate" in problem.space.default()


@pytest.mark.parametrize("start", [[1, 2, 0, 2], ["warm", "cold", "warm", "cold"]])
def test_a_start_that_is_no_fraction(tmp_path, start):
    (problem,) = load(written(tmp_path, rows(start=start)))
    assert [problem.start(c) for c in range(4)] == [0] * 4


@pytest.mark.parametrize(
    "broken, words",
    [
        (lambda r: {k: v for k, v in r.items() if k != "cost_s"}, "no column cost_s"),
        (lambda r: {**r, "epoch": r["epoch"] + EPOCHS * r["trial"]}, "no two trials of table have robust_acc"),
        (lambda r: {**r, "cost_s": None}, "no two trials of table have robust_acc"),
        (lambda r: {**r, "trial": r["trial"] // 2}, "two rows of the same trial, seed and epoch"),
        (lambda r: {**r, "seed": None}, "no trial, seed or epoch"),
        (lambda r: {**r, "x": 1.0, "kind": "p"}, "no column tells the 4 configurations of table apart"),
        (lambda r: {**r, "x": float("inf") if r["trial"] else 1.0}, "column x holds inf"),
        (lambda r: {**r, "cost_s": -1.0}, "a negative cost_s"),
        (lambda r: {**r, "robust_acc": "high"}, "column robust_acc must hold numbers"),
        (lambda r: {**r, "robust_acc": 0.0}, "no configuration of table ends above 0"),
    ],
)
def test_another_layout_is_said(tmp_path, monkeypatch, capsys, broken, words):
    monkeypatch.setattr("sys.argv", ["", "--table", written(tmp_path, [broken(r) for r in rows()])])
    with pytest.raises(SystemExit) as stopped:
        search_quality.main()
    assert stopped.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--only", "nobody"], "invalid choice: 'nobody'"),
        (["--seeds", "0"], "'0' is not a whole number above 0"),
        (["--json", "/nowhere/out.json"], "there is no such folder"),
    ],
)
def test_a_wrong_argument_is_said_before_anything_runs(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.setattr("sys.argv", ["", "--table", written(tmp_path, rows()), *words])
    with pytest.raises(SystemExit) as stopped:
        search_quality.main()
    assert stopped.value.code == 2 and said in capsys.readouterr().err
