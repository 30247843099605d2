"""A DataFrame written once as raw tensors, for all workers and epochs of a fit."""

from __future__ import annotations

import functools
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spark_dlobd.data.checks import all_checks, invalid_rows_error, words_of
from spark_dlobd.data.columns import check_indicator, check_roles, reference
from spark_dlobd.data.encode import (
    REASON,
    VALIDATION,
    encode_batches,
    encoded_schema,
    seen_fields,
)
from spark_dlobd.data.expressions import tensor_expressions
from spark_dlobd.data.rebalance import rebalance
from spark_dlobd.data.request import ROW_GROUP_BYTES, Request
from spark_dlobd.data.row_groups import usable_reader
from spark_dlobd.data.split import ValidationSplit
from spark_dlobd.data.storage import CacheDirectory, count_rows
from spark_dlobd.errors import DataError, TrainingTimeoutError
from spark_dlobd.job.columns import ColumnSpec, InvalidRows
from spark_dlobd.job.dataset import DatasetRef, ReaderName, RowGroup
from spark_dlobd.processes.worker_interpreter import installed_version, known_error, run_checked
from spark_dlobd.spark import spark_context

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame, Observation, Row
    from pyspark.sql.types import StructType

__all__ = ["ROW_GROUP_BYTES", "ValidationSplit", "materialize", "reuse_data"]

_METRICS_TIMEOUT_S = 60.0
_log = logging.getLogger(__name__)


@contextmanager
def materialize(
    df: DataFrame,
    columns: ColumnSpec,
    *,
    cache_dir: str | None = None,
    world_size: int = 1,
    validation: ValidationSplit | None = None,
    handle_invalid: InvalidRows = "error",
    row_group_bytes: int = ROW_GROUP_BYTES,
    reader: ReaderName | None = None,
) -> Iterator[DatasetRef]:
    """Write the rows of a DataFrame as tensors and remove them at the end.

    Runs on the driver. The rows are read once: cast in the JVM, checked and turned
    into raw bytes in Arrow batches on the executors, written as Parquet by Spark.
    Within `reuse_data` the files outlive this context and serve later fits.

    Parameters
    ----------
    df : pyspark.sql.DataFrame
        The rows.
    columns : ColumnSpec
        From `feature_column`, `label_column` and `weight_column`.
    cache_dir : str, optional
        Path or URL that driver and executors share; a unique directory is made in
        it. Default on local masters: the temporary directory.
    world_size : int, default 1
        Workers that will read; each split has at least one file for each, or for each row.
    validation : ValidationSplit, optional
        Which rows are for validation. Default: none.
    handle_invalid : {"error", "skip"}, default "error"
        Whether rows with nulls, NaN, wrong lengths or labels outside the classes
        end the fit or are left out.
    row_group_bytes : int, default 16 MiB
        Wanted size of one file, in bytes.
    reader : {"petastorm", "pyarrow"}, optional
        How workers are to read the files. Default is petastorm where the driver can use it.

    Yields
    ------
    DatasetRef
        Valid until the context ends.

    Raises
    ------
    ConfigurationError
        A setting is wrong, or `cache_dir` is missing on a cluster.
    MissingDependencyError
        The `reader` that is asked for cannot be used.
    DataError
        Rows are not valid, there are fewer to train on than `world_size`, or a fraction
        leaves none to validate with. With an indicator there may be none.
    PersistenceError
        The rows cannot be written, e.g. because a disk is full.

    Examples
    --------
    >>> spec = ColumnSpec(  # doctest: +SKIP
    ...     (feature_column(df.schema, "features", (784,)),),
    ...     (label_column(df.schema, "label", num_classes=10),),
    ... )
    >>> with materialize(df, spec, world_size=2) as data:  # doctest: +SKIP
    ...     plan = ShardPlan.of(data.train, world_size=2, batch_size=128, seed=1)
    """
    reading = usable_reader(reader)
    request = Request(columns, cache_dir, validation, handle_invalid, row_group_bytes)
    with materialized(df, request, world_size) as data:
        yield replace(data, reader=reading)


