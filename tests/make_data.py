"""Small image datasets on disk whose images say which row they are."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image


def encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def picture(row: int, size: int = 8, channels: int = 3) -> np.ndarray:
    """An image that says which row it is: the first two bytes are the row number."""
    pixels = np.random.RandomState(row).randint(0, 256, (size, size, channels), dtype=np.uint8)
    pixels[0, 0, 0], pixels[0, 1, 0] = row // 256, row % 256
    return pixels if channels == 3 else pixels[:, :, 0]


def row_numbers(images: torch.Tensor) -> list[int]:
    return (images[:, 0, 0, 0].long() * 256 + images[:, 0, 0, 1].long()).tolist()


def write_parquet(  # noqa: C901 - one small data set in all its wrong variants
    folder: Path, counts=(20, 15, 10), *, track: int = 0, channels: int = 3, names=None, **replace
) -> str:
    """A small dataset; train rows are numbered from 0, test rows from 1000. ``replace`` changes columns of
    train: images={row: bytes}, labels={row: value}, columns=callable(table) -> table."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, first in (("train", 0), ("test", 1000)):
        labels = [c for c, n in enumerate(counts) for _ in range(n if split == "train" else 4)]
        images = [
            {"bytes": encode(picture(first + i, channels=channels)), "path": f"{split}/{c}/{i}.png"}
            for i, c in enumerate(labels)
        ]
        if track and split == "train":
            seen = [labels[:i].count(c) for i, c in enumerate(labels)]
            for image, c, k in zip(images, labels, seen):
                image["path"] = f"{c:05d}/{k // track:05d}_{k % track:05d}.ppm"
        if split == replace.get("split", "train"):
            for row, data in replace.get("images", {}).items():
                images[row]["bytes"] = data
            for row, label in replace.get("labels", {}).items():
                labels[row] = label
        table = pa.table({"img": images, "label": labels})
        if names:
            features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
            description = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": description})
        if split == replace.get("split", "train"):
            table = replace.get("columns", lambda t: t)(table)
        pq.write_table(table, folder / f"{split}.parquet")
    return f"parquet:{folder}"


def shard(file: Path, labels, *, names=None, first: int = 0, size=8) -> None:
    """One Parquet file with the images ``first``, ``first`` + 1, ... and these labels, integers or text. ``size``: of
    all images, or one for each; ``names``: what the hub's metadata call the labels."""
    sizes = size if isinstance(size, (list, tuple)) else [size] * len(labels)
    images = [{"bytes": encode(picture(first + i, s)), "path": f"{i}.png"} for i, s in enumerate(sizes)]
    table = pa.table({"image": images, "label": labels})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


def write_folder(folder: Path, sizes=(8,)) -> str:
    for split, first in (("train", 0), ("test", 1000)):
        for c, name in enumerate(("ant", "bee")):
            (folder / split / name).mkdir(parents=True)
            for i in range(10 if split == "train" else 3):
                row = first + 10 * c + i
                image = Image.fromarray(picture(row, sizes[row % len(sizes)]))
                image.save(folder / split / name / f"{row}.png")
    return f"folder:{folder}"
