"""Whether an Arrow file from elsewhere is as `trainables.data.store` writes it: a crafted one can end the process."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainables.data.layout import some


def arrow_problem(file: Path) -> str | None:
    """What is wrong with ``file``, None where it is as `store` writes it. Whatever Arrow raises means no as well."""
    reader = pa.ipc.open_file(pa.memory_map(str(file)))
    if reader.num_record_batches != 1:
        return f"{reader.num_record_batches} batches"
    shape = _shape(reader.schema)
    if shape is None:
        return f"columns {some([f'{field.name} {field.type}' for field in reader.schema], 20)}"
    batch = reader.get_batch(0)
    batch.validate(full=True)  # lengths and buffers, which Arrow else trusts
    if any(column.null_count for column in batch.columns) or batch.nbytes > file.stat().st_size:
        return "nulls or compressed buffers"
    return _meta_problem(json.loads(reader.schema.metadata[b"tuner"]), shape, batch["label"].to_numpy())


def _shape(schema: pa.Schema) -> tuple[int, int, int] | None:
    """(C, H, W) of a schema with the right columns."""
    if schema.names not in (["image", "label"], ["image", "label", "group"]):
        return None
    image, *others = (field.type for field in schema)
    if not isinstance(image, pa.FixedShapeTensorType) or set(others) != {pa.int64()} or image.permutation:
        return None
    shape, size = tuple(image.shape), image.storage_type.list_size
    fits = len(shape) == 3 and min(shape) > 0 and math.prod(shape) == size and image.value_type == pa.uint8()
    return shape if fits else None


def _meta_problem(meta: dict, shape: tuple[int, int, int], labels: np.ndarray) -> str | None:
    classes, about = meta["classes"], (meta["grouped_by"], meta["note"])
    if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        return "class names"
    if not all(value is None or isinstance(value, str) for value in about):
        return "notes"
    for name in ("mean", "std"):
        if len(meta[name]) != shape[0] or not np.isfinite(np.asarray(meta[name], dtype=np.float64)).all():
            return name
    present = np.unique(labels)
    return None if np.array_equal(present, np.arange(len(classes))) else "labels"
