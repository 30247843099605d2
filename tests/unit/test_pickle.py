"""Stages, their Params and param maps as pickles: what joblib and multiprocessing do with them."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from pyspark import cloudpickle
from pyspark.ml import Pipeline
from pyspark.ml.tuning import ParamGridBuilder

from spark_dlobd import DLEstimator, DLModel, HorovodConfig
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.estimators.params import TrainingParams

keras = pytest.importorskip("keras")
WAYS = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "oldest pickle": lambda value: pickle.loads(pickle.dumps(value, protocol=2)),
    "cloudpickle": lambda value: pickle.loads(cloudpickle.dumps(value)),
    "deepcopy": copy.deepcopy,
}


@pytest.fixture(scope="module")
def network() -> Any:
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    return net


def set_values(stage: Any) -> dict[str, Any]:
    return {param.name: value for param, value in stage.extractParamMap().items()}


@pytest.mark.parametrize("way", WAYS)
def test_an_estimator_keeps_what_was_set(network: Any, way: str) -> None:
    est = DLEstimator(
        model=network,
        loss=keras.losses.Huber(delta=0.5),
        metrics=["mae"],
        learningRate=0.1,
        batchSize=7,
        backend=HorovodConfig(controller="mpi"),
        classWeight={0: 2.0},
        stopWhen="loss < 0.5",
        callbacks=[keras.callbacks.TerminateOnNaN()],
    ).copy()
    back = WAYS[way](est)
    assert back.uid == est.uid
    assert set_values(back) == set_values(est)
    assert back.getBackend() == HorovodConfig(controller="mpi")
    assert back.network == est.network
    assert [type(item).__name__ for item in back.callbacks] == ["TerminateOnNaN"]
    with pytest.raises(ConfigurationError, match=r"batchSize must be .*Got 0\."):
        back.set(back.batchSize, 0)


@pytest.mark.parametrize("way", WAYS)
def test_a_model_keeps_its_network(network: Any, way: str) -> None:
    model = DLModel(predictBatchSize=5).setModel(network)
    back = WAYS[way](model)
    assert back.getPredictBatchSize() == 5
    assert back.fitted() == model.fitted()
    assert back.getKerasModel().loss == "mse"


@pytest.mark.parametrize("param", [param.name for param in TrainingParams().params])
def test_every_param_and_its_converter(param: str) -> None:
    owned = TrainingParams().getParam(param)
    for value in (owned, getattr(TrainingParams, param)):
        back = pickle.loads(pickle.dumps(value))
        assert (back, back.doc) == (value, value.doc)
        assert callable(back.typeConverter)


def test_grids_and_pipelines(network: Any) -> None:
    est = DLEstimator(model=network)
    grid = ParamGridBuilder().addGrid(est.epochs, [1, 2]).build()
    back = pickle.loads(pickle.dumps(Pipeline(stages=[est]))).getStages()[0]
    assert [back.copy(each).getEpochs() for each in pickle.loads(pickle.dumps(grid))] == [1, 2]


def test_the_live_model_of_the_constructor_stays_behind(network: Any) -> None:
    assert b"_unpickle_model" in pickle.dumps(network)
    assert b"_unpickle_model" not in pickle.dumps(DLEstimator(model=network))


def test_another_process_reads_it(network: Any, tmp_path: Path) -> None:
    file = tmp_path / "estimator.pickle"
    file.write_bytes(pickle.dumps(DLEstimator(model=network, epochs=3)))
    script = """
        import pathlib, pickle, sys
        est = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())
        assert "tensorflow" not in sys.modules
        print(est.getEpochs(), len(est.network.archive))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split()[0] == "3"
