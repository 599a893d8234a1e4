"""Data sets for benchmarks: random images behind the real data code, for those of cost, and parts of real ones."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def write_table(rows: list[dict], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def random_images(folder: Path, each: int, *, size: int = 32, channels: int = 3, classes: int = 10) -> str:
    """A balanced `parquet:` data set of ``each`` noise images per class (test: a tenth); its name as a dataset."""
    rng = np.random.default_rng(0)
    for split, count in (("train", each), ("test", max(1, each // 10))):
        rows = []
        for label in range(classes):
            for number in range(count):
                pixels = rng.integers(0, 256, (size, size, channels), dtype=np.uint8).squeeze()
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, "PNG")
                rows.append({"img": {"bytes": png.getvalue(), "path": f"{split}/{label}/{number}.png"}, "label": label})
        write_table(rows, folder / f"{split}.parquet")
    return f"parquet:{folder}"


def thinned(source: Path, folder: Path, total: int, *, test: int | None = None, seed: int = 0) -> str:
    """``total`` random images of a parquet data set, as many of each class, and all of its test set, or ``test`` images
    chosen likewise; its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, images in (("train.parquet", total), ("test.parquet", test)):
        table = pq.read_table(source / name)
        pq.write_table(table if images is None else _some(table, images, seed), folder / name)
    return f"parquet:{folder}"


def _some(table: pa.Table, total: int, seed: int) -> pa.Table:
    labels = table["label"].to_numpy()
    rng, classes = np.random.default_rng(seed), np.unique(labels)
    kept = [rng.permutation(np.flatnonzero(labels == c))[: total // len(classes)] for c in classes]
    return table.take(np.sort(np.concatenate(kept)))


def signs(source: Path, folder: Path, *, every: int = 8, test: int = 1500) -> str:
    """GTSRB's ten largest classes but for the speed limits (which few pixels do not tell apart): every eighth frame of
    each track, and ``test`` random test images, as many of each class; its name. ``source``: a parquet data set whose
    training images are named CLASS/TRACK_FRAME."""
    train, tested = (pq.read_table(source / name) for name in ("train.parquet", "test.parquet"))
    sizes = np.bincount(train["label"].to_numpy())
    chosen = [c for c in np.argsort(-sizes, kind="stable") if c > 8][:10]  # 0 to 8 are speed limits
    new = {int(old): label for label, old in enumerate(chosen)}

    def kept(table: pa.Table) -> list[dict]:
        return [row | {"label": new[row["label"]]} for row in table.to_pylist() if row["label"] in new]

    frames = [row for row in kept(train) if int(Path(row["image"]["path"]).stem.split("_")[1]) % every == 0]
    write_table(frames, folder / "train.parquet")
    pq.write_table(_some(pa.Table.from_pylist(kept(tested)), test, 0), folder / "test.parquet")
    return f"parquet:{folder}"