@contextmanager
def materialized(df: DataFrame, request: Request, world_size: int) -> Iterator[DatasetRef]:
    """Do as `materialize`, for whoever has put his wishes together already."""
    from spark_dlobd.data.reuse import current_scope

    _check_columns(df, request)
    scope = current_scope()
    if scope is not None:
        data = scope.dataset(df, request, functools.partial(write_rows, world_size=world_size))
        _check_sizes(data, request, world_size)
        yield data
        return
    directory, data = write_rows(df, request, world_size)
    try:
        _check_sizes(data, request, world_size)
        yield data
    finally:
        directory.remove()


@contextmanager
def reuse_data() -> Iterator[None]:
    """Keep materialized data for all fits inside, e.g. those of a CrossValidator.

    Runs on the driver. A later fit on the same rows and columns reads the files of
    the first, whatever thread it runs in. Rows are the same if Spark says that the
    plans are and the files behind them have the same paths, lengths and times, or else
    if one aggregation over them gives the same content; rows that come from elsewhere
    than files, e.g. a database, are always compared by content. So sources may change
    in between: what was overwritten or appended to is written anew. Files are removed
    when the outermost scope ends.

    Examples
    --------
    >>> with reuse_data():  # doctest: +SKIP
    ...     best = CrossValidator(estimator=estimator, ...).fit(df)
    """
    from spark_dlobd.data.reuse import entered_scope

    with entered_scope():
        yield


def _check_columns(df: DataFrame, request: Request) -> None:
    columns = request.columns
    if request.indicator is not None:
        check_indicator(df.schema, request.indicator)
    check_roles(columns, request.indicator)


def write_rows(
    df: DataFrame, request: Request, world_size: int
) -> tuple[CacheDirectory, DatasetRef]:
    """Write the rows into a new directory, which is gone again if that fails."""
    directory = CacheDirectory(df.sparkSession, request.cache_dir)
    try:
        return directory, _write(df, request, directory, world_size)
    except BaseException:
        directory.remove_after_failure()
        raise


def first_rows(
    df: DataFrame, columns: ColumnSpec, count: int, handle_invalid: InvalidRows
) -> list[Row]:
    """The first rows as they would be written, checked like them. Runs on the driver.

    Raises
    ------
    DataError
        If they are not valid, or there are none.
    """
    from pyspark.sql import Observation

    request = Request(columns, None, None, handle_invalid)
    observation = Observation()
    rows = _checked_rows(df.limit(count), request, observation)
    with _cancelled_on_error(df):
        found = rows.collect()
    _judged(_metrics(observation), request)
    return found


def map_valid_rows(
    df: DataFrame,
    columns: ColumnSpec,
    handle_invalid: InvalidRows,
    function: Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]],
    schema: str,
) -> list[Row]:
    """Map all rows that a fit would train on, as they would be written. Runs on the driver.

    Parameters
    ----------
    df : pyspark.sql.DataFrame
        The rows.
    columns : ColumnSpec
        What is read.
    handle_invalid : {"error", "skip"}
        Whether rows that cannot be used end it or are left out.
    function : callable
        Runs on each worker, once a task, on batches of the stored columns.
    schema : str
        Of what it returns; a few rows a task.

    Raises
    ------
    DataError
        If rows are not valid, or there are none.
    """
    from pyspark.sql import Observation

    request = Request(columns, None, None, handle_invalid)
    observation = Observation()
    rows = _checked_rows(df, request, observation)
    with _cancelled_on_error(df):
        found = rows.mapInArrow(function, schema).collect()
    _judged(_metrics(observation), request)
    return found


def count_split(df: DataFrame, validation: ValidationSplit | None) -> tuple[int, int]:
    """Number of training and of validation rows, valid or not. Runs on the driver."""
    from pyspark.sql import functions as F

    split = _split_expression(df.schema, validation)
    held = F.lit(0) if split is None else F.count_if(split == 1)
    with _cancelled_on_error(df):
        total, held_rows = df.agg(F.count(F.lit(1)), held).collect()[0]
    return int(total - held_rows), int(held_rows)


