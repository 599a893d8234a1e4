"""Pages, pictures and tables of fronts as files; each appears whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.report.comparison import Overlay
from tuner.report.comparison_figures import overlay_png
from tuner.report.comparison_figures import picture_data as overlay_data
from tuner.report.figures import picture_data
from tuner.report.format import per_class
from tuner.report.png import png
from tuner.results.search_run import SearchRun
from tuner.results.summary import SPLIT


def front_parquet(run: SearchRun) -> bytes:
    """One row per front member: trial, epoch, objectives, clean_acc, split, budget, param/..., robust_acc/<class>."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    spec, history = run.spec, run.history
    metrics = list(dict.fromkeys([*spec.objectives, "clean_acc"]))
    rows = [
        {
            "trial": r["trial"],
            "epoch": r["epoch"],
            **{n: r[n] for n in metrics},
            "method": r["method"],
            "split": SPLIT,
            "budget": spec.max_epochs,
            **{f"param/{k}": v for k, v in r["params"].items()},
            **{f"robust_acc/{k}": v for k, v in per_class(history.judged(r["trial"])).items()},
        }
        for r in run.front().rows
    ]
    types = {
        "trial": pa.int64(),
        "epoch": pa.int64(),
        **dict.fromkeys(metrics, pa.float64()),
        "method": pa.string(),
        "split": pa.string(),
        "budget": pa.int64(),
    }
    names = list(dict.fromkeys([*types, *(k for row in rows for k in row)]))
    columns = {n: _column([row.get(n) for row in rows], types.get(n)) for n in names}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def _column(values: list, kind):
    import pyarrow as pa

    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a choice of mixed types, such as "auto" or 4
        return pa.array([None if v is None else str(v) for v in values])


def write_files(files: dict[str, Path], runs: Sequence[SearchRun], over: Overlay | None) -> None:
    """``files`` maps "html", "png", "parquet" to where they go: pictures of one search (or of the overlay ``over``),
    and all trials x epochs as one tidy table. Each appears whole or not at all; ``UsageError`` where it cannot."""
    from tuner.report.html.front_page import front_page

    for kind, path in files.items():
        if path.is_dir():
            raise UsageError(f"--{kind} {str(path)!r} is a folder; give a file")
    data = {}
    if files.keys() - {"parquet"}:
        data = overlay_data(over) if over else picture_data(runs[0])
    makers = {
        "html": lambda: front_page(data),
        "png": lambda: overlay_png(over, data) if over else png(data),
        "parquet": lambda: trials_parquet(runs),
    }
    for kind, path in files.items():
        try:
            write_atomically(path.absolute(), makers[kind]())
        except OSError as error:
            raise UsageError(f"--{kind} {str(path)!r} cannot be written ({error.strerror})") from None


def trials_parquet(runs: Sequence[SearchRun]) -> bytes:
    """All trials x epochs of these searches: ``search`` and the columns of `History.table`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for run in runs:
        table = run.history.table()
        tables.append(table.add_column(0, "search", [[run.name] * table.num_rows]))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables, promote_options="permissive"), sink)
    return sink.getvalue().to_pybytes()


def write_page(run: SearchRun) -> Path:
    """Write ``front.html`` into the search's folder, as the history stands now."""
    from tuner.report.html.front_page import front_page

    path = run.folder / "front.html"
    write_atomically(path, front_page(picture_data(run)))
    return path


def write_pictures(run: SearchRun, folder: Path | None = None) -> dict[str, Path]:
    """Write ``front.html``, ``front.png`` and ``front.parquet`` into the search's folder, or into another one."""
    from tuner.report.html.front_page import front_page

    data, folder = picture_data(run), folder or run.folder
    made = {"front.html": front_page(data), "front.png": png(data), "front.parquet": front_parquet(run)}
    for name, content in made.items():
        write_atomically(folder / name, content)
    return {name: folder / name for name in made}
