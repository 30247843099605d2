"""Wide vectors on disk: the smaller of two forms for each row."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from spark_dlobd.data.encode import encode_column
from spark_dlobd.data.vectors import packed_vectors, unpacked_vectors
from spark_dlobd.job.columns import TensorColumn

WIDTH = 1024


def column(dtype: str = "float32") -> TensorColumn:
    return TensorColumn("x", dtype, (2, WIDTH // 2), stored="vector")


def rows_of(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    pieces = [data[a:b].tobytes() for a, b in itertools.pairwise(offsets)]
    return np.array([*pieces, None], object)[:-1]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "float16", "bfloat16"])
@pytest.mark.parametrize("shares", [[0.0, 0.01, 0.4, 1.0, 0.0], [0.01] * 3, [1.0] * 3])
def test_what_goes_in_comes_out_and_the_smaller_form_is_taken(
    dtype: str, shares: list[float]
) -> None:
    rng = np.random.default_rng(1)
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    given = np.zeros((len(shares), WIDTH), kind)
    for row, share in zip(given, shares, strict=True):
        where = rng.choice(WIDTH, int(share * WIDTH), replace=False)
        row[where] = rng.integers(1, 100, len(where)).astype(kind)
    rows, positions = np.nonzero(given)
    data, offsets = packed_vectors(
        rows, positions, given[rows, positions], len(given), column(dtype)
    )
    counts = (given != 0).sum(axis=1)
    wanted = np.minimum(counts * (4 + kind.itemsize), WIDTH * kind.itemsize)
    np.testing.assert_array_equal(np.diff(offsets), wanted)
    found = unpacked_vectors(rows_of(data, offsets), column(dtype))
    np.testing.assert_array_equal(found, given.reshape(len(shares), 2, WIDTH // 2))


def test_positions_that_no_vector_has_are_no_index_error() -> None:
    pa = pytest.importorskip("pyarrow")
    kind = pa.struct(
        [
            ("size", pa.int32()),
            ("positions", pa.list_(pa.int32())),
            ("values", pa.list_(pa.float32())),
        ]
    )
    rows = [
        {"size": WIDTH, "positions": [3, WIDTH], "values": [1.0, 1.0]},
        {"size": WIDTH, "positions": [-1], "values": [1.0]},
        {"size": WIDTH, "positions": [1, 2], "values": [1.0]},
        {"size": WIDTH, "positions": [5], "values": [7.0]},
        None,
        {"size": None, "positions": None, "values": [0.5] * WIDTH},
    ]
    made = encode_column(pa.array(rows, kind), column())
    assert (made.reasons != 0).tolist() == [True, True, True, False, True, False]
    tensors = made.tensors(column()).reshape(6, WIDTH)
    assert (tensors[3, 5], tensors[3].sum(), tensors[5].sum()) == (7.0, 7.0, WIDTH / 2)
    assert not tensors[[0, 1, 2, 4]].any()


def test_slices_of_a_batch() -> None:
    pa = pytest.importorskip("pyarrow")
    kind = pa.struct(
        [
            ("size", pa.int32()),
            ("positions", pa.list_(pa.int32())),
            ("values", pa.list_(pa.float32())),
        ]
    )
    rows = [{"size": WIDTH, "positions": [i], "values": [float(i + 1)]} for i in range(5)]
    made = encode_column(pa.array(rows, kind).slice(2, 2), column())
    tensors = made.tensors(column()).reshape(2, WIDTH)
    assert (tensors[0, 2], tensors[1, 3], tensors.sum()) == (3.0, 4.0, 7.0)
