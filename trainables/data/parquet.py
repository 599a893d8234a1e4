"""Parquet files as dataset hubs publish them: which column is the image, which the label, and what the labels
are called."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.data.encoded import Encoded
from trainables.data.layout import some
from trainables.data.limits import EXPANSION, SMALL, check_rows
from trainables.data.spec import DataError

_IMAGE_NAMES = ("image", "img", "bytes", "png", "jpg")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "y", "coarse_label")


def read_parquet(file: Path, chunk: int, first: Encoded | None = None) -> Encoded:
    """Open ``file``; ``chunks()`` yields its encoded images in lists of at most ``chunk``. `DataError` on
    wrong columns.

    ``first``: the first file of the data set, whose column of labels is taken here too, if there is one of that name.
    """
    with _readable(file):
        parquet = pq.ParquetFile(file)
    schema, features = parquet.schema_arrow, _features(parquet.schema_arrow)
    image = _image_column(schema, file)
    label = first.label if first and first.label in schema.names else _label_column(schema, features, file)
    if first and label != first.label and label in first.columns:
        raise DataError(f"{file} has no column {first.label!r}, from which {first.file} takes its labels")
    rows = parquet.metadata.num_rows
    check_rows(rows, file)
    if rows == 0:
        raise DataError(f"{file} has 0 rows; at least one image of each class is needed")
    is_struct = pa.types.is_struct(schema.field(image).type)

    def chunks() -> Iterator[list[bytes]]:
        columns = [f"{image}.bytes" if is_struct else image]
        left = max(SMALL, EXPANSION * file.stat().st_size)  # bytes: one value may stand for many rows
        with _readable(file):
            for batch in pq.ParquetFile(file).iter_batches(chunk, columns=columns):
                column = batch.column(0)
                images = (column.field("bytes") if is_struct else column).to_pylist()
                left -= sum(len(image or b"") for image in images)
                if left < 0:
                    raise DataError(f"{file} expands into more than {EXPANSION} times its bytes")
                yield images

    with _readable(file):
        column, paths = _label_values(parquet, label, file), _paths(parquet, image)
    place = lambda row: f"{file} row {row}"  # noqa: E731
    if pa.types.is_integer(column.type):
        labels, classes = column.to_numpy().astype(np.int64), _class_names(features, label)
        return Encoded(rows, labels, classes, paths, chunks, place, str(file), tuple(schema.names), label)
    names, labels = np.unique(column.to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    return Encoded(
        *(rows, labels.astype(np.int64), names.tolist(), paths, chunks, place, str(file), tuple(schema.names), label),
        from_text=True,
    )


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Whatever Arrow finds wrong with the bytes of ``file``, as a sentence."""
    try:
        yield
    except DataError:
        raise
    except Exception as problem:  # Arrow raises classes of its own and plain ones; numpy too where a value is too long
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        raise DataError(f"{file} is no readable Parquet file ({reason})") from problem


def _features(schema: pa.Schema) -> dict:
    """The feature description that Hugging Face `datasets` leaves in a schema, else {}."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _class_names(features: dict, label: str) -> list[str] | None:
    names = features.get(label, {}).get("names")
    if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
        names = [names[key] for key in sorted(names, key=int)]
    return [str(name) for name in names] if names and isinstance(names, list) else None


def _is_binary(dtype: pa.DataType) -> bool:
    return pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype)


def _is_image(dtype: pa.DataType) -> bool:
    if not pa.types.is_struct(dtype):
        return _is_binary(dtype)
    return any(child.name == "bytes" and _is_binary(child.type) for child in dtype)


def _columns(schema: pa.Schema) -> str:
    return some(
        [f"{field.name} ({'struct' if pa.types.is_struct(field.type) else field.type})" for field in schema], 20
    )


def _image_column(schema: pa.Schema, file: Path) -> str:
    fitting = [field.name for field in schema if _is_image(field.type)]
    preferred = [name for name in _IMAGE_NAMES if name in fitting]
    if not fitting:
        raise DataError(
            f"{file} has no image column (binary, or a struct with bytes); its columns are {_columns(schema)}"
        )
    return (preferred or fitting)[0]


def _label_column(schema: pa.Schema, features: dict, file: Path) -> str:
    marked = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    named = [name for name in _LABEL_NAMES if name in schema.names]
    others = [name for name in schema.names if name.endswith("label")]
    # among several ClassLabels (CIFAR-100: fine and coarse) the order of _LABEL_NAMES decides
    candidates = [name for name in named if name in marked] or marked or named or others
    if not candidates:
        raise DataError(
            f"{file} has no label column (a column of integers or names called {', '.join(_LABEL_NAMES)}); "
            f"its columns are {_columns(schema)}"
        )
    return candidates[0]


def _label_values(parquet: pq.ParquetFile, name: str, file: Path) -> pa.ChunkedArray:
    """The labels, integers or names."""
    column = parquet.read(columns=[name]).column(0)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_integer(column.type) or _is_text(column.type)):
        raise DataError(
            f"{file} column {name!r} holds {column[0].as_py()!r} ({column.type}); labels must be integers from 0, or "
            "names"
        )
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(f"{file} row {row} has label null; every image needs a label")
    return column


def _is_text(dtype: pa.DataType) -> bool:
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype)


def _paths(parquet: pq.ParquetFile, image: str) -> list[str] | None:
    dtype = parquet.schema_arrow.field(image).type
    if not pa.types.is_struct(dtype) or "path" not in [child.name for child in dtype]:
        return None
    column = parquet.read(columns=[f"{image}.path"]).column(0)
    return [path for part in column.chunks for path in part.field("path").to_pylist()]
