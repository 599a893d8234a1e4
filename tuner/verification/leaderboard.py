"""`tuner leaderboard`: searches, models and received certificates in one table beside what others published.

Every figure of ours is computed from a certificate's flags of single images. A row says where it comes from and what
that is worth; those of one data set, thinning and radius are one group, and only within a group rows are compared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainables.class_metrics import class_metrics
from trainables.offsets import Offsets
from tuner.errors import UsageError
from tuner.home import SEARCH_NAME, Home
from tuner.report.format import images_text, tracks_note
from tuner.results.pareto import nondominated, row_label
from tuner.results.searches import storage_of
from tuner.sync.mirror import pull
from tuner.verification.certificate import NAME, Certificate, Claim, read_certificate
from tuner.verification.foreign import ROLE, folder_of
from tuner.verification.intervals import as_tracks, class_mean, independent, worst_class
from tuner.verification.job import name_of
from tuner.verification.published import PUBLISHED
from tuner.verification.robustbench import eps_text
from tuner.verification.verify import folder_of as results_of

HERE, THEIRS, PRINTED, SECOND_HAND = "tested here", "sender's word", "published", "second-hand"
NOTE = (
    "Average: mean over the classes under attack, over the images where an earlier version's certificate does not name "
    "their classes; worst: the lowest class. A dot marks rows that no other of the same "
    "data, thinning and radius beats in both; attacks, networks and training data differ between rows, so a mark is no "
    "verdict on a method. Intervals are 95 %. What is the sender's word, `tuner audit` checks."
)
OF_PUBLISHED = ("cifar10", "linf", "8/255")  # data, norm and radius of what is published


def leaderboard(names: Sequence[str] = (), home: Home | None = None) -> dict[str, Any]:
    """``rows``, which `--json` prints, those of one group together, the best average first, and a ``note`` on them.

    ``names``: searches and verified models of the home, and files of certificates; none: what is published. Published
    rows are those of the groups that the names have.

    ``UsageError`` for a name that is neither, and for a file that is no certificate; ``Failed`` if the home's storage
    cannot be read.
    """
    home = home or Home()
    rows = [row for name in dict.fromkeys(names) for row in _rows(name, home)]
    groups = {_group(row) for row in rows}
    published = [row for row in _published() if not names or _group(row) in groups]
    rows = sorted(rows + published, key=lambda row: (_group(row), -row["average"]))
    for group in dict.fromkeys(map(_group, rows)):
        _mark([row for row in rows if _group(row) == group and row["worst"] is not None])
    of_tracks = dict.fromkeys(f"{row['data']}: {note}" for row in rows for note in tracks_note(row))
    return {"rows": rows, "note": " ".join([NOTE, *of_tracks])}


def _mark(rows: list[dict[str, Any]]) -> None:
    for i in nondominated([[row["average"], row["worst"]] for row in rows], [True] * len(rows)):
        rows[i]["front"] = True


def _group(row: dict[str, Any]) -> tuple[str, str, str, str]:
    return row["data"], row["imbalance"], row["threat"], row["eps"]


def _rows(name: str, home: Home) -> list[dict[str, Any]]:
    if os.path.isfile(name):  # Path's raises OSError for what is too long for a file's name
        return _of(read_certificate(Path(name)), name, THEIRS)
    if not SEARCH_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is neither a file nor a name; it takes searches, verified models and certificates")
    if storage := storage_of(home):  # which the user has named
        pull(storage, home, name)
    for folder in (home.search(name), folder_of(home, name)):
        if (folder / NAME).exists():
            certificate = read_certificate(folder / NAME)
            return _of(certificate, name, HERE if _tested_here(folder, certificate) else THEIRS)
    raise UsageError(
        f"{name!r} has no certificate in {str(home.root)!r}; `tuner verify {name}{home.flag}` makes that of a search"
    )


def _tested_here(folder: Path, certificate: Certificate) -> bool:
    """Whether the results lie beside the certificate: an imported search has its sender's certificate alone."""
    results = folder / "verify" / results_of(certificate.attack)
    return all((results / f"{_result(claim)}.json").exists() for claim in certificate.claims)


def _result(claim: Claim) -> str:
    return ROLE if claim.role == ROLE else row_label({"trial": claim.trial, "offsets": claim.offsets.to_dict()})


def _of(certificate: Certificate, source: str, verdict: str) -> list[dict[str, Any]]:
    about = {
        "network": certificate.spec["model"],
        "data": _images(certificate.spec),
        "imbalance": certificate.spec["imbalance"],
        "attack": certificate.attack,
        "images": certificate.images,
        **_tracks(certificate),
        "source": source,
        "verdict": verdict,
        "front": False,
    }
    return [
        {
            "name": _name(certificate, claim),
            "threat": claim.threat,
            "eps": eps_text(claim.eps, claim.threat),
            **about,
            **_accuracies(certificate, claim),
        }
        for claim in certificate.claims
    ]


def _tracks(certificate: Certificate) -> dict[str, Any]:
    """Of how many tracks the test images are, if they are of any; None where nothing says it."""
    if certificate.tracks is None or certificate.labels is None:
        return {"tracks": None} if certificate.hidden_tracks else {}
    return {"tracks": int(independent(certificate.labels, certificate.tracks, len(certificate.classes)).sum())}


def _name(certificate: Certificate, claim: Claim) -> str:
    if claim.role == ROLE:
        return certificate.search
    what = {"front": certificate.spec["method"], "paper": f"{certificate.spec['method']}, default", "no_search": "AT"}
    return f"{certificate.search}: {what[claim.role]} ({name_of(claim.trial, Offsets.of(claim.offsets.to_dict()).tau)})"


