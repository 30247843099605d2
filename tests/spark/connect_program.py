"""What works with Spark Connect: ``connect_program FOLDER``, with a server of its own.

FOLDER has the stages ``classic`` and ``classic_pipeline``, saved by a classic session. What this
finds goes to ``found.json``, what it saves to ``connect`` and ``connect_pipeline``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def rows() -> list[tuple[Any, ...]]:
    """Features of two numbers; the last row cannot be scored."""
    return [([1.0, 2.0], 0), ([3.0, -4.0], 1), ([0.5, 0.25], 2), (None, 0)]


def refused(action: Callable[[], Any]) -> str:
    """Name and text of the error that an action raises."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def main(folder: Path) -> dict[str, Any]:
    """Score, save and load."""
    from pyspark.ml import PipelineModel
    from pyspark.sql import SparkSession

    from spark_dlobd import DLEstimator, DLModel

    spark = SparkSession.builder.remote("local[2]").getOrCreate()  # type: ignore[attr-defined]
    df = spark.createDataFrame(rows(), "features array<double>, label int").coalesce(1)

    def scored(stage: Any) -> list[Any]:
        found = stage.transform(df).select("prediction", "probability").collect()
        return [[row.prediction, row.probability.toArray().tolist()] for row in found]

    classic = DLModel.load(f"{folder}/classic")
    classic.save(f"{folder}/connect")
    classic.write().overwrite().save(f"{folder}/connect")
    PipelineModel.load(f"{folder}/classic_pipeline").save(f"{folder}/connect_pipeline")
    found = {
        "remote": type(spark).__module__,
        "classic": scored(classic),
        "connect": scored(DLModel.load(f"{folder}/connect")),
        "pipeline": scored(PipelineModel.load(f"{folder}/connect_pipeline")),
        "copy": scored(classic.copy({classic.predictBatchSize: 1})),
        "error": refused(lambda: scored(classic.copy({classic.handleInvalid: "error"}))),
        "taken": refused(lambda: classic.save(f"{folder}/connect")),
        "missing": refused(lambda: DLModel.load(f"{folder}/nothing")),
        "fit": refused(
            lambda: DLEstimator(
                model=classic.getKerasModel(),
                loss="sparse_categorical_crossentropy",
                tracking="none",
            ).fit(df)
        ),
    }
    spark.stop()
    return found


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / "found.json").write_text(json.dumps(main(target)))
