"""Stages saved before networks could have several inputs and outputs still load.

`stages/` holds a model and an estimator as they were saved then: a softmax over
``(x0 + 0.5, x1, -x0)``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spark_dlobd import DLEstimator, DLModel

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

STAGES = Path(__file__).with_name("stages")
OLD = "model/metadata/part-00000"


def test_a_model_scores_as_it_did(spark: SparkSession) -> None:
    model = DLModel.load(f"file://{STAGES}/model")
    df = spark.createDataFrame([([1.0, 2.0],), ([-3.0, 0.0],)], "features array<double>")
    logits = np.array([[1.5, 2.0, -1.0], [-2.5, 0.0, 3.0]])
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scored = model.transform(df).toPandas()
    np.testing.assert_allclose(np.stack(scored.probability), expected, rtol=1e-5)
    assert scored.prediction.tolist() == [1.0, 2.0]


def test_an_estimator_fits(spark: SparkSession) -> None:
    estimator = DLEstimator.load(f"file://{STAGES}/estimator")
    assert (estimator.getLoss(), estimator.getInputs(), estimator.getLabels()) == (
        "sparse_categorical_crossentropy",
        None,
        None,
    )
    df = spark.createDataFrame(
        [([float(i % 3), 1.0], i % 3) for i in range(20)], "features array<double>, label int"
    )
    assert estimator.fit(df).history["accuracy"]


def test_what_one_input_saves_is_what_older_versions_read(tmp_path: Path) -> None:
    model = DLModel.load(f"file://{STAGES}/model")
    model.write().overwrite().save(f"file://{tmp_path}/again")
    (new,) = (tmp_path / "again" / "metadata").glob("part-*")
    saved, before = (json.loads(file.read_text()) for file in (new, STAGES / OLD))
    for key in ("features", "output", "label_metadata"):
        assert saved["spark_dlobd"][key] == before["spark_dlobd"][key]
    assert saved["spark_dlobd"].keys() == before["spark_dlobd"].keys()