def _write(
    df: DataFrame, request: Request, directory: CacheDirectory, world_size: int
) -> DatasetRef:
    from pyspark.sql import Observation

    observation = Observation()
    rows = _checked_rows(df, request, observation)
    with directory.writing(), _cancelled_on_error(df):
        _write_parquet(rows, request, directory)
    metrics = _metrics(observation)
    bad = _judged(metrics, request)
    files = directory.parquet_files()
    groups = count_rows(files)
    written = sum(group.rows for group in groups)
    if written != metrics["rows"] - bad:
        raise DataError(
            f"The files in {directory.url} hold {written} rows, {metrics['rows'] - bad} were "
            f"written. Check that nothing else writes to or cleans the cache directory."
        )
    validation = [group for group in groups if f"/{VALIDATION}=true/" in group.url]
    train = [group for group in groups if f"/{VALIDATION}=true/" not in group.url]
    sizes = dict(files)
    with directory.writing():
        train_files = _rebalanced(train, sizes, request, world_size)
        validation_files = _rebalanced(validation, sizes, request, world_size)
        directory.protect()
    return DatasetRef(
        root=directory.url,
        columns=request.columns,
        train=train_files,
        validation=validation_files,
        skipped_rows=bad,
        bytes=sum(size for _, size in directory.parquet_files()),
    )


def _checked_rows(df: DataFrame, request: Request, observation: Observation) -> DataFrame:
    from pyspark.sql import functions as F

    expressions = tensor_expressions(df.schema, request.columns)
    stored = list(request.columns.stored_names)
    split = _split_expression(df.schema, request.validation)
    if split is not None:
        expressions.append(split.alias(VALIDATION))
        stored.append(VALIDATION)
    encoded = df.select(*expressions).mapInArrow(
        functools.partial(
            run_checked,
            function=functools.partial(encode_batches, columns=request.columns),
            version=installed_version(),
        ),
        encoded_schema(request.columns, split is not None),
    )
    observed = encoded.observe(observation, *_counts(request))
    good = [F.col(f"{REASON}_{word}") == 0 for word in range(words_of(request.columns))]
    return observed.where(functools.reduce(lambda one, other: one & other, good)).select(*stored)


def _split_expression(schema: StructType, validation: ValidationSplit | None) -> Column | None:
    """1 for validation, 0 for training, null for null, -1 for what is neither."""
    from pyspark.sql import functions as F

    if validation is None:
        return None
    if validation.indicator is not None:
        given = F.col(reference(schema, validation.indicator)).cast("double")
        found = F.when(given.isin(0.0, 1.0), given).when(given.isNotNull(), -1)
    else:
        found = F.when(F.rand(validation.seed) < F.lit(validation.fraction), 1).otherwise(0)
    return found.cast("tinyint")


def _counts(request: Request) -> list[Column]:
    """Metrics of the one pass: rows, bad rows, and what is wrong with them."""
    from pyspark.sql import functions as F

    reasons = [F.col(f"{REASON}_{word}") for word in range(words_of(request.columns))]
    bad = functools.reduce(lambda one, other: one | other, [word != 0 for word in reasons])
    counts = [F.count(F.lit(1)).alias("rows"), F.count_if(bad).alias("bad")]
    if request.validation is not None and request.validation.apart:
        counts.append(F.count_if(bad & F.col(VALIDATION)).alias("bad_apart"))
    for check in all_checks(request.columns, request.indicator):
        found = reasons[check.word].bitwiseAND(1 << check.bit) != 0
        counts.append(F.count_if(found).alias(check.key))
    for name in seen_fields(request.columns):
        what, _, stored = name.partition("_")
        if what in ("length", "place"):
            some = F.slice(F.array_sort(F.collect_set(name)), 1, 10)
            text = F.concat_ws(", ", some.cast("array<string>"))
            counts.append(text.alias(f"{what}s_{stored}"))
        elif what == "words":
            # two examples: a set of them would grow with the rows
            pair = F.array_distinct(F.array(F.min(name), F.max(name)))
            counts.append(F.concat_ws(", ", pair).alias(name))
        else:
            counts.append(F.min(name).alias(f"least_{stored}"))
            counts.append(F.max(name).alias(f"most_{stored}"))
    return counts


