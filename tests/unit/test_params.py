from __future__ import annotations

import inspect
import json
import pickle
import re
from typing import Any

import numpy as np
import pytest

from spark_dlobd import DLEstimator, DLModel, HorovodConfig
from spark_dlobd.errors import ConfigurationError, ConfigurationTypeError, ModelError
from spark_dlobd.estimators.params import PredictionParams, TrainingParams
from spark_dlobd.tracking.base import Tracker

keras = pytest.importorskip("keras")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batchSize", 0, r"^batchSize must be an int of at least 1\. Got 0\.$"),
        ("batchSize", 1.5, r"batchSize must be an int of at least 1\. Got 1\.5\."),
        ("batchSize", True, r"batchSize must be an int .* Got True"),
        ("epochs", "3", r"epochs must be an int of at least 1\. Got '3'\."),
        ("learningRate", 0, r"learningRate must be a float above 0\. Got 0\."),
        ("learningRate", float("nan"), r"learningRate must be a float .* Got nan"),
        (
            "validationFraction",
            1,
            r"validationFraction must be a float of at least 0 and below 1\. Got 1\.",
        ),
        ("handleInvalid", "keep", r"handleInvalid must be one of 'error', 'skip'\. Got 'keep'\."),
        ("shuffle", 1, r"shuffle must be True or False\. Got 1\."),
        ("verbose", 3, r"verbose must be 'auto' or an int from 0 to 2\. Got 3\."),
        ("classWeight", {"a": 1}, r"classWeight must be a dict of class index .* Got \{'a': 1\}"),
        ("classWeight", {0.5: 1}, r"classWeight must be a dict of class index .* Got \{0.5: 1\}"),
        ("metrics", "accuracy", r"metrics must be a list of Keras names.* Got 'accuracy'"),
        ("loss", 3, r"loss must be a Keras name, a config dict, or a Keras object, .*\. Got 3\."),
        ("featuresCol", 3, r"featuresCol must be a str\. Got 3\."),
        ("seed", "x", r"seed must be an int from 0 to 2147483647\. Got 'x'\."),
    ],
)
def test_wrong_values(name: str, value: Any, message: str) -> None:
    params = TrainingParams()
    with pytest.raises(ConfigurationError, match=message):
        params._set(**{name: value})
    with pytest.raises(ConfigurationError, match=message):
        params.set(params.getParam(name), value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batchSize", "3"),
        ("batchSize", 1.5),
        ("learningRate", "fast"),
        ("shuffle", 1),
        ("cacheDir", 3),
        ("handleInvalid", 3),
        ("classWeight", [1.0]),
        ("loss", 3),
        ("metrics", "accuracy"),
        ("backend", 3),
        ("featuresCol", 3),
    ],
)
def test_a_wrong_type_is_a_type_error_too(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be .* Got ") as caught:
        TrainingParams()._set(**{name: value})
    assert isinstance(caught.value, ConfigurationTypeError)


def test_a_wrong_value_of_the_right_type_is_no_type_error() -> None:
    values = {"batchSize": 0, "learningRate": -1.0, "cacheDir": "", "handleInvalid": "keep"}
    for name, value in values.items():
        with pytest.raises(ConfigurationError, match=f"^{name} must be") as caught:
            TrainingParams()._set(**{name: value})
        assert not isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        (
            "featuresCol",
            ["a", "b"],
            "Several columns side by side are inputCols=['a', 'b'].",
        ),
        ("labelCol", ("y", "z"), "write labels={'output': 'column', ...}."),
        ("probabilityCol", None, "probabilityCol='' leaves the column out."),
    ],
)
def test_a_wrong_column_says_what_to_write(name: str, value: Any, advice: str) -> None:
    with pytest.raises(ConfigurationTypeError, match=re.escape(f"Got {value!r}. ")) as caught:
        TrainingParams()._set(**{name: value})
    assert str(caught.value).endswith(advice)


def test_defaults_and_documentation() -> None:
    params = TrainingParams()
    assert params.getBatchSize() == 128
    assert params.getSeed() == 0
    assert params.getLearningRate() is None
    assert params.getWeightCol() is None
    assert params.getBackend() == "auto"
    assert params.getThresholds() is None
    assert all(params.hasDefault(param) for param in params.params)
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
        ({"predictionCol": "label"}, "predictionCol and labelCol must name different columns"),
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
    tracker = Tracker()
    estimator = DLEstimator(epochs=2).setParams(callbacks=[callback], tracker=tracker, seed=4)
    assert estimator.callbacks == (callback,) and estimator.tracker is tracker
    assert (estimator.getEpochs(), estimator.getSeed()) == (2, 4)
    copied = estimator.copy({estimator.epochs: 5})
    assert copied.callbacks == (callback,) and copied.getEpochs() == 5
    assert estimator.setParams(epochs=3).callbacks == (callback,)
    assert estimator.setParams(callbacks=None).callbacks == ()


def test_every_param_has_a_setter_that_chains_and_a_getter() -> None:
    for stage in (DLEstimator(), DLModel()):
        for param in stage.params:
            name = param.name[0].upper() + param.name[1:]
            value = getattr(stage, f"get{name}")()
            assert getattr(stage, f"set{name}")(value) is stage, name
            assert getattr(stage, f"get{name}")() == value, name
    assert len(DLEstimator().params) >= 27 and len(DLModel().params) >= 8


