"""Right files, of which wrong ones are made: a finished search, its models, data sets. Nothing is trained for them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torchvision.models  # noqa: F401 - names of models are looked up there, and importing it takes seconds
from PIL import Image
from safetensors.torch import save_file

from tests.histories import fill
from trainables.checkpoint import save_checkpoint
from trainables.data import DataSpec, check, digest, open_test
from trainables.loop import Trainer
from trainables.model_io import load_trial
from trainables.stem_store import StemStore
from trainables.verification_run import fingerprint
from tuner.errors import Failed
from tuner.execution.trial_config import trial_config
from tuner.home import Home
from tuner.results.history import History
from tuner.results.search_run import SearchRun
from tuner.results.summary import front_json, save_result
from tuner.spec.search_spec import SearchSpec
from tuner.verification import verify
from tuner.verification.reproduce import bundle
from tuner.verification.rows import chosen

CLASSES = [str(c) for c in range(10)]


@dataclass(frozen=True)
class Corpus:
    """``home`` holds search ``s``, which is finished; ``model``, ``parquet`` and ``images`` are folders beside it."""

    root: Path
    run: SearchRun

    @property
    def home(self) -> Home:
        return self.run.home

    @property
    def search(self) -> Path:
        return self.run.folder

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def bundle(self) -> Path:
        return self.root / "s.bundle.zip"

    @property
    def parquet(self) -> Path:
        return self.root / "parquet"

    @property
    def images(self) -> Path:
        return self.root / "images"


def build(root: Path) -> Corpus:
    home = Home(root / "home")
    spec = SearchSpec(method="srat", trials=2, max_epochs=3, scheduler="none", name="s", imbalance="none")
    folder = home.search("s")
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(spec.to_yaml())
    history = fill(History(folder), spec, trials=2, classes=CLASSES[:3], failed=False, curves=True)
    run = SearchRun(spec, home, "s", history)
    check(DataSpec(imbalance="none"), home.root)
    for record in (history.trials[0], history.trials[1], history.references[-1]):
        config = trial_config(run, record)
        trainer = Trainer(config)
        trainer.epoch = config.max_epochs
        save_checkpoint(config.folder, trainer, record.last)
    save_result(
        folder, {**front_json(run), "epochs_trained": 9, "wall_s": 1.0, "epochs_saved": 0, "epochs_saved_by": {}}
    )
    corpus = Corpus(root, run)
    _model(corpus)
    _parquet(corpus.parquet)
    _images(corpus.images)
    verified(run)
    bundle("s", corpus.bundle, home)
    StemStore(str(home.root), None, "0123456789abcdef").describe({"code": "x", "torch": "2"})
    return corpus


def verified(run: SearchRun) -> None:
    """The search's verification, with made-up outcomes."""
    rows, _ = chosen(run, None, 8)
    split = open_test(DataSpec(imbalance="none"), run.home.root)
    labels, rng = split.labels.numpy(), np.random.default_rng(0)
    with mock.patch.object(verify, "code_version", lambda: "0.1.0"):
        for job in verify.make_jobs(run, rows, "apgd", 0):
            result = {
                "labels": labels,
                "broken_by": rng.choice([-1, 0, 1], len(labels)),
                "stages": [{"name": n, "tried": 300, "broken": 100, "seconds": 1.0} for n in ("clean", "apgd-ce")],
                "alarms": [],
                "offsets": job.offsets.to_dict(),
                "classes": CLASSES,
                "train_counts": [100] * 10,
                "data": digest(split),
                "threat": "linf",
                "eps": 0.1,
                "search_steps": 20,
                "epoch": 3,
                "checkpoint": fingerprint(job.config.folder),
                "device": "cpu",
                "versions": {"torch": "2"},
                "seconds": 1.0,
            }
            verify.store(job, "apgd", {"result": result})
    with without_attacks():
        verify.verify_search("s", run.home)


@contextmanager
def without_attacks() -> Iterator[None]:
    """In this block `tuner verify` and `tuner audit` attack nothing, and tell no MLflow."""

    def refuse(*_: object) -> None:
        raise Failed("nothing is attacked here")

    with (
        mock.patch.multiple(verify, run_jobs=refuse, _to_mlflow=lambda *_: None),
        mock.patch("tuner.verification.audit._attack", refuse),
    ):
        yield


def _model(corpus: Corpus) -> None:
    config = trial_config(corpus.run, corpus.run.history.trials[0])
    model, about = load_trial(config.folder, corpus.home.root)
    corpus.model.mkdir()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, corpus.model / "model.safetensors")
    (corpus.model / "model.json").write_text(json.dumps({"architecture": about["architecture"]}))


def picture(label: int, number: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(10 * label + number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def rows(each: int = 6) -> list[dict]:
    return [
        {"image": {"bytes": picture(label, n), "path": f"{label}/{n}.png"}, "label": label, "text": "x"}
        for label in range(3)
        for n in range(each)
    ]


def _parquet(folder: Path) -> None:
    folder.mkdir()
    names = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b", "c"]}}}}
    for split in ("train", "test"):
        table = pa.Table.from_pylist(rows())
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), folder / f"{split}.parquet")


def _images(folder: Path) -> None:
    for split in ("train", "test"):
        for label, name in enumerate("abc"):
            place = folder / split / name
            place.mkdir(parents=True)
            for n in range(4):
                (place / f"{n}.png").write_bytes(picture(label, n))
    torch.manual_seed(0)
