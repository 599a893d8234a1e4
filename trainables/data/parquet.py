"""Parquet files as dataset hubs publish them: which column is the image, which the label, and what the labels
are called."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.data.encoded import Encoded
from trainables.data.layout import some
from trainables.data.limits import EXPANSION, SMALL, check_rows
from trainables.data.spec import DataError
from trainables.reading import parse_json

_IMAGE_NAMES = ("image", "img", "bytes", "png", "jpg")
PATHS = 256  # file names read at a time
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "y", "coarse_label")


def read_parquet(file: Path, chunk: int, first: Encoded | None = None) -> Encoded:
    """Open ``file``; ``chunks()`` yields its encoded images in lists of at most ``chunk``. `DataError` on
    wrong columns.

    ``first``: the first file of the data set, whose column of labels is taken here too, if there is one of that name.
    """
    with _readable(file):
        parquet = pq.ParquetFile(file)
    _check_columns(parquet.schema_arrow, file)
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
        take = _allowance(file)
        with _readable(file):
            for batch in pq.ParquetFile(file).iter_batches(chunk, columns=columns):
                column = batch.column(0)
                images = (column.field("bytes") if is_struct else column).to_pylist()
                take(sum(len(image or b"") for image in images))
                yield images

    with _readable(file):
        labels, names = _label_values(_column(file, label), label, file)
        paths = _paths(parquet, image, file)
    return Encoded(
        rows,
        labels,
        names or _class_names(features, label),
        paths,
        chunks,
        lambda row: f"{file} row {row}",
        str(file),
        tuple(schema.names),
        label,
        from_text=names is not None,
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
        features = parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _class_names(features: dict, label: str) -> list[str] | None:
    names = features.get(label, {}).get("names")
    if isinstance(names, dict) and all(re.fullmatch(r"[0-9]{1,18}", str(key)) for key in names):
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


def _check_columns(schema: pa.Schema, file: Path) -> None:
    name, times = Counter(schema.names).most_common(1)[0] if schema.names else ("", 0)
    if times > 1:
        raise DataError(f"{file} has {times} columns called {name!r}; each needs a name of its own")


def _column(file: Path, name: str) -> pa.ChunkedArray:
    """A column of numbers or texts, the latter as codes of a dictionary: one long text may stand for all rows."""
    return pq.ParquetFile(file, read_dictionary=[name]).read(columns=[name]).column(0)


def _label_values(column: pa.ChunkedArray, name: str, file: Path) -> tuple[np.ndarray, list[str] | None]:
    """(N,) int64 and, where the labels are names, these in alphabetical order."""
    coded = pa.types.is_dictionary(column.type)
    dtype = column.type.value_type if coded else column.type
    if not (pa.types.is_integer(dtype) or _is_text(dtype)):
        raise DataError(
            f"{file} column {name!r} holds {column[0].as_py()!r} ({dtype}); labels must be integers from 0, or names"
        )
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(f"{file} row {row} has label null; every image needs a label")
    if pa.types.is_integer(dtype):
        return (column.cast(dtype) if coded else column).to_numpy().astype(np.int64), None
    codes = (column if coded else column.dictionary_encode()).unify_dictionaries().combine_chunks()
    written = codes.dictionary.to_pylist()  # not as numpy's text, which drops a NUL at the end
    numbers = codes.indices.to_numpy().astype(np.int64)
    names = sorted({written[c] for c in np.unique(numbers)})
    number = {name: c for c, name in enumerate(names)}
    return np.array([number.get(text, -1) for text in written], dtype=np.int64)[numbers], names


def _is_text(dtype: pa.DataType) -> bool:
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype)


def _allowance(file: Path) -> Callable[[int], None]:
    """To be told of every so many bytes that are read of ``file``, in which one value may stand for many rows;
    ``DataError`` where they are too many."""
    left = max(SMALL, EXPANSION * file.stat().st_size)

    def take(size: int) -> None:
        nonlocal left
        left -= size
        if left < 0:
            raise DataError(f"{file} expands into more than {EXPANSION} times its bytes")

    return take


def _paths(parquet: pq.ParquetFile, image: str, file: Path) -> list[str | None] | None:
    """The images' own file names, where they are stored."""
    dtype = parquet.schema_arrow.field(image).type
    if not pa.types.is_struct(dtype) or not any(child.name == "path" and _is_text(child.type) for child in dtype):
        return None
    take, paths = _allowance(file), list[str | None]()
    for batch in parquet.iter_batches(PATHS, columns=[f"{image}.path"]):
        column = batch.column(0).field("path")
        take(column.get_total_buffer_size())
        paths += column.to_pylist()
    return paths
