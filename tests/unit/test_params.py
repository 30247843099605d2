from __future__ import annotations

import inspect
import json
from typing import Any

import numpy as np
import pytest

from spark_dlobd import DLEstimator, HorovodConfig
from spark_dlobd.errors import ConfigurationError, ModelError
from spark_dlobd.estimators.params import TrainingParams

keras = pytest.importorskip("keras")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batchSize", 0, r"^batchSize must be an int in \[1, inf\)\. Got 0\.$"),
        ("batchSize", 1.5, r"batchSize must be an int in \[1, inf\)\. Got 1\.5\."),
        ("batchSize", True, r"batchSize must be an int .* Got True"),
        ("epochs", "3", r"epochs must be an int in \[1, inf\)\. Got '3'\."),
        ("learningRate", 0, r"learningRate must be a float in \(0, inf\)\. Got 0\."),
        ("learningRate", float("nan"), r"learningRate must be a float .* Got nan"),
        ("validationFraction", 1, r"validationFraction must be a float in \[0, 1\)\. Got 1\."),
        ("handleInvalid", "keep", r"handleInvalid must be one of 'error', 'skip'\. Got 'keep'\."),
        ("shuffle", 1, r"shuffle must be True or False\. Got 1\."),
        ("verbose", 3, r"verbose must be an int in \[0, 2\]\. Got 3\."),
        ("classWeight", {"a": 1}, r"classWeight must be a dict of class index .* Got \{'a': 1\}"),
        ("metrics", "accuracy", r"metrics must be a list of Keras names.* Got 'accuracy'"),
        ("loss", 3, r"loss must be a Keras name, a config dict, or a Keras object\. Got 3\."),
        ("featuresCol", 3, r"featuresCol must be a str\. Got 3\."),
        ("seed", "x", r"seed must be an int in \[0, 2147483647\]\. Got 'x'\."),
    ],
)
def test_wrong_values(name: str, value: Any, message: str) -> None:
    params = TrainingParams()
    with pytest.raises(ConfigurationError, match=message):
        params._set(**{name: value})
    with pytest.raises(ConfigurationError, match=message):
        params.set(params.getParam(name), value)


def test_defaults_and_documentation() -> None:
    params = TrainingParams()
    assert params.getBatchSize() == 128
    assert params.getSeed() == 0
    assert params.getLearningRate() is None
    assert params.getWeightCol() is None
    assert params.getBackend() == "auto"
    for param in params.params:
        assert params.hasDefault(param) or param.name == "thresholds"
    params.check_params()


def test_keras_objects_become_json() -> None:
    params = TrainingParams()
    params._set(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.SGD(0.5),
        metrics=["accuracy", keras.metrics.AUC(num_thresholds=5)],
        classWeight={0: 1, 1: 2.5},
    )
    values = {param.name: value for param, value in params.extractParamMap().items()}
    back = TrainingParams()
    back._set_given(json.loads(json.dumps(values)))
    loss: Any = back.getLoss()
    optimizer: Any = back.getOptimizer()
    metrics: Any = back.getMetrics()
    assert loss["config"]["from_logits"] is True
    assert optimizer["config"]["learning_rate"] == 0.5
    assert metrics[1]["config"]["num_thresholds"] == 5
    assert back.getClassWeight() == {0: 1.0, 1: 2.5}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labelCol": "features"}, "labelCol and featuresCol must name different columns"),
        ({"probabilityCol": "prediction"}, "probabilityCol and predictionCol must name different"),
        ({"featuresCol": ""}, "featuresCol must be a str that is not empty"),
        ({"thresholds": [0.0, 0.0]}, "thresholds must be a list of floats"),
        ({"thresholds": [-0.1, 0.5]}, "thresholds must be a list of floats"),
        ({"validationFraction": 0.1, "validationIndicatorCol": "v"}, "exclude each other"),
        ({"batchSize": 3, "numTrainWorkers": 4}, "batchSize must be at least numTrainWorkers"),
    ],
)
def test_wrong_combinations(values: dict[str, Any], message: str) -> None:
    params = TrainingParams()
    params._set(**values)
    with pytest.raises(ConfigurationError, match=message):
        params.check_params()


def test_an_output_column_may_be_left_out() -> None:
    params = TrainingParams()
    params._set(probabilityCol="", rawPredictionCol="")
    params.check_params()


def test_live_objects_are_set_like_params() -> None:
    callback = keras.callbacks.TerminateOnNaN()
    tracker: Any = object()
    estimator = DLEstimator(epochs=2).setParams(callbacks=[callback], tracker=tracker, seed=4)
    assert estimator.callbacks == (callback,) and estimator.tracker is tracker
    assert (estimator.getEpochs(), estimator.getSeed()) == (2, 4)
    copied = estimator.copy({estimator.epochs: 5})
    assert copied.callbacks == (callback,) and copied.getEpochs() == 5
    assert estimator.setParams(epochs=3).callbacks == (callback,)
    assert estimator.setParams(callbacks=None).callbacks == ()


def test_names_that_do_not_exist() -> None:
    with pytest.raises(TypeError, match="batch_size"):
        DLEstimator(batch_size=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match=r"no Param 'batchsize'.* mean 'batchSize'"):
        DLEstimator().setParams(batchsize=3)
    with pytest.raises(ConfigurationError, match=r"no Param 'zzz'. It has .*'epochs'"):
        DLEstimator().setParams(zzz=3)


def test_backend_configs_become_json() -> None:
    config = HorovodConfig(controller="mpi", mpi_args=("-x", "A"), environment={"A": "1"})
    estimator = DLEstimator(backend=config)
    value = json.loads(json.dumps(estimator.getOrDefault(estimator.backend)))
    assert value["name"] == "horovod" and value["mpi_args"] == ["-x", "A"]
    assert DLEstimator(backend=value).getBackend() == config
    assert DLEstimator(backend="local").getBackend() == "local"


@pytest.mark.parametrize(
    ("seed", "expected"), [(0, 0), (2**31 - 1, 2**31 - 1), (np.int64(7), 7), (3.0, 3)]
)
def test_seeds(seed: Any, expected: int) -> None:
    assert DLEstimator(seed=seed).getSeed() == expected
    with pytest.raises(ConfigurationError, match=r"seed must be an int in \[0, 2147483647\]"):
        DLEstimator(seed=2**31)


class Unregistered(keras.losses.Loss):  # type: ignore[misc]
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return y_pred


def test_objects_that_workers_could_not_rebuild() -> None:
    with pytest.raises(ModelError, match=r"not registered.*'Unregistered'"):
        DLEstimator(loss=Unregistered())
    with pytest.raises(ModelError, match="lambda"):
        DLEstimator(loss=lambda y_true, y_pred: y_pred)
    with pytest.raises(ConfigurationError, match=r"loss must be a Keras name.* Got <class"):
        DLEstimator(loss=Unregistered)


def test_every_param_is_explained() -> None:
    estimator = DLEstimator()
    explained = estimator.explainParams().splitlines()
    assert [line.split(":")[0] for line in explained] == [param.name for param in estimator.params]
    arguments = inspect.signature(DLEstimator.__init__).parameters
    assert set(arguments) - {"self"} == {p.name for p in estimator.params} | {
        "model",
        "callbacks",
        "tracker",
    }
