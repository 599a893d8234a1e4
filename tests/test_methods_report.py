"""The page that judges papers' claims: what it may call true, and what it must not compare."""

import pytest

from benchmarks.methods_report import CLAIMS, judged, report, verdict


def run(method, worst, seed=0, precision="torch.bfloat16", **more):
    """Three classes, ``worst`` of which the last one survives; nothing is collapsed."""
    return {
        "method": method,
        "setting": "none",
        "seed": seed,
        "model": "cnn",
        "epochs": 2,
        "images": 90,
        "batch_size": 8,
        "test_images": 30,
        "device": "cpu",
        "torch": "2",
        "precision": precision,
        "train_counts": [30, 30, 30],
        "clean": [0.9, 0.8, 0.5],
        "pgd": [0.6, 0.5, worst],
        "robust": [0.6, 0.5, worst],
        **more,
    }


@pytest.mark.parametrize(
    "differences, said",
    [
        ([0.02, 0.03], "true"),
        ([-0.02, -0.03], "false"),
        ([0.02], "undecided"),
        ([0.01, 0.05], "undecided"),
        ([0.03, -0.02], "undecided"),
        ([0.0, 0.0], "undecided"),
        ([0.05, 0.05, 0.05, 0.05, -0.001], "undecided"),
    ],
)
def test_verdict(differences, said):
    """Mean and standard error by hand: 0.025 and 0.005; 0.03 and 0.02."""
    assert verdict(differences) == said


def test_a_claim_is_judged_on_seeds_that_both_sides_have():
    claim = next(c for c in CLAIMS if c.method == "dafa")
    rows = [run("trades", 0.1), run("trades", 0.2, 1), run("trades", 0.0, 2), run("dafa", 0.2), run("dafa", 0.29, 1)]
    assert judged(claim, "none", rows) == f"| {claim.text} | none | +9.5 | +10.0, +9.0 | **true** |"
    assert judged(claim, "none", rows[:3]) is None
    one_class = run("dafa", 0.29, 1, clean=[1.0, 0.0, 0.0])
    assert judged(claim, "none", [*rows[:-1], one_class]).endswith("| **void** |")


def test_arithmetics_are_marked_and_not_compared():
    claim = next(c for c in CLAIMS if c.method == "dafa")
    rows = [run("trades", 0.1), run("trades", 0.2, 1), run("dafa", 0.2), run("dafa", 0.3, 1, "torch.float32")]
    assert judged(claim, "none", rows) == f"| {claim.text} | none | +10.0 | +10.0 | **undecided** |"
    page = report(rows)
    assert "arithmetic bfloat16.\n" in page
    assert "| dafa | 2 (1 in float32) | 45.0 +- 2.4 | 25.0 +- 7.1 |" in page and "| trades | 2 | " in page
    assert page.count("\n## ") == 1 and report([*rows, run("at", 0.1, device="another")]).count("\n## ") == 2
