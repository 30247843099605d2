"""What tests of pipelines with a `DLModel` need: comparisons, tiny datasets, tiny models.

Examples
--------
A test of your own pipeline, with a pytest fixture ``spark``:

>>> def test_saved_pipeline_predicts_the_same(spark, tmp_path):
...     df = testing.digits(spark, rows=100)
...     estimator = DLEstimator(
...         model=testing.classifier(64, 10), loss="sparse_categorical_crossentropy"
...     )
...     fitted = Pipeline(stages=[estimator]).fit(df)
...     fitted.save(str(tmp_path / "pipeline"))
...     again = PipelineModel.load(str(tmp_path / "pipeline"))
...     testing.assert_predictions_equal(again.transform(df), fitted.transform(df))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_dlobd.errors import MissingDependencyError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

__all__ = [
    "assert_predictions_equal",
    "blobs",
    "classifier",
    "digits",
    "expand_arrays",
    "linear",
    "regressor",
]


def assert_predictions_equal(
    actual: DataFrame,
    expected: DataFrame,
    precision: float = 1e-6,
    order_by: Sequence[str] = (),
) -> None:
    """Compare two DataFrames with chispa, looking inside vectors and arrays.

    chispa's approximate comparison takes a vector or an array as one value, so that
    two equal probabilities never pass and a tolerance has no effect on them. Here
    each element becomes a column of its own. Nullability is not compared.

    Parameters
    ----------
    actual, expected : DataFrame
        What is compared, all columns.
    precision : float, default 1e-6
        Largest absolute difference of two numbers.
    order_by : sequence of str, optional
        Columns both are sorted by first; without it the order of rows counts.

    Raises
    ------
    MissingDependencyError
        If chispa is not installed.
    chispa.DataFramesNotEqualError
        If a value differs; it shows the rows side by side.
    chispa.SchemasNotEqualError
        If names or types differ.
    """
    chispa = _import("chispa", "chispa")
    both = [actual, expected]
    if order_by:
        both = [frame.orderBy(*order_by) for frame in both]
    lengths = _lengths(both)
    first, second = (expand_arrays(frame, lengths) for frame in both)
    chispa.assert_approx_df_equality(
        first, second, precision, ignore_nullable=True, allow_nan_equality=True
    )


def expand_arrays(df: DataFrame, lengths: dict[str, int] | None = None) -> DataFrame:
    """Replace each vector or array of numbers by its size and one column per element.

    Parameters
    ----------
    df : DataFrame
        Any; other columns stay as they are.
    lengths : dict of str to int, optional
        How many elements of a column to show; counted when it is not given.

    Returns
    -------
    DataFrame
        ``probability`` becomes ``probability_size``, ``probability_0``, ...
    """
    lengths = _lengths([df]) if lengths is None else lengths
    columns: list[Column] = []
    for field in df.schema.fields:
        array = _as_array(field)
        if array is None:
            columns.append(_column(field.name))
            continue
        columns.append(F.size(array).alias(f"{field.name}_size"))
        for index in range(lengths.get(field.name, 0)):
            columns.append(F.get(array, index).alias(f"{field.name}_{index}"))
    return df.select(*columns)


def digits(spark: SparkSession, rows: int | None = None) -> DataFrame:
    """Real handwritten digits of 8 x 8 pixels, from scikit-learn.

    Parameters
    ----------
    spark : SparkSession
        Where the DataFrame lives.
    rows : int, optional
        The first so many of 1,797.

    Returns
    -------
    DataFrame
        ``features``: array<float> of 64 in [0, 1]; ``label``: double of 0 to 9.
    """
    datasets = _import("sklearn.datasets", "scikit-learn")
    pixels, labels = datasets.load_digits(return_X_y=True)
    return _frame(spark, pixels[:rows] / 16.0, labels[:rows])


def blobs(
    spark: SparkSession, rows: int = 200, classes: int = 3, features: int = 2, seed: int = 0
) -> DataFrame:
    """Separable classes: normal clouds of standard deviation 0.5 around distant centres.

    Centre ``k`` has the coordinate ``4 k`` on even axes and ``-4 k`` on odd ones. Row
    ``i`` belongs to class ``i % classes``.

    Returns
    -------
    DataFrame
        ``features``: array<float>; ``label``: double.
    """
    labels = np.arange(rows) % classes
    signs = np.where(np.arange(features) % 2 == 0, 4.0, -4.0)
    noise = np.random.default_rng(seed).normal(0.0, 0.5, (rows, features))
    return _frame(spark, labels[:, None] * signs + noise, labels)


def linear(
    spark: SparkSession,
    rows: int = 200,
    coefficients: Sequence[float] = (2.0, -1.0),
    intercept: float = 0.5,
    noise: float = 0.0,
    seed: int = 0,
) -> DataFrame:
    """Rows of ``label = coefficients . features + intercept + noise``.

    Features are uniform in [-1, 1); `noise` is the standard deviation of a normal.

    Returns
    -------
    DataFrame
        ``features``: array<float>; ``label``: double.
    """
    draw = np.random.default_rng(seed)
    features = draw.uniform(-1.0, 1.0, (rows, len(coefficients))).astype(np.float32)
    labels = features @ np.asarray(coefficients) + intercept + draw.normal(0.0, noise, rows)
    return _frame(spark, features, labels)


def classifier(width: int, classes: int, hidden: int = 16, seed: int = 0) -> Any:
    """Return an uncompiled `keras.Model`: one hidden layer, softmax over `classes`.

    Parameters
    ----------
    width : int
        Length of the features.
    classes, hidden : int
        Units of the last and of the hidden layer.
    seed : int
        Seeds the weights: the same seed gives the same model.
    """
    import keras

    return keras.Sequential(
        [
            keras.Input((width,)),
            keras.layers.Dense(hidden, activation="relu", kernel_initializer=_initializer(seed)),
            keras.layers.Dense(
                classes, activation="softmax", kernel_initializer=_initializer(seed + 1)
            ),
        ]
    )


def regressor(width: int, seed: int = 0) -> Any:
    """Return an uncompiled `keras.Model` that is one linear unit over `width` features."""
    import keras

    layer = keras.layers.Dense(1, kernel_initializer=_initializer(seed))
    return keras.Sequential([keras.Input((width,)), layer])


def _initializer(seed: int) -> Any:
    import keras

    return keras.initializers.GlorotUniform(seed)


def _frame(spark: SparkSession, features: Any, labels: Any) -> DataFrame:
    rows = [
        (row.tolist(), float(label))
        for row, label in zip(np.asarray(features, np.float32), labels, strict=True)
    ]
    return spark.createDataFrame(rows, "features array<float>, label double")


def _column(name: str) -> Column:
    return F.col("`" + name.replace("`", "``") + "`")


def _as_array(field: T.StructField) -> Column | None:
    """Column as an array; None if it holds neither a vector nor an array of numbers."""
    if isinstance(field.dataType, VectorUDT):
        column = _column(field.name)
        return F.when(column.isNotNull(), vector_to_array(column))
    kind = field.dataType
    if isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.NumericType):
        return _column(field.name)
    return None


def _lengths(frames: Sequence[DataFrame]) -> dict[str, int]:
    """Longest array of each column over all frames."""
    lengths: dict[str, int] = {}
    for frame in frames:
        arrays = {field.name: _as_array(field) for field in frame.schema.fields}
        sizes = [
            F.max(F.size(array)).alias(name) for name, array in arrays.items() if array is not None
        ]
        row = frame.agg(*sizes).first() if sizes else None
        for name, size in (row.asDict() if row is not None else {}).items():
            lengths[name] = max(lengths.get(name, 0), size or 0)
    return lengths


def _import(module: str, package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"spark_dlobd.testing needs {package} here. Install it: pip install {package}"
        ) from error
