"""Training and testing of one case."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from spark_dlobd.characterize.run.case_request import CaseRequest
from spark_dlobd.characterize.subjects.datasets import FEATURES, LABEL, Dataset, load_dataset
from spark_dlobd.characterize.subjects.models import get_model
from spark_dlobd.errors import DLError, ResourceError
from spark_dlobd.spark import require_slots, slots

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from spark_dlobd import DLEstimator

logger = logging.getLogger("spark_dlobd")

EXECUTORS_WAIT_S = 60.0
_IS_TEST = "is_test"


def train_and_test(spark: SparkSession, request: CaseRequest) -> dict[str, Any]:
    """Train on the training rows and score the test rows. Runs on the driver.

    The test rows are the validation rows of the training too, so that accuracy over
    time is that of rows the model has not seen. Images drawn by a program are drawn
    before the clock starts.

    Returns
    -------
    dict
        ``data``, ``report``, ``test_accuracy``, ``test_seconds`` and ``explanation`` of a
        `CaseRecord`.

    Raises
    ------
    ResourceError
        If there are fewer slots than workers.
    DLError
        Whatever loading, training or scoring raises.
    """
    case = request.case
    if case.backend != "local":
        wait_for_slots(spark, case.workers)
    data = load_dataset(
        spark, case.data, path=request.data_path, rows=case.rows, test_rows=case.test_rows
    )
    if data.description.generated:
        for frame in (data.train, data.test):
            frame.persist().count()
    model = estimator(request).fit(marked(data))
    began = time.monotonic()
    accuracy = share_of_right(model.transform(data.test))
    seconds = time.monotonic() - began
    return {
        "data": data.description.to_json(),
        "report": model.report,
        "test_accuracy": accuracy,
        "test_seconds": seconds,
        # afterwards, so that what it warms up is not in what was measured
        "explanation": explanation(request, data) if request.explain else {},
    }


def explanation(request: CaseRequest, data: Dataset) -> dict[str, Any]:
    """Explain the fit of a case; empty if it cannot be, which is no reason to lose the case."""
    try:
        return estimator(request).explain(marked(data), workers=request.case.workers).to_json()
    except DLError as error:
        logger.warning("The fit of %s could not be explained: %s", request.case.id, error)
        return {}


def estimator(request: CaseRequest) -> DLEstimator:
    """The estimator of a case; its seed is the number of the repetition."""
    from spark_dlobd import DLEstimator

    case = request.case
    entry = get_model(case.model)
    here = f"file://{request.folder}" if request.on_this_machine else None
    return DLEstimator(
        model=entry.build(seed=case.repeat),
        loss="sparse_categorical_crossentropy",
        optimizer="adam",
        learningRate=entry.learning_rate,
        metrics=["accuracy"],
        featuresCol=FEATURES,
        labelCol=LABEL,
        validationIndicatorCol=_IS_TEST,
        backend=case.backend_param,
        numTrainWorkers=case.workers,
        batchSize=case.batch_size,
        epochs=case.epochs,
        seed=case.repeat,
        cacheDir=request.cache_dir or here,
        tracking="none",
        verbose=0,
    )


def marked(data: Dataset) -> DataFrame:
    """Training and test rows together, told apart by a column."""
    from pyspark.sql import functions as F

    train = data.train.withColumn(_IS_TEST, F.lit(False))
    return train.unionByName(data.test.withColumn(_IS_TEST, F.lit(True)))


def share_of_right(scored: DataFrame) -> float:
    """Score all rows; return the share whose prediction is the label."""
    from pyspark.sql import functions as F

    right = (F.col("prediction") == F.col(LABEL)).cast("double")
    found = scored.agg(F.avg(right).alias("share")).first()
    assert found is not None
    return float(found["share"])


def wait_for_slots(spark: SparkSession, workers: int, wait_s: float = EXECUTORS_WAIT_S) -> None:
    """Wait until there is a slot for each worker: executors of a cluster take a while.

    Raises
    ------
    ResourceError
        If there are too few after `wait_s` seconds, on one machine at once.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            require_slots(spark, workers)
            return
        except ResourceError:
            if slots(spark).is_local or time.monotonic() > deadline:
                raise
        time.sleep(0.5)
