"""Arrow batches of a DataFrame to raw tensors, checked row by row without Python loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from spark_dlobd.data.cast import cast, cast_decimals
from spark_dlobd.data.checks import INDICATOR, PROBLEMS, place_of, words_of
from spark_dlobd.data.encoded import Bits, EncodedColumn
from spark_dlobd.data.images import named, problems_of
from spark_dlobd.data.padding import padded
from spark_dlobd.data.storage_schema import stored_type
from spark_dlobd.data.texts import packed_texts
from spark_dlobd.data.vectors import packed_vectors
from spark_dlobd.job.columns import ColumnSpec, Role, TensorColumn

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from spark_dlobd.data.cast import Marks


VALIDATION = "validation"
REASON = "reason"
"""Prefix of the columns that hold what is wrong with a row."""
_MAX_BATCH_BYTES = 2**30


def encoded_schema(columns: ColumnSpec, with_split: bool) -> str:
    """DDL of what `encode_batches` yields: tensors, split, reasons and what was seen."""
    stored = zip(columns.stored_names, columns.all, strict=True)
    fields = [f"{name} {stored_type(column)}" for name, column in stored]
    if with_split:
        fields.append(f"{VALIDATION} boolean")
    fields += [f"{REASON}_{word} bigint" for word in range(words_of(columns))]
    fields += [f"{name} {kind}" for name, kind in seen_fields(columns).items()]
    return ", ".join(fields)


def seen_fields(columns: ColumnSpec) -> dict[str, str]:
    """What is told of values that do not fit, beside the reasons -> its Spark type.

    ``length_<stored>`` of a row whose length is wrong, ``class_<stored>`` of a label outside
    the classes, ``place_<stored>`` of the first bad element of columns side by side,
    ``words_<stored>`` of an image that cannot be read.
    """
    found = {}
    for name, role, column in zip(columns.stored_names, columns.roles, columns.all, strict=True):
        if column.num_classes is not None:
            found[f"class_{name}"] = "double"
        if column.stored == "image":
            found[f"words_{name}"] = "string"
        elif role != "weight" and (column.num_classes is None or column.shape):
            found[f"length_{name}"] = "int"
        if column.beside:
            found[f"place_{name}"] = "int"
    return found


def encode_batches(
    batches: Iterator[pa.RecordBatch], columns: ColumnSpec
) -> Iterator[pa.RecordBatch]:
    """Turn batches of `tensor_expressions` into stored tensors. Runs on each worker.

    Every row comes out, a bad one with its `reason` not 0.
    """
    for batch in batches:
        for piece in _pieces(batch, columns):
            yield _encoded(piece, columns)


def _pieces(batch: pa.RecordBatch, columns: ColumnSpec) -> Iterator[pa.RecordBatch]:
    """Slices whose binary columns stay within Arrow's 32-bit offsets."""
    pieces = 1 + max(batch.nbytes, batch.num_rows * _widest(columns)) // _MAX_BATCH_BYTES
    rows = -(-batch.num_rows // pieces)
    for start in range(0, batch.num_rows, max(rows, 1)):
        yield batch.slice(start, rows)


def _widest(columns: ColumnSpec) -> int:
    return max(column.row_bytes for column in columns.all)


def _encoded(batch: pa.RecordBatch, columns: ColumnSpec) -> pa.RecordBatch:
    import numpy as np
    import pyarrow as pa

    rows = batch.num_rows
    names, arrays = [], []
    reasons = [np.zeros(rows, np.int64) for _ in range(words_of(columns))]
    seen: dict[str, pa.Array | None] = {}
    all_of = zip(columns.stored_names, columns.roles, columns.all, strict=True)
    for index, (name, role, column) in enumerate(all_of):
        made = encode_column(batch.column(index), column, role)
        names.append(name)
        arrays.append(made.stored(column))
        word, shift = place_of(index)
        reasons[word] |= made.reasons << shift
        seen |= {
            f"length_{name}": made.lengths,
            f"class_{name}": made.classes,
            f"place_{name}": made.places,
            f"words_{name}": made.words,
        }
    if VALIDATION in batch.schema.names:
        split = batch.column(batch.schema.get_field_index(VALIDATION))
        given = _filled(split)
        word, shift = INDICATOR
        found = _flag(_nulls(split), "null") | _flag(given < 0, "range")
        reasons[word] |= found << shift
        names.append(VALIDATION)
        arrays.append(pa.array(given == 1))
    names += [f"{REASON}_{word}" for word in range(len(reasons))]
    arrays += [pa.array(word) for word in reasons]
    for name, kind in seen_fields(columns).items():
        values = seen[name]
        none = {"int": pa.int32(), "double": pa.float64(), "string": pa.string()}[kind]
        names.append(name)
        arrays.append(pa.nulls(rows, none) if values is None else values)
    return pa.RecordBatch.from_arrays(arrays, names=names)


def encode_column(source: pa.Array, column: TensorColumn, role: Role = "features") -> EncodedColumn:
    """Cast and check one column; what training and scoring do alike. Runs on each worker.

    Parameters
    ----------
    source : pyarrow.Array
        What `spark_dlobd.data.columns.expression` gives: numbers, lists of numbers, bytes.
    column : TensorColumn
        What they are to be.
    role : {"features", "label", "weight"}
        What it is for.
    """
    import pyarrow as pa

    if column.num_classes is not None and not column.shape:
        return _class_label(source, column)
    if pa.types.is_struct(source.type):
        return _vectors(source, column)
    if pa.types.is_list(source.type) or pa.types.is_large_list(source.type):
        return _texts(source, column) if column.dtype == "string" else _list(source, column)
    if column.stored == "text":
        return _bytes(source)
    if column.stored == "image":
        return _images(source)
    if pa.types.is_binary(source.type) or pa.types.is_large_binary(source.type):
        return _binary(source, column)
    return _number(source, column, role)


def _number(source: pa.Array, column: TensorColumn, role: Role) -> EncodedColumn:
    """A feature, a regression label or a weight of one element."""
    import numpy as np

    nulls = _nulls(source)
    values, marks = _cast(source, column)
    reasons = _flag(nulls, "null") | _flags(marks, ~nulls)
    if role == "weight":
        reasons |= _flag((values < 0) & ~nulls, "negative")
    return EncodedColumn(values, np.arange(len(values) + 1), reasons)


def _class_label(source: pa.Array, column: TensorColumn) -> EncodedColumn:
    import numpy as np
    import pyarrow as pa

    nulls = _nulls(source)
    values = _filled(source)
    classes, marks = cast(values, column.dtype)
    outside = _outside(classes, marks, column.num_classes or 0)
    marks.pop("range", None)
    reasons = _flag(nulls, "null") | _flags(marks, ~nulls) | _flag(outside, "range")
    seen = pa.array(values, pa.float64(), mask=~outside)
    offsets = np.arange(len(values) + 1)
    return EncodedColumn(np.where(outside, 0, classes), offsets, reasons, classes=seen)


def _list(source: pa.Array, column: TensorColumn) -> EncodedColumn:
    """An array or vector: its Arrow values are the bytes of the tensors already."""
    import numpy as np

    child, offsets = _elements(source)
    values, marks = _cast(child, column)
    classes = None
    if column.num_classes is not None:
        values, marks = _classes(values, marks, column)
        classes = _first_of_row(_filled(child), marks["range"], offsets)
    reasons, lengths = _checked_lengths(source, offsets, column)
    present = np.ones(len(child), bool)
    if child.null_count:
        present = ~_nulls(child)
        reasons |= _flag(_rows_with(~present, offsets), "null_element")
    bad = ~present
    for problem, elements in marks.items():
        reasons |= _flag(_rows_with(elements & present, offsets), problem)
        bad |= elements
    places = _first_places(bad, offsets) if column.beside else None
    if column.padding is not None:
        good, counts = _good_elements(reasons, offsets)
        values = padded(values if good is None else values[good], counts, column)
        offsets = np.arange(len(counts) + 1) * column.size
    return EncodedColumn(values, offsets, reasons, lengths, classes, places)


def _classes(
    values: NDArray[Any], marks: Marks, column: TensorColumn
) -> tuple[NDArray[Any], Marks]:
    """Class numbers of several elements a row, with those marked that are none."""
    import numpy as np

    outside = _outside(values, marks, column.num_classes or 0)
    others = {problem: elements for problem, elements in marks.items() if problem != "range"}
    if column.flags:
        outside |= others.pop("not_integer", np.zeros(len(values), bool))
    return np.where(outside, values.dtype.type(0), values), {**others, "range": outside}


def _outside(values: NDArray[Any], marks: Marks, classes: int) -> NDArray[np.bool_]:
    """Which class numbers are none of the classes."""
    import numpy as np

    outside: NDArray[np.bool_] = (values < 0) | (values >= classes)
    return outside | marks.get("range", np.zeros(len(values), bool))


def _texts(source: pa.Array, column: TensorColumn) -> EncodedColumn:
    """An array of strings, or several columns of strings side by side."""
    import pyarrow as pa

    child, offsets = _elements(source)
    nulls = _nulls(child)
    reasons, lengths = _checked_lengths(source, offsets, column)
    reasons |= _flag(_rows_with(nulls, offsets), "null_element")
    places = _first_places(nulls, offsets) if column.beside else None
    good, counts = _good_elements(reasons, offsets)
    data, starts = _content(child if good is None else child.filter(pa.array(good)))
    return EncodedColumn(
        *packed_texts(data, starts, counts, column), reasons, lengths, places=places
    )


def _elements(source: pa.Array) -> tuple[pa.Array, NDArray[Any]]:
    """Elements of all rows of lists, and where each begins."""
    import numpy as np
    import pyarrow as pa

    offset_type = np.int64 if pa.types.is_large_list(source.type) else np.int32
    offsets = np.frombuffer(source.buffers()[1], offset_type)[
        source.offset : source.offset + len(source) + 1
    ]
    first, last = int(offsets[0]), int(offsets[-1])
    return source.values.slice(first, last - first), np.subtract(offsets, first)


def _good_elements(
    reasons: Bits, offsets: NDArray[Any]
) -> tuple[NDArray[np.bool_] | None, NDArray[Any]]:
    """Which elements are of valid rows, None for all, and their number in each row."""
    import numpy as np

    counts, good = np.diff(offsets), reasons == 0
    if good.all():
        return None, counts
    return np.repeat(good, counts), np.where(good, counts, 0)


def _first_places(bad: NDArray[np.bool_], offsets: NDArray[Any]) -> pa.Array:
    """Position within its row of the first marked element; null where there is none."""
    import numpy as np
    import pyarrow as pa

    places = np.arange(len(bad)) - np.repeat(offsets[:-1], np.diff(offsets))
    return _first_of_row(places, bad, offsets).cast(pa.int32())


def _first_of_row(
    values: NDArray[Any], marked: NDArray[np.bool_], offsets: NDArray[Any]
) -> pa.Array:
    """The first marked value of each row, as double; null where there is none."""
    import numpy as np
    import pyarrow as pa

    found = np.flatnonzero(marked)
    rows, first = np.unique(np.searchsorted(offsets, found, side="right") - 1, return_index=True)
    seen = np.zeros(len(offsets) - 1)
    seen[rows] = values[found[first]]
    none = np.ones(len(seen), bool)
    none[rows] = False
    return pa.array(seen, mask=none)


def _vectors(source: pa.Array, column: TensorColumn) -> EncodedColumn:
    """Wide vectors, sparse and dense ones, as positions and values."""
    import numpy as np
    import pyarrow as pa

    # `field` ignores that a row is null, `flatten` does not
    sizes, positions, given = source.flatten()
    nulls, dense = _nulls(source), _nulls(positions)
    child, offsets = _elements(given)
    values, marks = _cast(child, column)
    counts = np.diff(offsets)
    within, starts = _elements(positions)
    lengths = np.where(dense, counts, _filled(sizes))
    wrong = lengths != column.size
    # what no constructor of Spark makes, a file may hold
    number = np.repeat(np.arange(len(source)), counts)
    place = np.arange(len(child)) - np.repeat(offsets[:-1], counts)
    wrong |= ~dense & (np.diff(starts) != counts)
    explicit = (~dense & ~wrong)[number]
    at = within.to_numpy()[np.repeat(~dense & ~wrong, np.diff(starts))]
    place[explicit] = at
    wrong |= _rows_with((place < 0) | (place >= column.size), offsets)
    reasons = _flag(nulls, "null") | _flag(wrong & ~nulls, "length")
    for problem, elements in marks.items():
        reasons |= _flag(_rows_with(elements, offsets), problem)
    kept = (reasons == 0)[number] & (values != 0)
    packed = packed_vectors(number[kept], place[kept], values[kept], len(source), column)
    told = pa.array(lengths, pa.int32(), mask=~wrong | nulls)
    return EncodedColumn(*packed, reasons, told)


def _bytes(source: pa.Array) -> EncodedColumn:
    """Rows of any length, which are stored as they are."""
    data, offsets = _content(source)
    return EncodedColumn(data, offsets, _flag(_nulls(source), "null"))


def _images(source: pa.Array) -> EncodedColumn:
    """Encoded images, each decoded once at a small size to see that it can be."""
    import numpy as np
    import pyarrow as pa

    nulls = _nulls(source)
    rows = [named(row or b"") for row in source.to_pylist()]
    told = problems_of([content for _, content in rows])
    bad = np.array([text is not None for text in told], bool) & ~nulls
    words = [
        f"{text} ({name + ', ' if name else ''}{len(content):,} bytes)" if is_bad else None
        for is_bad, text, (name, content) in zip(bad, told, rows, strict=True)
    ]
    data, offsets = _content(pa.array([content for _, content in rows], pa.binary()))
    reasons = _flag(nulls, "null") | _flag(bad, "shape")
    return EncodedColumn(data, offsets, reasons, words=pa.array(words, pa.string()))


def _content(source: pa.Array) -> tuple[NDArray[Any], NDArray[Any]]:
    """Bytes of all rows, and where each begins."""
    import numpy as np
    import pyarrow as pa

    source = source.cast(pa.binary())
    offsets = np.frombuffer(source.buffers()[1], np.int32)[
        source.offset : source.offset + len(source) + 1
    ]
    data = np.frombuffer(source.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    return data, np.subtract(offsets, offsets[0])


def _binary(source: pa.Array, column: TensorColumn) -> EncodedColumn:
    data, offsets = _content(source)
    values, marks = cast(data, column.dtype)
    classes = None
    if column.num_classes is not None:
        values, marks = _classes(values, marks, column)
        classes = _first_of_row(data, marks["range"], offsets)
    reasons, lengths = _checked_lengths(source, offsets, column)
    for problem, elements in marks.items():
        reasons |= _flag(_rows_with(elements, offsets), problem)
    return EncodedColumn(values, offsets, reasons, lengths, classes)


def _checked_lengths(
    source: pa.Array, offsets: NDArray[Any], column: TensorColumn
) -> tuple[Bits, pa.Array]:
    import numpy as np
    import pyarrow as pa

    nulls, lengths = _nulls(source), np.diff(offsets)
    wrong = (lengths != column.size) & ~nulls
    if column.padding is not None:
        wrong = (lengths > column.size) | (lengths % column.step_size != 0)
    problem = "shape" if column.nested else "length"
    reasons = _flag(nulls, "null") | _flag(wrong, problem)
    return reasons, pa.array(lengths, pa.int32(), mask=~wrong)


def _cast(source: pa.Array, column: TensorColumn) -> tuple[NDArray[Any], Marks]:
    """Numbers as the stored type, 0 for null."""
    import pyarrow as pa

    if pa.types.is_decimal(source.type):
        return cast_decimals(source, column.dtype)
    return cast(_filled(source), column.dtype)


def _flags(marks: Marks, present: NDArray[np.bool_]) -> Bits:
    import numpy as np

    reasons = np.zeros(len(present), np.int64)
    for problem, rows in marks.items():
        reasons |= _flag(rows & present, problem)
    return reasons


def _flag(rows: NDArray[np.bool_], problem: str) -> Bits:
    import numpy as np

    return rows.astype(np.int64) << PROBLEMS.index(problem)


def _rows_with(elements: NDArray[np.bool_], offsets: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows that hold at least one of the marked elements."""
    import numpy as np

    before = np.concatenate(([0], np.cumsum(elements)))
    return np.asarray(before[offsets[1:]] > before[offsets[:-1]])


def _nulls(source: pa.Array) -> NDArray[np.bool_]:
    import numpy as np

    if source.null_count == 0:
        return np.zeros(len(source), bool)
    return np.asarray(source.is_null().to_numpy(zero_copy_only=False))


def _filled(source: pa.Array) -> NDArray[Any]:
    """Values with 0 for null, in their own width."""
    if source.null_count:
        source = source.fill_null(0)
    values: NDArray[Any] = source.to_numpy(zero_copy_only=False)
    return values