def _accuracies(certificate: Certificate, claim: Claim) -> dict[str, Any]:
    if certificate.labels is None:  # of an earlier version: nobody can say here what class an image is of
        found = {"clean": float(claim.clean.mean()), "average": float(claim.robust.mean())}
        return {**found, "average_ci": None, "worst": None, "worst_ci": None, "few": None}
    labels, k = certificate.labels, len(certificate.classes)
    count, clean, robust = (np.bincount(labels[m], minlength=k) for m in (slice(None), claim.clean, claim.robust))
    metrics = class_metrics(certificate.classes, certificate.train_counts, count, clean, robust)
    there = count > 0
    own = independent(labels, certificate.tracks, k)[there]
    right = as_tracks(robust[there], count[there], own)
    return {
        "clean": metrics["clean_acc"],
        "average": metrics["robust_acc"],
        "average_ci": class_mean(right, own),
        "worst": metrics["worst_class_robust_acc"],
        "worst_ci": worst_class(right, own)[1],
        "few": metrics.get("few_robust_acc"),
    }


def _published() -> list[dict[str, Any]]:
    data, threat, eps = OF_PUBLISHED
    empty = {"clean": None, "average_ci": None, "worst_ci": None, "few": None, "attack": None, "images": None}
    return [
        {
            "name": row.name,
            "threat": threat,
            "eps": eps,
            "network": row.model,
            "data": data,
            "imbalance": row.imbalance,
            "source": row.source,
            "verdict": SECOND_HAND if row.second_hand else PRINTED,
            "front": False,
            **empty,
            "average": row.average / 100,
            "worst": None if row.worst is None else row.worst / 100,
        }
        for row in PUBLISHED
    ]


def _images(spec: dict[str, str]) -> str:
    """``cifar10`` of ``parquet:/data/cifar10``; ``cifar10 16x16``, ``cifar10 validation`` of other images of it."""
    size, split = spec["image_size"], spec["test_split"]
    name = spec["dataset"].rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return " ".join([name, *([f"{size}x{size}"] if size else []), *([split] if split not in ("", "test") else [])])


def sources(result: dict[str, Any]) -> list[str]:
    """Where the published rows were read, each once: the first is [1] in a table."""
    return list(dict.fromkeys(r["source"] for r in result["rows"] if r["verdict"] in (PRINTED, SECOND_HAND)))


def footnotes(result: dict[str, Any]) -> list[str]:
    """What stands below the table."""
    return [*(f"[{number}] {source}" for number, source in enumerate(sources(result), 1)), result["note"]]


def cells(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text."""
    read = {source: f"[{number}]" for number, source in enumerate(sources(result), 1)}
    header = [
        "",
        "name",
        "network",
        "data",
        "threat",
        "attack",
        "clean",
        "average",
        "worst",
        "few",
        "source",
        "verdict",
    ]
    return header, [
        [
            "•" if row["front"] else "",
            row["name"],
            row["network"],
            row["data"] + ("" if row["imbalance"] == "none" else f" {row['imbalance']}"),
            f"{row['threat']}:{row['eps']}",
            f"{row['attack']}, {images_text(row)}" if row["attack"] else "see source",
            _percent(row["clean"]),
            _percent(row["average"], row["average_ci"]),
            _percent(row["worst"], row["worst_ci"]),
            _percent(row["few"]),
            read.get(row["source"], row["source"]),
            row["verdict"],
        ]
        for row in result["rows"]
    ]


def _percent(value: float | None, ci: tuple[float, float] | None = None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2f}" + (f" ({100 * ci[0]:.1f}..{100 * ci[1]:.1f})" if ci else "")


def show_leaderboard(result: dict[str, Any]) -> None:
    from tuner.report.console import stdout_console
    from tuner.report.tables import PlainTable

    console, (header, rows) = stdout_console(), cells(result)
    table = PlainTable(*header, title="Robust accuracy on split test, in per cent")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in footnotes(result):
        console.print(line, highlight=False, soft_wrap=True)


def write_page(result: dict[str, Any], path: Path) -> None:
    """The same as a page, with a picture of average against worst class. ``UsageError`` where it cannot be written."""
    from tuner import escape
    from tuner.report.files import write_asked
    from tuner.report.html.page import BLUE, GREY, page, table

    points = [
        {
            "name": r["name"],
            "at": [r["average"], r["worst"]],
            "ours": r["verdict"] in (HERE, THEIRS),
            "front": r["front"],
        }
        for r in result["rows"]
        if r["worst"] is not None
    ]
    below = "".join(f'<p class="small">{escape.html(line)}</p>' for line in footnotes(result))
    text = page(
        "Leaderboard",
        "average against worst class under attack · split test",
        f'<div id="front"></div>{table(*cells(result))}{below}',
        {"points": points, "colours": [BLUE, GREY], "axis": ["average robust accuracy", "worst class"]},
        SCRIPT,
    )
    write_asked("html", path, text)


SCRIPT = r"""
const [blue, grey] = D.colours;
const some = (points, name, color, symbol) => ({
  x: points.map(p => p.at[0]), y: points.map(p => p.at[1]), text: points.map(p => asText(p.name)), mode: "markers+text",
  textposition: "bottom right", name, meta: name, visible: points.length > 0,
  marker: {color, symbol: points.map(p => p.front ? symbol : symbol + "-open"), size: 11}});
drawPlane([some(D.points.filter(p => p.ours), "tested", blue, "circle"),
           some(D.points.filter(p => !p.ours), "published", grey, "square")], {});
"""
