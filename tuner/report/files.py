"""Write fronts as files: page, PNG, Parquet table. Each file is complete or absent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import UsageError
from tuner.escape import printable
from tuner.files import write_atomically
from tuner.report.comparison import Comparison
from tuner.report.comparison_figures import comparison_data, comparison_png
from tuner.report.figures import picture_data
from tuner.report.format import per_class
from tuner.report.gain import gains_in
from tuner.report.png import png
from tuner.results.history import tidy
from tuner.results.pareto import row_label
from tuner.results.search_run import SearchRun
from tuner.results.summary import SPLIT, front_json
from tuner.results.trial_record import TrialRecord
from tuner.spec.objectives import shown_metrics

if TYPE_CHECKING:
    import pyarrow


def front_parquet(run: SearchRun) -> bytes:
    """The front as the bytes of a Parquet file, one row for each (trial, offsets).

    Columns: trial, label (`row_label`), offsets_kind, tau, epoch, seed (the trial's own), seeds (over so many the
    metrics are means), the metrics of `shown_metrics`, method, split, budget (epochs), param/NAME, robust_acc/CLASS; of
    a model that was judged over its offsets also offset/CLASS (added to the logit) and the counts of images judged and
    classified right without and under attack: count/CLASS, clean_count/CLASS, robust_count/CLASS. These are of the
    trial's own seed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    spec, history = run.spec, run.history
    metrics = shown_metrics(spec.objectives)
    rows = [
        {
            "trial": r["trial"],
            "label": row_label(r),
            "offsets_kind": r["offsets"]["kind"],
            "tau": float(r["offsets"]["tau"]),
            "epoch": r["epoch"],
            "seed": r["seed"],
            "seeds": len(history.seeds_of(r["trial"])),
            **{n: r[n] for n in metrics},
            "method": r["method"],
            "split": SPLIT,
            "budget": spec.max_epochs,
            **{f"param/{k}": v for k, v in r["params"].items()},
            **{f"robust_acc/{k}": v for k, v in per_class(history.metrics_of(r)).items()},
            **_counts(history.record(r["trial"]), r["offsets"]["tau"]),
        }
        for r in run.front().rows
    ]
    types = {
        "trial": pa.int64(),
        "label": pa.string(),
        "offsets_kind": pa.string(),
        "tau": pa.float64(),
        "epoch": pa.int64(),
        "seed": pa.int64(),
        "seeds": pa.int64(),
        **dict.fromkeys(metrics, pa.float64()),
        "method": pa.string(),
        "split": pa.string(),
        "budget": pa.int64(),
    }
    names = list(dict.fromkeys([*types, *(k for row in rows for k in row)]))
    columns = {printable(n): _column([row.get(n) for row in rows], types.get(n)) for n in names}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def _counts(record: TrialRecord, tau: float) -> dict[str, float]:
    """The trial's own counts at these offsets, and the offsets, by class; empty where it was not swept."""
    if record.curve is None:
        return {}
    point = next(point for point in record.curve.points if point.offsets.tau == tau)
    columns = {"count": point.count, "clean_count": point.clean, "robust_count": point.robust}
    columns["offset"] = point.offsets.values or [0.0] * len(point.count)
    return {f"{k}/{name}": v for k, values in columns.items() for name, v in zip(record.curve.classes, values)}


def _column(values: list, kind: pyarrow.DataType | None) -> pyarrow.Array:
    import pyarrow as pa

    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a choice of mixed types, such as "auto" or 4
        return pa.array([None if v is None else str(v) for v in values])


def require_file(flag: str, path: Path) -> None:
    """``UsageError`` where an option that takes a file names a folder, a pipe or a device: it would be replaced, and
    /dev/null with it for the whole machine where root asks for it."""
    if path.is_dir():
        raise UsageError(f"--{flag} {str(path)!r} is a folder; give a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"--{flag} {str(path)!r} is no regular file; give the name of one")


def write_asked(flag: str, path: Path, data: bytes | str) -> None:
    """Write the file that an option names; ``UsageError`` where that is no file or cannot be written."""
    require_file(flag, path)
    try:
        write_atomically(path.absolute(), data)
    except OSError as error:
        raise UsageError(f"--{flag} {str(path)!r} cannot be written ({error.strerror})") from None


def write_files(files: dict[str, Path], runs: Sequence[SearchRun], comparison: Comparison | None) -> None:
    """Write the files that ``files`` names: "html", "png" or "parquet" -> path.

    The first two show the single run, or the ``comparison`` of several; the table has all trials x epochs.
    ``UsageError`` for a path that is no file or cannot be written.
    """
    from tuner.report.html.front_page import front_page

    for kind, path in files.items():
        require_file(kind, path)
    data = {}
    if files.keys() - {"parquet"}:
        data = comparison_data(comparison) if comparison else picture_data(runs[0])
        if comparison and len(runs) == 1:  # of one search of several methods: what it gains, too
            data["gain"] = f"{gains_in(front_json(runs[0]), runs[0].spec.objectives)}\n{data['gain']}"
    makers = {
        "html": lambda: front_page(data),
        "png": lambda: comparison_png(comparison, data) if comparison else png(data),
        "parquet": lambda: trials_parquet(runs),
    }
    for kind, path in files.items():
        write_asked(kind, path, makers[kind]())


def trials_parquet(runs: Sequence[SearchRun]) -> bytes:
    """All trials x epochs of these searches as the bytes of a Parquet file.

    Columns: search, then those of `History.table`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"search": run.name, **row} for run in runs for row in run.history.epoch_rows()]
    sink = pa.BufferOutputStream()
    pq.write_table(tidy(rows, ["search"]), sink)
    return sink.getvalue().to_pybytes()


def write_page(run: SearchRun) -> Path:
    """Write ``front.html`` into the search's folder from the history so far; returns its path."""
    from tuner.report.html.front_page import front_page

    path = run.folder / "front.html"
    write_atomically(path, front_page(picture_data(run)))
    return path


def write_pictures(run: SearchRun, folder: Path | None = None) -> dict[str, Path]:
    """Write ``front.html``, ``front.png`` and ``front.parquet`` into the search's folder, or into ``folder``.

    Returns file name -> path.
    """
    from tuner.report.html.front_page import front_page

    data, folder = picture_data(run), folder or run.folder
    contents = {"front.html": front_page(data), "front.png": png(data), "front.parquet": front_parquet(run)}
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return {name: folder / name for name in contents}
