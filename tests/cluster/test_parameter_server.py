"""What parameter servers promise beyond the contract of all backends, on a real cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
import pytest

from spark_dlobd import DLEstimator, LocalConfig, ParameterServerConfig
from spark_dlobd.report.schema import FitReport
from tests.cluster.test_contract import fit, weighted  # noqa: F401

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from spark_dlobd import DLModel

pytestmark = pytest.mark.usefixtures("nothing_left")


def dense_weights(model: Any) -> list[Any]:
    return [np.asarray(weight) for weight in model.getKerasModel().weights]


ONE_WORKER: dict[str, Any] = {"numTrainWorkers": 1, "classWeight": {0: 2.0, 2: 0.5}}


@pytest.fixture(scope="module")
def local(weighted: DataFrame) -> DLModel:  # noqa: F811
    return fit(weighted, LocalConfig(), **ONE_WORKER)


@pytest.mark.parametrize("steps_per_call", [1, 3])
def test_one_worker_and_one_server_train_as_one_process(
    weighted: DataFrame,  # noqa: F811
    local: DLModel,
    steps_per_call: int,
) -> None:
    """Dropout, BatchNorm, row weights, validation and an uneven last batch included."""
    ours = fit(weighted, ParameterServerConfig(steps_per_call=steps_per_call), **ONE_WORKER)
    assert set(ours.history) == set(local.history)
    for name, values in local.history.items():
        np.testing.assert_allclose(ours.history[name], values, rtol=1e-5, err_msg=name)
    for mine, other in zip(dense_weights(ours), dense_weights(local), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)
    assert ours.report["staleness"] == {"mean": 0.0, "max": 0}


def test_two_workers_and_two_servers(weighted: DataFrame) -> None:  # noqa: F811
    model = fit(weighted, ParameterServerConfig(num_ps=2, steps_per_call=1), epochs=8)
    assert set(model.report) <= set(get_type_hints(FitReport))
    assert model.report["servers"] == 2
    assert sum(model.report["rows_by_worker"]) == 8 * 169
    assert min(model.report["rows_by_worker"]) > 0
    assert sum(model.report["calls_by_worker"]) == 8 * 7
    assert model.history["loss"][-1] < 0.9 * model.history["loss"][0]
    # two workers that compute at the same time miss about one update of the other
    assert model.report["staleness"]["mean"] < 3
    assert model.report["staleness"]["max"] < 20


@pytest.fixture(scope="module")
def categories(spark: SparkSession) -> DataFrame:
    """300 rows of two category numbers below 50; 41 to 49 never occur."""
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 41, (300, 2))
    labels = (ids[:, 0] % 2 == ids[:, 1] % 2).astype(int)
    rows = [(pair.tolist(), int(y)) for pair, y in zip(ids, labels, strict=True)]
    return spark.createDataFrame(rows, "features array<int>, label int").coalesce(1).cache()


def table_model() -> Any:
    import keras

    keras.utils.set_random_seed(2)
    ids = keras.Input((2,), dtype="int32")
    table = keras.layers.Embedding(50, 4, name="table")
    hidden = keras.layers.Flatten()(table(ids))
    return keras.Model(ids, keras.layers.Dense(1, "sigmoid")(hidden))


def fit_table(df: DataFrame, backend: Any, optimizer: str, workers: int = 1) -> DLModel:
    return DLEstimator(
        model=table_model(),
        loss="binary_crossentropy",
        optimizer=optimizer,
        learningRate=0.1,
        backend=backend,
        numTrainWorkers=workers,
        batchSize=32,
        epochs=2,
        tracking="none",
        verbose=0,
    ).fit(df)


def table_of(model: DLModel) -> Any:
    return np.asarray(model.getKerasModel().get_layer("table").embeddings)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
@pytest.mark.parametrize("num_ps", [1, 2])
def test_tables_cut_over_servers_train_as_whole_ones(
    categories: DataFrame, optimizer: str, num_ps: int
) -> None:
    config = ParameterServerConfig(num_ps=num_ps, min_partition_bytes=0, steps_per_call=2)
    ours = fit_table(categories, config, optimizer)
    local = fit_table(categories, LocalConfig(), optimizer)
    np.testing.assert_allclose(ours.history["loss"], local.history["loss"], rtol=1e-5)
    np.testing.assert_allclose(table_of(ours), table_of(local), rtol=1e-4, atol=1e-6)


def test_rows_that_no_batch_has_do_not_move(categories: DataFrame) -> None:
    config = ParameterServerConfig(num_ps=2, min_partition_bytes=0)
    trained = table_of(fit_table(categories, config, "adam", workers=2))
    before = np.asarray(table_model().get_layer("table").embeddings)
    np.testing.assert_array_equal(trained[41:], before[41:])
    assert np.abs(trained[:41] - before[:41]).max(axis=1).min() > 0
