"""What a prompt and a notebook show of models and estimators; no TensorFlow is needed for it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest

from spark_dlobd import DLEstimator, DLModel, ShuffleConfig
from spark_dlobd.estimators.network import FittedNetwork, FittedOutput
from spark_dlobd.job.columns import TensorColumn
from spark_dlobd.job.network import Network, OutputSpec
from spark_dlobd.report.network import network_facts

SHAPES = {
    "layers/dense/vars/0": (4, 3),
    "layers/dense/vars/1": (3,),
    "layers/dropout/seed_generator/vars/0": (2,),
    "layers/metrics/vars/0": (3, 2),
    "optimizer/vars/0": (4, 3),
}
"""4 * 3 + 3 + 3 * 2 = 21 weights, one layer named like what is beside a network."""
LAYERS: list[dict[str, Any]] = [
    {"class_name": "InputLayer", "config": {}},
    {"class_name": "Dense", "config": {"units": 3}},
    {"class_name": "Flatten", "config": {"name": "flat"}},
    {
        "class_name": "Functional",
        "config": {"layers": [{"class_name": "MaxPooling2D", "config": {"pool_size": [2, 2]}}]},
    },
]


def archive(name: str = "net", layers: list[dict[str, Any]] = LAYERS) -> bytes:
    """What is read of a ``.keras`` file."""
    weights, whole = io.BytesIO(), io.BytesIO()
    with h5py.File(weights, "w") as file:
        for path, shape in SHAPES.items():
            file[path] = np.zeros(shape)
    config = {"class_name": "Sequential", "config": {"name": name, "layers": layers}}
    with zipfile.ZipFile(whole, "w") as zipped:
        zipped.writestr("config.json", json.dumps(config))
        zipped.writestr("model.weights.h5", weights.getvalue())
    return whole.getvalue()


REPORT: dict[str, Any] = {
    "backend": "local",
    "workers": 1,
    "rows": {"train": 8, "validation": 0},
    "total_seconds": 12.3,
    "metrics_over_time": {"loss": [[0, 1.0, 0.5], [1, 2.0, 0.25]]},
    "limit": {"by": "compute", "text": "Compute <limits> this fit."},
    "weights_hash": "abc",
}


def model(report: dict[str, Any], problem: Any = "multiclass", name: str = "net") -> DLModel:
    fitted = FittedNetwork(
        Network(archive(name)),
        (TensorColumn("x", "float32", (4,)),),
        (FittedOutput(OutputSpec(problem, 3)),),
    )
    return DLModel.from_training(fitted, report=report)


def estimator(**params: Any) -> DLEstimator:
    made = DLEstimator(**params)
    made._network = Network(archive())
    return made


def test_an_archive_tells_name_class_layers_and_weights() -> None:
    assert network_facts(archive()) == {
        "name": "net",
        "class": "Sequential",
        "layers": ["Dense 3", "Flatten", "Functional", "MaxPooling2D 2x2"],
        "weights": 21,
    }
    assert network_facts(None) == {}


@pytest.mark.parametrize("layers", [[64, 32], 3, None, {"a": 1}, [{"units": 3}]])
def test_a_model_class_may_mean_anything_by_layers(layers: Any) -> None:
    facts = network_facts(archive(layers=layers))
    assert (facts["name"], facts["layers"], facts["weights"]) == ("net", [], 21)


def test_a_deep_network_is_cut() -> None:
    facts = network_facts(archive(layers=LAYERS[1:2] * 100))
    assert len(facts["layers"]) == 61
    assert facts["layers"][-1] == "and 40 more"


def test_a_model_says_what_it_is_and_how_it_was_trained() -> None:
    assert repr(model(REPORT)) == (
        "DLModel(net (Sequential, 21 weights), 3 classes from 4 float32, "
        "trained with backend local, 1 worker, 8 rows to train, loss 0.25)"
    )
    assert repr(model({}, "regression")) == (
        "DLModel(net (Sequential, 21 weights), regression of 3 outputs from 4 float32)"
    )


def test_an_empty_model_says_so() -> None:
    empty = DLModel()
    assert repr(empty) == f"DLModel(uid={empty.uid!r}, no network)"
    assert "DLModel without a network" in empty._repr_html_()


def test_a_notebook_shows_result_limit_curves_and_facts_of_a_model() -> None:
    html = model(REPORT)._repr_html_()
    assert "<h1>DLModel: net (Sequential, 21 weights)</h1>" in html
    assert "<b>0.25</b><span>loss</span>" in html
    assert "Compute &lt;limits&gt; this fit." in html
    assert html.count("<svg") == 1
    assert "<th>task</th><td>3 classes from 4 float32</td>" in html
    assert "<th>layers</th><td>Dense 3, Flatten, Functional, MaxPooling2D 2x2</td>" in html


def test_the_view_is_small_self_contained_and_keeps_its_style_to_itself() -> None:
    html = model(REPORT)._repr_html_()
    assert len(html) < 30_000
    assert "http://" not in html.replace("http://www.w3.org/", "")
    assert 'src="' not in html and "@import" not in html and "<script" not in html
    style = html[html.index("<style>") + 7 : html.index("</style>")]
    rules = [rule for rule in style.split("}") if rule.strip()]
    assert len(rules) > 10
    for rule in rules:
        selectors = rule.split("{")[0].split(",")
        assert all(one.strip().startswith(".spark-dlobd") for one in selectors)
    # of a theme nothing is known: texts and pictures take the colour they find
    assert "color: #" not in style.replace("border-color", "") and "background: #" not in style


@pytest.mark.parametrize("report", [{}, {"backend": "local", "workers": 1, "seconds": {}}])
def test_a_model_of_which_less_is_known_is_shown_too(report: dict[str, Any]) -> None:
    html = model(report)._repr_html_()
    assert ("not trained here" in html) == (not report)
    assert "<svg" not in html and "<th>task</th>" in html


def test_names_cannot_bring_html_into_a_notebook() -> None:
    name = "<script>alert(1)</script>"
    report = {**REPORT, "metrics_over_time": {name: [[0, 1.0, 0.5]]}, "transport": name}
    html = model(report, name=name)._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_an_estimator_says_what_it_would_train_and_how() -> None:
    made = estimator(epochs=3, numTrainWorkers=2, backend=ShuffleConfig(), cacheDir="/a<b>")
    assert repr(made) == (
        "DLEstimator(net (Sequential, 21 weights), backend='shuffle', numTrainWorkers=2, "
        "epochs=3, batchSize=128)"
    )
    html = made._repr_html_()
    assert "<h1>DLEstimator: net (Sequential, 21 weights)</h1>" in html
    assert "<th>cacheDir</th><td>/a&lt;b&gt;</td>" in html
    assert repr(DLEstimator()).startswith("DLEstimator(no network, backend='auto'")
    assert "no network" in DLEstimator()._repr_html_()


def test_showing_an_estimator_loads_no_heavy_package() -> None:
    program = (
        "import sys; from spark_dlobd import DLEstimator, DLModel\n"
        "for one in (DLEstimator(), DLModel()): repr(one), one._repr_html_()\n"
        "print([n for n in ('tensorflow', 'keras', 'horovod', 'mlflow') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
