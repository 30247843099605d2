from __future__ import annotations

import subprocess
import sys

import pytest

from spark_dlobd.training import tensorflow_import

PROGRAM = """
import sys
from spark_dlobd.training.tensorflow_import import import_tensorflow

tf = import_tensorflow()
import keras
for name in ("sklearn", "scipy.stats", "matplotlib", "matplotlib.pyplot"):
    assert name not in sys.modules, name
try:
    keras.wrappers.SKLearnClassifier(keras.Sequential)
except ImportError as error:
    assert "scikit-learn" in str(error)
else:
    raise AssertionError("the wrappers are not there")

import matplotlib
matplotlib.use("Agg")
import numpy as np
keras.visualization.plot_image_gallery(np.zeros((4, 8, 8, 3)), value_range=(0, 1), path="{path}")
import sklearn.linear_model
from matplotlib import pyplot
assert pyplot.figure().axes == []
assert import_tensorflow() is tf
print("all is there")
"""


def test_extras_of_keras_come_when_they_are_used(tmp_path: object) -> None:
    program = PROGRAM.replace("{path}", f"{tmp_path}/gallery.png")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "all is there", done.stderr[-3000:]


def test_nothing_stays_hidden_when_the_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("sklearn", "matplotlib", "matplotlib.pyplot", "matplotlib.patches")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    seen = []

    def fail(name: str) -> None:
        seen.append(sys.modules["sklearn"])
        with pytest.raises(AttributeError, match="not imported yet"):
            _ = sys.modules["matplotlib.pyplot"].figure
        raise ImportError(name)

    monkeypatch.setattr(tensorflow_import.importlib, "import_module", fail)
    with pytest.raises(ImportError, match="tensorflow"):
        tensorflow_import.import_tensorflow()
    assert seen == [None]
    assert not [name for name in names if name in sys.modules]
