"""What every backend promises, on a real cluster, for every registered backend."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest

from spark_dlobd import (
    CollectiveConfig,
    DLEstimator,
    HorovodConfig,
    LocalConfig,
    ParameterServerConfig,
    ShuffleConfig,
)
from spark_dlobd.backends.registry import backend_names
from tests.cluster import faults
from tests.id_network import IDS, id_network

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from spark_dlobd import DLModel

pytestmark = pytest.mark.usefixtures("nothing_left")
BACKENDS: dict[str, Any] = {
    "local": LocalConfig(),
    "collective": CollectiveConfig(transport="ring"),
    "collective-mpi": CollectiveConfig(transport="mpi"),
    "horovod": HorovodConfig(),
    "horovod-mpi": HorovodConfig(controller="mpi"),
    "parameter_server": ParameterServerConfig(),
    "shuffle": ShuffleConfig(),
}
CURVE_TOLERANCE = 1e-5


def test_every_registered_backend_is_under_contract() -> None:
    assert {name.split("-")[0] for name in BACKENDS} == set(backend_names())


@pytest.fixture(scope="module")
def weighted(spark: SparkSession) -> DataFrame:
    """203 rows, so that steps and shards are uneven, with weights and a validation column."""
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 3, 203)
    features = rng.normal(size=(203, 5)) + labels[:, None]
    weights = rng.uniform(0.5, 2.0, 203)
    rows = [
        (x.tolist(), int(y), float(w), i % 6 == 0)
        for i, (x, y, w) in enumerate(zip(features, labels, weights, strict=True))
    ]
    schema = "features array<double>, label int, weight double, is_val boolean"
    frame = spark.createDataFrame(rows, schema).coalesce(1).cache()
    frame.count()
    return frame


def fit(df: DataFrame, backend: Any, callbacks: Any = (), **params: Any) -> DLModel:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(16, "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    settings: dict[str, Any] = {
        "model": model,
        "loss": "sparse_categorical_crossentropy",
        "optimizer": "adam",
        "metrics": ["accuracy"],
        "weightCol": "weight",
        "validationIndicatorCol": "is_val",
        "backend": backend,
        "numTrainWorkers": 2,
        "batchSize": 25,
        "epochs": 3,
        "seed": 5,
        "tracking": "none",
        "verbose": 0,
        "callbacks": callbacks,
    }
    return DLEstimator(**{**settings, **params}).fit(df)


@pytest.fixture(scope="module")
def reference(weighted: DataFrame) -> DLModel:
    return fit(weighted, LocalConfig())


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def trained(request: pytest.FixtureRequest, weighted: DataFrame) -> DLModel:
    return fit(weighted, BACKENDS[request.param])


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_whole_numbers_are_told_apart(spark: SparkSession, backend: str) -> None:
    df = spark.createDataFrame([(float(i), i % 4) for i in IDS], "id double, label long")
    settings: dict[str, Any] = {
        "model": id_network(),
        "featuresCol": "id",
        "optimizer": "sgd",
        "learningRate": 1.0,
        "weightCol": None,
        "validationIndicatorCol": None,
    }
    model = fit(df, BACKENDS[backend], batchSize=32, epochs=2, **settings)
    assert model.history["accuracy"][1] == 1.0
    assert model.transform(df).filter("prediction = label").count() == len(IDS)


def test_history_has_every_metric_of_every_epoch(trained: DLModel) -> None:
    assert set(trained.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert {len(values) for values in trained.history.values()} == {3}


def skip_asynchronous(trained: DLModel) -> None:
    if trained.report["backend"] == "parameter_server":
        pytest.skip("asynchronous updates: no two runs are equal")


def test_loss_curve_is_that_of_virtual_workers(trained: DLModel, reference: DLModel) -> None:
    skip_asynchronous(trained)
    for name in ("loss", "val_loss", "accuracy", "val_accuracy"):
        np.testing.assert_allclose(
            trained.history[name], reference.history[name], rtol=CURVE_TOLERANCE, err_msg=name
        )


def test_weights_are_those_of_virtual_workers(trained: DLModel, reference: DLModel) -> None:
    skip_asynchronous(trained)
    ours, theirs = trained.getKerasModel().weights, reference.getKerasModel().weights
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(other), rtol=1e-4, atol=1e-5)


def test_every_row_is_read_once_an_epoch(trained: DLModel) -> None:
    assert trained.report["rows"] == {"train": 169, "validation": 34}
    assert trained.report["rows_per_epoch"] == 169
    assert trained.report["steps_per_epoch"] == 7


def test_loss_falls(trained: DLModel) -> None:
    assert trained.history["loss"][-1] < trained.history["loss"][0]
    assert trained.history["val_loss"][-1] < trained.history["val_loss"][0]


def test_evaluate_says_what_the_last_validation_said(trained: DLModel, weighted: DataFrame) -> None:
    found = trained.evaluate(weighted.filter("is_val"))
    last = {name: trained.history[f"val_{name}"][-1] for name in ("loss", "accuracy")}
    assert found == pytest.approx(last, rel=CURVE_TOLERANCE)


def test_report_says_what_ran(trained: DLModel) -> None:
    assert trained.report["transport"]
    assert len(trained.report["weights_hash"]) == 64
    assert trained.report["seconds"]["train"] > 0


@keras.saving.register_keras_serializable("contract")
class Largest(keras.metrics.Metric):  # type: ignore[misc]
    """Largest error, which is no sum."""

    def __init__(self, name: str = "largest", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.largest = self.add_weight(initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        error = keras.ops.max(keras.ops.abs(y_true - y_pred))
        self.largest.assign(keras.ops.maximum(self.largest, error))

    def result(self) -> Any:
        return self.largest.value

    def merge_state(self, metrics: Any) -> None:
        self.largest.assign(max(m.largest for m in [self, *metrics]))


def metrics_that_are_no_means(prefix: str) -> list[Any]:
    return [
        keras.metrics.R2Score(name=f"{prefix}r2"),
        keras.metrics.RootMeanSquaredError(name=f"{prefix}rmse"),
        keras.metrics.AUC(name=f"{prefix}auc"),
        keras.metrics.F1Score("macro", name=f"{prefix}f1"),
        keras.metrics.OneHotMeanIoU(3, name=f"{prefix}iou", dtype="float32"),
        Largest(name=f"{prefix}largest"),
    ]


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_metrics_over_workers_are_those_of_evaluate_on_all_rows(
    weighted: DataFrame, backend: str
) -> None:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, "softmax")])
    model.compile(
        "sgd",
        "categorical_crossentropy",
        metrics=metrics_that_are_no_means(""),
        weighted_metrics=metrics_that_are_no_means("weighted_"),
    )
    rows = weighted.selectExpr(
        "features", "weight", "is_val", "transform(array(0, 1, 2), k -> double(k = label)) label"
    )
    # with such a rate the metrics of the epoch are those of the first weights
    settings = {"loss": None, "metrics": None, "optimizer": None, "epochs": 1}
    history = fit(rows, BACKENDS[backend], model=model, learningRate=1e-12, **settings).history
    table = rows.toPandas()
    for prefix, part in (("", table[~table.is_val]), ("val_", table[table.is_val])):
        x, y = (np.stack(part[name]) for name in ("features", "label"))
        expected = model.evaluate(x, y, 25, 0, part.weight.to_numpy(), return_dict=True)
        assert len(expected) == 13
        for name, value in expected.items():
            np.testing.assert_allclose(history[prefix + name], [value], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("backend", ["collective-mpi", "horovod", "horovod-mpi"])
def test_one_rank_that_wants_to_stop_stops_all(weighted: DataFrame, backend: str) -> None:
    model = fit(weighted, BACKENDS[backend], [faults.WantsToStop(rank=1)], epochs=5)
    assert len(model.history["loss"]) == 2


@pytest.mark.parametrize(
    ("transport", "options", "said"),
    [
        ("tcp", {"network_interface": "lo"}, "tcp"),
        ("sm", {}, "sm"),
        ("ucx", {"ucx_tls": "tcp,self"}, "ucx"),
        ("ucx", {"ucx_tls": "sm,self"}, "ucx"),
    ],
    ids=["tcp", "sm", "ucx-tcp", "ucx-sm"],
)
def test_mpi_transports(
    weighted: DataFrame, reference: DLModel, transport: Any, options: Any, said: str
) -> None:
    config = HorovodConfig(controller="mpi", transport=transport, **options)
    model = fit(weighted, config, epochs=1)
    np.testing.assert_allclose(model.history["loss"], reference.history["loss"][:1], rtol=1e-5)
    assert said in model.report["transport"]


@pytest.mark.parametrize("backend", ["collective", "collective-mpi", "horovod"])
@pytest.mark.parametrize(("compression", "tolerance"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_compressed_gradients(
    weighted: DataFrame, reference: DLModel, backend: str, compression: Any, tolerance: float
) -> None:
    model = fit(weighted, replace(BACKENDS[backend], compression=compression))
    np.testing.assert_allclose(model.history["loss"], reference.history["loss"], rtol=tolerance)
    assert model.history["loss"] != reference.history["loss"]


@pytest.mark.parametrize("backend", ["collective", "collective-mpi", "horovod"])
def test_a_network_of_bfloat16(weighted: DataFrame, backend: str) -> None:
    def network() -> Any:
        keras.utils.set_random_seed(2)
        layers = [
            keras.layers.Dense(8, "relu", dtype="bfloat16"),
            keras.layers.BatchNormalization(dtype="bfloat16"),
            keras.layers.Dense(3, "softmax", dtype="bfloat16"),
        ]
        return keras.Sequential([keras.Input((5,), dtype="bfloat16"), *layers])

    settings: dict[str, Any] = {"epochs": 1, "optimizer": "sgd"}
    ours = fit(weighted, BACKENDS[backend], model=network(), **settings)
    theirs = fit(weighted, LocalConfig(), model=network(), **settings)
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(ours.history[name], theirs.history[name], rtol=3e-2)


@pytest.mark.parametrize("backend", ["collective", "collective-mpi", "horovod"])
def test_accumulated_gradients_update_once_per_group_of_steps(
    weighted: DataFrame, backend: str
) -> None:
    config = replace(BACKENDS[backend], gradient_accumulation_steps=7)
    model = fit(weighted, config, optimizer="sgd", epochs=1, shuffle=False)
    whole = fit(weighted, LocalConfig(), optimizer="sgd", epochs=1, shuffle=False, batchSize=169)
    assert model.report["steps_per_epoch"] == 7
    # one update each; dropout and BatchNorm see other batches, so only the bias agrees roughly
    ours, theirs = model.getKerasModel().weights[-1], whole.getKerasModel().weights[-1]
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=5e-3)


@pytest.mark.parametrize("backend", ["local", "horovod", "shuffle", "parameter_server"])
def test_one_validation_row_for_two_workers(weighted: DataFrame, backend: str) -> None:
    from pyspark.sql import functions as F

    row = weighted.first()
    assert row is not None
    one = weighted.withColumn("is_val", F.col("weight") == F.lit(row.weight))
    model = fit(one, BACKENDS[backend], epochs=2)
    assert model.report["rows"] == {"train": 202, "validation": 1}
    assert {len(values) for values in model.history.values()} == {2}
    x, y, weight = (np.array([value]) for value in (row.features, row.label, row.weight))
    loss, accuracy = model.getKerasModel().evaluate(x, y, sample_weight=weight, verbose=0)
    assert model.history["val_loss"][-1] == pytest.approx(loss, rel=1e-5)
    assert model.history["val_accuracy"][-1] == accuracy
