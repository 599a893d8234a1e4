"""Pages, pictures and tables of fronts as files; each appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

from tuner.errors import UsageError
from tuner.files import write_atomically
from tuner.report.format import per_class
from tuner.results.fronts import front_of
from tuner.results.history import History
from tuner.results.summary import SPLIT
from tuner.spec.search_spec import SearchSpec


def front_parquet(history: History, spec: SearchSpec) -> bytes:
    """One row per front member: trial, epoch, objectives, clean_acc, split, budget, param/..., robust_acc/<class>."""
    import pyarrow as pa
    import pyarrow.parquet as pq

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
        for r in front_of(history, spec).rows
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


def write_files(files: dict[str, Path], found: list[tuple[str, SearchSpec, History]], over) -> None:
    """``files`` maps "html", "png", "parquet" to where they go: pictures of one search (or of the overlay ``over``),
    and all trials x epochs as one tidy table. Each appears whole or not at all; ``UsageError`` where it cannot."""
    from tuner.report.figures import picture_data
    from tuner.report.html.front_page import front_page
    from tuner.report.png import png

    for kind, path in files.items():
        if path.is_dir():
            raise UsageError(f"--{kind} {str(path)!r} is a folder; give a file")
    if not over:
        data = picture_data(found[0][2], found[0][1])
    elif files.keys() - {"parquet"}:
        from tuner.report.comparison_figures import overlay_png
        from tuner.report.comparison_figures import picture_data as overlay_data

        data = overlay_data(over)
    makers = {
        "html": lambda: front_page(data),
        "png": lambda: overlay_png(over, data) if over else png(data),
        "parquet": lambda: trials_parquet({name: history for name, _, history in found}),
    }
    for kind, path in files.items():
        try:
            write_atomically(path.absolute(), makers[kind]())
        except OSError as error:
            raise UsageError(f"--{kind} {str(path)!r} cannot be written ({error.strerror})") from None


def trials_parquet(histories: dict[str, History]) -> bytes:
    """All trials x epochs of these searches: ``search`` and the columns of `History.table`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [h.table().add_column(0, "search", [[name] * h.table().num_rows]) for name, h in histories.items()]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables, promote_options="permissive"), sink)
    return sink.getvalue().to_pybytes()


def write_pictures(folder: Path, history: History, spec: SearchSpec) -> dict[str, Path]:
    """Write ``front.html``, ``front.png`` and ``front.parquet`` into ``folder``; each appears whole or not at all."""
    from tuner.report.figures import picture_data
    from tuner.report.html.front_page import front_page
    from tuner.report.png import png

    data = picture_data(history, spec)
    made = {"front.html": front_page(data), "front.png": png(data), "front.parquet": front_parquet(history, spec)}
    for name, content in made.items():
        write_atomically(folder / name, content)
    return {name: folder / name for name in made}
