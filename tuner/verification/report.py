"""The files that `tuner verify` writes into a search's folder: a page, and a table of every model tested."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tuner import escape
from tuner.files import write_atomically
from tuner.report.format import images_text
from tuner.spec.search_spec import SearchSpec
from tuner.verification.certificate import latest_images
from tuner.verification.job import Tested
from tuner.verification.summary import CORRECTION, TEST_SPLIT, is_of, read_result, row_of
from tuner.verification.text import cells, gain_cells, role_name, sentences


def write_report(result: dict[str, Any], run: Tested) -> None:
    """Write ``verified.html`` and ``verified.parquet``; ``result`` is `tuner.verification.summary.summary`'s."""
    folder = run.folder
    write_atomically(folder / "verified.parquet", _parquet(folder))
    write_atomically(folder / "verified.html", page(result, run.spec))


def _parquet(folder: Path) -> bytes:
    """One row for each model and attack tested so far on the images that the certificate is of."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, data = [], latest_images(folder)
    for path in sorted((folder / "verify").glob("*/*.json")):
        stored = read_result(path, path.with_suffix(".parquet"))
        if stored and "failed" not in stored and is_of(stored, data):
            rows.append(_row(folder.name, path, stored))
    names = list(dict.fromkeys(k for row in rows for k in row))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({escape.printable(n): [row.get(n) for row in rows] for n in names}), sink)
    return sink.getvalue().to_pybytes()


def _row(name: str, path: Path, stored: dict[str, Any]) -> dict[str, Any]:
    """A model's row in the table; ``path``: of its ``stored`` result."""
    r = row_of(stored, path.with_suffix(".parquet"))
    scalars = {k: v for k, v in r.items() if not isinstance(v, (dict, list))}
    intervals = {f"{n}_{end}": r["ci"][n][i] for n in r["ci"] if n != "level" for i, end in enumerate(("low", "high"))}
    classes = {f"{k}/{c}": v[k] for k in ("robust_acc", "clean_acc") for c, v in r["per_class"].items()}
    return {
        "search": name,
        "split": TEST_SPLIT,
        "attack": stored["attack"],
        "retrained": "-seed" in path.stem,
        "offsets": r["offsets"]["kind"],
        "tau": r["offsets"]["tau"],
        **scalars,
        "alarms": "; ".join(r["alarms"]),
        **intervals,
        **classes,
    }


def page(result: dict[str, Any], spec: SearchSpec) -> str:
    """``verified.html``: the validation front beside the verified front and what it is compared with, tables, and each
    class of a chosen row."""
    from tuner.report.figures import AXIS, plane
    from tuner.report.html.page import BLACK, BLUE, GREEN, GREY, PURPLE, VERMILLION, table
    from tuner.report.html.page import page as whole_page
    from tuner.report.html.verification_template import BODY, SCRIPT

    x, y = plane(spec.objectives)
    points = [
        {
            "id": r["label"],
            "name": r["name"],
            "tag": _tag(r),
            "role": r["role"],
            "also": r["also"],
            "val": [r["val"].get(x), r["val"].get(y)],
            "test": [r[x], r[y]],
            "ci": [r["ci"].get(x), r["ci"].get(y)],
            "on": r["label"] not in result["fell_off"],
            "seeds": _plane_of_seeds(r.get("seeds"), x, y),
            "classes": {c: [v["robust_acc"], *v["ci"]] for c, v in r["per_class"].items()},
        }
        for r in result["rows"]
    ]
    paragraphs = "".join(
        f"<p{' class=alarm' if s.startswith('ALARM') else ''}>{escape.html(s)}</p>" for s in sentences(result)
    )
    gains = gain_cells(result)
    fields = {
        "SENTENCES": paragraphs,
        "TABLE": table(*cells(result)),
        "GAIN": f"<h2>Gains on the same images</h2>{table(*gains)}" if gains[1] else "",
        "NOTE": escape.html(CORRECTION),
    }
    first, of_search = result["rows"][0], f"{spec.method_names} on {spec.dataset}, imbalance {spec.imbalance}"
    what = f"{of_search}, model {spec.model} · budget {spec.max_epochs} epochs"
    eps = "searched" if "eps" in spec.own_attacks else f"{first['eps']:.3g}"
    if "model" in result:
        what = f"{result['model']['arch']} on {spec.dataset}"
    return whole_page(
        f"{result['search']} verified on {TEST_SPLIT}",
        f"{what} · split {TEST_SPLIT}, {images_text(first)} · attack {result['attack']}, "
        f"{spec.threat_model.shown}, eps {eps} of a pixel range of 1",
        re.sub("@@([A-Z]+)@@", lambda match: fields[match[1]], BODY),
        {
            "points": points,
            "colours": [BLUE, GREY, VERMILLION, PURPLE, BLACK, GREEN],
            "axis": [AXIS.get(n, n).replace("on val", "on val and test") for n in (x, y)],
        },
        SCRIPT,
    )


def _tag(row: dict[str, Any]) -> str:
    """At the row's point: ``4@0.75``, ``0 (default setting)``, ``no search``."""
    if row["role"] != "front":
        return row["name"]
    return row["label"] + (f" ({role_name('paper', row)})" if "paper" in row["also"] else "")


def _plane_of_seeds(seeds: dict[str, Any] | None, x: str, y: str) -> dict[str, list] | None:
    """Mean and standard deviation on both axes of a trial that was trained anew; None where no seed succeeded."""
    if not seeds or not seeds["seeds"]:
        return None
    return {key: [seeds[n][key] for n in (x, y)] for key in ("mean", "std")}
