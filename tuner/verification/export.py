"""`tuner export`: a model of the front as a self-contained folder, or all trials as a table.

The folder holds model.safetensors, model.pt2, model.json and README.md. It is written under another name and renamed
when it is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import stat
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuner.errors import UsageError
from tuner.home import Home
from tuner.report.files import require_file, write_asked
from tuner.results.search_run import SearchRun
from tuner.results.searches import load_search
from tuner.results.trial_record import TrialRecord
from tuner.spec.search_spec import prior_note
from tuner.sync.named_places import check_named
from tuner.verification.code import code_version
from tuner.verification.job import Job
from tuner.verification.rows import ROLES, row_named
from tuner.verification.verify import make_jobs, stored

FORMAT = 1
FILES = ("model.safetensors", "model.pt2", "model.json", "README.md")


def export_model(
    name: str,
    pick: str,
    to: Path | str,
    home: Home | None = None,
    *,
    register: str | None = None,
    dataset: str | None = None,
    epoch: str = "last",
) -> dict[str, Any]:
    """Write the picked model to folder ``to``, and into MLflow's registry under the name ``register``.

    ``pick`` names a row of the front (`Front.pick`), or ``paper`` or ``no_search``, with offsets ``paper@TAU``: they
    are folded into the head's bias. ``epoch``: last, or best on `val`. ``dataset`` must repeat the search's where that
    is a URL (see `verify_search`). Returns trial, offsets, folder, and the registered model, version, alias and id of
    the logged model.

    ``UsageError`` for wrong input; ``Failed`` for a damaged checkpoint, or where MLflow refuses the model.
    """

    home, to = home or Home(), Path(to).absolute()
    run = load_search(home, name)
    check_named(run.spec, home, name, f"export --pick {pick} --to {shlex.quote(str(to))}", dataset=dataset)
    row = row_named(run, str(pick))
    _check_target(to)
    (job,) = make_jobs(run, [{**row, "role": _role(str(pick)), "also": []}], "apgd", 0)
    alias = str(pick) if str(pick) in ("knee", "worst", "average") else _alias(job)
    _make_parent(to)
    work = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
    aside = work / "bundle"
    aside.mkdir()
    try:
        about = _write(aside, job, run, str(pick), epoch)
        exported = {"trial": row["trial"], "offsets": row["offsets"], "folder": str(to)}
        if about["prior_in_loss"]:
            exported["note"] = about["prior_in_loss"]
        if register is not None:
            from tuner.tracking.after_search import register as to_registry

            found = to_registry(aside, about, run, register, alias)
            exported |= {"model": found.pop("name"), **found}
        _replace(aside, to)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return exported


def _role(pick: str) -> str:
    role = pick.partition("@")[0]
    return role if role in ROLES[1:] else "front"


def _alias(job: Job) -> str:
    """In MLflow's registry, which allows letters, digits, - and _."""
    name = f"trial-{job.trial}" if job.role == "front" else job.role
    return name + (f"-tau-{job.offsets.tau:g}".replace(".", "_") if job.offsets.tau else "")


def _write(folder: Path, job: Job, run: SearchRun, pick: str, epoch: str) -> dict[str, Any]:
    """Fill ``folder`` with the job's model; returns the content of ``model.json``."""
    import torch

    from trainables.checkpoint import DamagedCheckpoint
    from trainables.model_io import load_trial, write_weights
    from tuner.report.model_card import card_markdown

    spec, record = run.spec, run.history.record(job.trial)
    metrics = record.best(spec.objectives) if epoch == "best" else _metrics_of(record, job.offsets.tau)
    if epoch == "best" and job.offsets.tau:
        raise UsageError(
            f"--epoch best is not allowed with --pick {pick}, which has offsets: they are judged after the last epoch "
            f"alone; choose a row without"
        )
    try:
        model, saved = load_trial(job.config.folder, run.home.root, job.config.dataset, job.offsets, which=epoch)
    except DamagedCheckpoint:
        raise
    except ValueError as error:
        raise UsageError(f"--epoch {epoch} of trial {job.trial} cannot be exported: {error}") from None
    if epoch == "best" and saved["epoch"] != metrics["epoch"]:
        raise UsageError(
            f"--epoch best of trial {job.trial} cannot be exported: that is epoch {metrics['epoch']}, whose weights an "
            f"earlier version did not keep"
        )
    write_weights(model, folder, saved["architecture"]["shape"])
    about = {
        "format": FORMAT,
        "search": run.name,
        "trial": job.trial,
        "pick": pick,
        "role": job.role,
        "offsets": job.offsets.to_dict(),
        "prior_in_loss": prior_note(record.method) if job.offsets.tau else None,
        "method": record.method,
        "params": record.params,
        "architecture": saved["architecture"],
        "weights": saved["weights"],
        "epochs": saved["epoch"],
        "epoch": epoch,
        "mean_of": [of.seed for of in run.history.seeds_of(job.trial)],  # seeds over which the front's row is a mean
        "preprocessing": "RGB or grey images as float32 in [0, 1], (B, C, H, W); mean and std are inside the model",
        "training": {
            **saved["config"]["training"],
            "threat": job.config.threat,
            "dataset": spec.dataset,
            "imbalance": spec.imbalance,
            "seed": record.seed,
        },
        "spec": spec.to_dict(),
        # `tuner verify` tests the last epoch's model
        "metrics": [_val_metrics(metrics, job), *(_test_metrics(run.folder, job) if epoch == "last" else [])],
        "code": code_version(),
        "torch": torch.__version__,
    }
    (folder / "model.json").write_text(json.dumps(about, indent=1))
    (folder / "README.md").write_text(card_markdown(about))
    return about