def _write_parquet(rows: DataFrame, request: Request, directory: CacheDirectory) -> None:
    writer = (
        rows.write.mode("append")
        .option("compression", "uncompressed")
        .option("maxRecordsPerFile", request.rows_per_file)
        # One file is one row group: the limit on rows comes long before this one.
        .option("parquet.block.size", 4 * max(request.row_group_bytes, 2**25))
        .option("parquet.enable.dictionary", "false")
        # Smallest and largest tensor of a page help nobody and cost a comparison a row.
        .option("parquet.column.statistics.enabled", "false")
    )
    if request.validation is not None:
        writer = writer.partitionBy(VALIDATION)
    writer.parquet(f"{directory.url}/rows")


@contextmanager
def _cancelled_on_error(df: DataFrame) -> Iterator[None]:
    """Cancel the jobs started inside if the block ends with an exception, Ctrl-C included.

    What a worker raised becomes one of our errors where it is one.
    """
    context = spark_context(df.sparkSession)
    tag = f"spark-dlobd-{uuid.uuid4().hex}"
    context.addJobTag(tag)
    try:
        yield
    except BaseException as error:
        context.cancelJobsWithTag(tag)
        if known := known_error(error, context):
            raise known from error
        raise
    finally:
        context.removeJobTag(tag)


def _metrics(observation: Observation) -> dict[str, Any]:
    """Observed metrics; they arrive from Spark's listener a moment after the write."""
    java: Any = observation._jo
    future = java.future()
    deadline = time.monotonic() + _METRICS_TIMEOUT_S
    while not future.isCompleted():
        if time.monotonic() > deadline:
            raise TrainingTimeoutError(
                f"Spark did not report the row counts within {_METRICS_TIMEOUT_S:g} s of writing. "
                f"Its listener queue may be full: raise spark.scheduler.listenerbus.eventqueue."
                f"capacity."
            )
        time.sleep(0.01)
    return dict(observation.get)


def _judged(metrics: Mapping[str, Any], request: Request) -> int:
    """Number of rows that are left out; raise if there should be none or nothing is left."""
    total, bad = int(metrics["rows"]), int(metrics["bad"])
    if total == 0:
        raise DataError("The DataFrame has no rows. Expected at least one.")
    if bad == 0:
        return 0
    checks = all_checks(request.columns, request.indicator)
    error = invalid_rows_error(checks, metrics, total, bad)
    if request.handle_invalid == "error" or bad == total:
        raise error
    _log.warning("Left out by handleInvalid='skip': %s", error)
    return bad


def _rebalanced(
    groups: list[RowGroup], sizes: Mapping[str, int], request: Request, world_size: int
) -> tuple[RowGroup, ...]:
    total = sum(sizes[group.url] for group in groups)
    if not groups:
        return ()
    return tuple(rebalance(groups, total, world_size, request.row_group_bytes))


def _check_sizes(data: DatasetRef, request: Request, world_size: int) -> None:
    """Raise unless each worker has a row to train on; it needs none to validate with."""
    rows = data.rows("train")
    if rows == 0:
        raise DataError(
            f"The train split has no rows, expected at least {world_size}: {_split_hint(request)}"
        )
    if rows < world_size:
        raise DataError(
            f"The train split has {rows} rows for {world_size} workers, expected at least one "
            f"each: use at most {rows} workers or more data."
        )
    split = request.validation
    if split is not None and split.apart and not data.validation:
        raise DataError(
            "validationData has no rows that can be used, expected at least 1. Give it rows, or "
            "leave it out."
        )
    if split is not None and split.indicator is None and not data.validation:
        raise DataError(
            f"The validation split has no rows, expected at least 1: {_split_hint(request)}"
        )


def missing_validation(data: DatasetRef, validation: ValidationSplit | None) -> str | None:
    """What to warn of where validation was asked for and there are no rows for it."""
    if validation is None or data.validation:
        return None
    return (
        f"There are no validation rows, so this fit trains without validation: "
        f"{nowhere_true(data, validation)} There will be no metrics that begin with val_."
    )


def nowhere_true(data: DatasetRef, validation: ValidationSplit) -> str:
    """Why there are no validation rows."""
    return f"'{validation.indicator}' is true in none of the {data.rows('train')} rows."


def _split_hint(request: Request) -> str:
    if request.validation is None or request.validation.apart:
        return "give a DataFrame with rows."
    if request.validation.indicator is not None:
        return f"'{request.validation.indicator}' must be true for some rows and false for others."
    return f"the fraction {request.validation.fraction:g} is too small or too large for the data."
