"""What counts as nonsense: each of these must be refused, by a sentence and exit code 1 or 2."""

from __future__ import annotations

from typing import Any

# Options of `tuner search`.
OPTIONS = [
    ["--trials", "1" + "0" * 30],
    ["--trials", "1" + "0" * 400],
    ["--max-epochs", "10000000000"],
    ["--seeds", "1" + "0" * 12],
    ["--seed", str(2**32)],
    ["--max-failures", str(10**12)],
    ["--max-concurrent", str(10**12)],
    ["--until-flat", str(10**12)],
    ["--val-per-class", str(10**12)],
    ["--time-budget", "1e300"],
    ["--time-budget", "inf"],
    ["--time-budget", "nan"],
    ["--budget", "9" * 400 + "h"],
    ["--budget", "1" + "0" * 30 + "epochs"],
    ["--cpus-per-trial", "1e30"],
    ["--cpus-per-trial", "nan"],
    ["--gpus-per-trial", "inf"],
    ["--gpus-per-trial", "1e30"],
    ["--gpus-per-trial", "nan"],
    ["--val-fraction", "nan"],
    ["--fix", "start=1e320"],
    ["--fix", "start=.inf"],
    ["--fix", "start=.nan"],
    ["--fix", "start=" + "1" * 400],
    ["--set", "lr=.nan"],
    ["--set", "lr=1e999"],
    ["--set", "lr=0.1", "--set", "lr=0.2"],
    ["--set", "lr=&a 0.1"] + ["--set", "ema=*a"],
    ["--constraint", "clean_acc>=nan"],
    ["--constraint", "clean_acc>=7.5"],
    ["--imbalance", "exp:inf"],
    ["--smooth-worst", "cvar:nan"],
    ["--model", "cnn:99999999999"],
    ["--image-size", "99999999", "--dataset", "parquet:/x"],
]

# Spec files.
SPECS = {
    "an alias": "a: &a 1\nb: *a\n",
    "a bomb of aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi")),
    "a key twice": "trials: 4\ntrials: 5\n",
    "depth": "set: " + "[" * 3000 + "]" * 3000,
    "length": "set: {" + ", ".join(f"k{i}: 1" for i in range(20_000)) + "}",
    "a number of 600 digits": "trials: 0x" + "f" * 500,
    "an infinity": "time_budget: .inf\n",
}

# Values of a history's last epoch, by their path in it.
METRICS: list[tuple[str, Any]] = [
    ("robust_acc", 7.5),
    ("robust_acc", -0.1),
    ("robust_acc", float("inf")),
    ("worst_class_robust_acc", "0.5"),
    ("natural_robust_acc", [0.5]),
    ("robust_acc/3", 1e300),
    ("clean_acc", {}),
    ("epoch", 0),
    ("epoch", -1),
    ("epoch", 1.5),
    ("epoch", "1"),
    ("epoch", None),
    ("epoch", 10**30),
    ("train_loss", "low"),
]

# Whole events, after those of a right history, whose trials are 0 and 1.
EVENTS: list[dict[str, Any]] = [
    {"event": "end", "trial": 0, "time": 1.0, "state": "won"},
    {"event": "end", "trial": 0, "time": 1.0, "state": "previewed"},
    {"event": "end", "trial": 0, "time": 1.0, "state": "finished", "reason": 5},
    {"event": "end", "trial": "0", "time": 1.0, "state": "finished"},
    {"event": "end", "trial": 0, "time": float("inf"), "state": "finished"},
    {"event": "end", "trial": 0, "time": "now", "state": "finished"},
    {"event": "end", "trial": 99, "time": 1.0, "state": "finished"},
    {"event": "start", "trial": 2, "time": 1.0, "params": {"start": "early"}, "method": "srat"},
    {"event": "start", "trial": 2, "time": 1.0, "params": {"loss": 0.5}, "method": "srat"},
    {"event": "start", "trial": 2, "time": 1.0, "params": {"beta": float("nan")}, "method": "srat"},
    {"event": "start", "trial": 2, "time": 1.0, "params": [1], "method": "srat"},
    {"event": "start", "trial": 2, "time": 1.0, "params": {}, "method": 5},
    {"event": "start", "trial": 2, "time": 1.0, "params": {}, "method": "srat", "of": 77},
    {"event": "start", "trial": 2, "time": 1.0, "params": {}, "method": "srat", "role": "king"},
    {"event": "start", "trial": 10**30, "time": 1.0, "params": {}, "method": "srat"},
    {"event": "fork", "trial": 0, "time": 1.0, "epochs": 3},
    {"event": "preview", "trial": 0, "time": 1.0, "epochs": "two", "metrics": {"epoch": 1}},
    {"event": "preview", "trial": 0, "time": 1.0, "epochs": -2, "metrics": {"epoch": 1}},
    {"event": "unheard of", "trial": 0, "time": 1.0},
]

# Changes of a curve of two classes: {"classes", "train_counts", "points"}.
CURVES: list[dict[str, Any]] = [
    {"points": []},
    {"classes": ["a", "a"]},
    {"classes": ["a"]},
    {"train_counts": [0, 5]},
    {"train_counts": [5, float("inf")]},
    *({"point": {name: value}} for name in ("clean", "robust") for value in ([11, 1], [-1, 1], [1], [float("nan"), 1])),
    {"point": {"count": [0, 0], "clean": [0, 0], "robust": [0, 0]}},
    {"point": {"offsets": {"kind": "none", "tau": float("nan"), "values": []}}},
    {"point": {"offsets": {"kind": "magic", "tau": 0, "values": []}}},
    {"point": {"offsets": {"kind": "prior", "tau": 1, "values": [float("inf"), 0]}}},
]

# What three classes are called.
CLASSES = [["", "b", "c"], [" ", "b", "c"], ["a", "a", "c"], ["a/b", "a-b", "c"]]