def _metrics_of(record: TrialRecord, tau: float) -> dict[str, Any]:
    return next(metrics for offsets, metrics in record.points if offsets.tau == tau)


def _val_metrics(metrics: dict[str, Any], job: Job) -> dict[str, Any]:
    training = job.config.full_training()
    return {
        "split": "val",
        "attack": f"{training.eval_attack} steps each of CE-PGD and margin-PGD",
        "threat": job.config.threat,
        "eps": training.eps,
        **{k: v for k, v in metrics.items() if "acc" in k},
    }


def _test_metrics(folder: Path, job: Job) -> list[dict[str, Any]]:
    """The results of `tuner verify` for exactly this checkpoint with these offsets, one for each attack, on the test
    images of its latest run."""
    from tuner.verification.certificate import latest_images
    from tuner.verification.summary import is_of, row_of

    metrics, data = [], latest_images(folder)
    for attack in sorted((folder / "verify").glob("*")):
        tested = replace(job, path=attack / job.path.name)
        if is_of(result := stored(tested), data) and result:
            row = row_of(result, tested.flags)
            classes = row["per_class"].items()
            metrics.append(
                {
                    "split": "test",
                    "attack": result["attack"],
                    "threat": row["threat"],
                    "eps": row["eps"],
                    **({key: row[key] for key in ("images", "tracks")} if "tracks" in row else {}),
                    "ci": row["ci"],
                    "alarms": row["alarms"],
                    **{k: v for k, v in row.items() if "acc" in k},
                    **{f"{k}/{c}": v[k] for k in ("robust_acc", "clean_acc") for c, v in classes},
                    "ci_per_class": {c: v["ci"] for c, v in classes},
                }
            )
    return metrics


def _check_target(to: Path) -> None:
    """``UsageError`` unless ``to`` is absent, an empty folder, or an earlier export with nothing added to it."""
    if not os.path.lexists(to):
        return
    if to.is_symlink() or not to.is_dir():
        raise UsageError(f"--to {str(to)!r} exists and is not a folder; choose another")
    names = sorted(os.listdir(to))
    if not names or (set(names) == set(FILES) and _is_export(to)):
        return
    foreign = next((name for name in names if name not in FILES), None)
    what = f"also holds {foreign!r}" if foreign and "model.json" in names else "is not an earlier export"
    raise UsageError(f"--to {str(to)!r} exists and {what}; choose another folder")


def _is_export(folder: Path) -> bool:
    """Whether the files of ``folder`` are those of an export, by kind and format, and not just by name."""
    if not all(stat.S_ISREG(os.lstat(folder / name).st_mode) for name in FILES):
        return False
    try:
        about = json.loads((folder / "model.json").read_bytes())
    except ValueError:
        return False
    return isinstance(about, dict) and about.get("format") == FORMAT and {"search", "architecture"} <= about.keys()


def _make_parent(to: Path) -> None:
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=to.parent):
            pass
    except OSError as error:
        raise UsageError(f"{str(to.parent)!r} cannot be written ({error.strerror})") from None


def _replace(new: Path, to: Path) -> None:
    """Rename ``new`` to ``to``. An earlier export is moved away first: no folder can be renamed over one with files.

    Of the earlier one only our own files are removed, so that what somebody adds meanwhile stays, beside ``to``.
    """
    _check_target(to)  # again: writing the model took a while
    old = to.with_name(f".{to.name}.old-{os.getpid()}")
    if to.exists():
        os.rename(to, old)
    os.rename(new, to)
    if old.exists():
        for name in FILES:
            (old / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            old.rmdir()


def export_table(name: str, file: Path | str, home: Home | None = None) -> dict[str, Any]:
    """Write all trials x epochs as one Parquet table, in any state of the search; returns its path and row count.

    ``UsageError`` for an unknown search, or a file that cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    home, file = home or Home(), Path(file).absolute()
    history = load_search(home, name).history
    require_file("parquet", file)
    _make_parent(file)
    table, sink = history.table(), pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_asked("parquet", file, sink.getvalue().to_pybytes())
    return {"parquet": str(file), "rows": table.num_rows}