def test_setters_chain_through_live_objects() -> None:
    callback, tracker = keras.callbacks.TerminateOnNaN(), Tracker()
    estimator = (
        DLEstimator()
        .setFeaturesCol("pixels")
        .setBackend(HorovodConfig(controller="mpi"))
        .setLoss(keras.losses.MeanSquaredError())
        .setThresholds([1, 2])
        .setCallbacks([callback])
        .setTracker(tracker)
        .setEpochs(3)
    )
    assert estimator.getFeaturesCol() == "pixels" and estimator.getEpochs() == 3
    assert estimator.getBackend() == HorovodConfig(controller="mpi")
    assert estimator.callbacks == (callback,) and estimator.tracker is tracker
    assert estimator.setCallbacks(None).setTracker(None).callbacks == ()
    assert estimator.tracker is None and estimator.getThresholds() == [1.0, 2.0]
    other: Any = object()
    with pytest.raises(ConfigurationTypeError, match=r"tracker must be a subclass of .*Tracker"):
        estimator.setTracker(other)
    with pytest.raises(ConfigurationTypeError, match=r"callbacks must be a sequence .* Got False"):
        estimator.setCallbacks(False)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="epochs must be an int of at least 1"):
        estimator.setEpochs(0)


def test_a_setter_tells_its_type_and_what_the_param_is() -> None:
    assert str(inspect.signature(DLEstimator.setEpochs)) == "(self: ~P, value: int) -> ~P"
    assert str(inspect.signature(DLModel.setThresholds)).startswith(
        "(self: ~P, value: list[float] | None)"
    )
    for stage in (TrainingParams(), PredictionParams()):
        for param in stage.params:
            setter = getattr(type(stage), f"set{param.name[0].upper()}{param.name[1:]}")
            assert inspect.getdoc(setter).startswith(f"Set {param.name}: {param.doc}\n")
            assert pickle.loads(pickle.dumps(setter)) is setter


@pytest.mark.parametrize("how", ["setParams", "set", "setter", "copy"])
def test_none_takes_back_what_is_none_by_default(how: str) -> None:
    def with_none(name: str) -> DLEstimator:
        stage = estimator.copy()
        if how == "setParams":
            return stage.setParams(**{name: None})
        if how == "setter":
            return getattr(stage, f"set{name[0].upper()}{name[1:]}")(None)  # type: ignore[no-any-return]
        if how == "copy":
            return stage.copy({stage.getParam(name): None})
        stage.set(stage.getParam(name), None)
        return stage

    given = {
        "learningRate": 0.1,
        "weightCol": "w",
        "validationIndicatorCol": "v",
        "thresholds": [1.0, 2.0],
        "loss": "mse",
        "optimizer": "sgd",
        "metrics": ["mae"],
        "stopWhen": "loss < 1",
        "classWeight": {0: 2.0},
        "cacheDir": "/tmp/x",
        "inputCols": ["a", "b"],
        "inputs": {"wide": "a"},
        "labels": {"clicked": "y"},
        "outputCols": {"clicked_prediction": "p"},
        "lossWeights": {"clicked": 2.0},
    }
    estimator = DLEstimator(**given)  # type: ignore[arg-type]
    for param in estimator.params:
        if param.name in given:
            found = with_none(param.name)
            assert found.getOrDefault(param.name) is None and not found.isSet(param.name)
        else:
            with pytest.raises(ConfigurationError, match=f"^{param.name} must be .* Got None"):
                with_none(param.name)


def test_none_in_a_constructor_means_not_given() -> None:
    estimator = DLEstimator(epochs=None, labelCol=None, model=None, callbacks=None)  # type: ignore[arg-type]
    assert not any(estimator.isSet(param) for param in estimator.params)
    assert DLModel(predictBatchSize=None).getPredictBatchSize() == 256
    with pytest.raises(ModelError, match="model must be"):
        DLEstimator().setParams(model=None)


def test_names_that_do_not_exist() -> None:
    stages: tuple[Any, ...] = (DLEstimator, DLModel)
    for stage in stages:
        near = (
            f"{stage.__name__} has no Param 'predict_batch_size'. Did you mean 'predictBatchSize'?"
        )
        for call in (stage, stage().setParams):
            with pytest.raises(ConfigurationTypeError, match=re.escape(near)):
                call(predict_batch_size=3)
            with pytest.raises(TypeError, match=r"no Param 'zzz'\. It has .*'predictionCol'"):
                call(zzz=3)
    with pytest.raises(ConfigurationError, match=r"no Param 'epoch'\. Did you mean 'epochs'\?"):
        DLEstimator(epoch=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match=r"no Param 'modle'\. Did you mean 'model'\?"):
        DLEstimator().setParams(modle=3)


def test_arguments_without_a_name() -> None:
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    stages: tuple[Any, ...] = (DLEstimator, DLModel)
    for stage, advice in zip(
        stages, ("DLEstimator(model=...)", "DLModel().setModel(...)"), strict=True
    ):
        message = f"takes its arguments by name. Got a value of type Sequential: write {advice}."
        for call in (stage, stage().setParams):
            with pytest.raises(ConfigurationError, match=re.escape(message)):
                call(network)
            with pytest.raises(TypeError, match=r"type str: write a name before it, one of"):
                call("features")


def test_a_subclass_is_named_and_keeps_its_type() -> None:
    class Mine(DLEstimator):
        pass

    assert type(Mine(epochs=2).setEpochs(3).setParams(seed=1)) is Mine
    with pytest.raises(ConfigurationError, match=r"^Mine has no Param 'epoch'"):
        Mine(epoch=3)  # type: ignore[call-arg]


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
    with pytest.raises(ConfigurationError, match=r"seed must be an int from 0 to 2147483647"):
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
        "transformation",
        "validationData",
        "tracker",
    }
