from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from spark_dlobd.processes import tensorflow_import

PROGRAM = """
import sys
from spark_dlobd.processes.tensorflow_import import import_tensorflow

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


KNOWN = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795658788.129093   22429 port.cc:153] oneDNN custom operations are on. You may "
    "see slightly different numerical results",
)
OTHERS = (
    "WARNING: All is lost",
    "E0000 00:00:1795658788.129093   22429 cuda_dnn.cc:8310] Unable to register cuDNN factory",
    "I0000 00:00:1795658788.129093   22429 port.cc:153] something else",
)
WRITES = """
import os, sys
from spark_dlobd.processes.tensorflow_import import without_chatter

with without_chatter():
    for line in {lines!r}:
        os.write(2, line.encode() + b"\\n")
    print("from Python", file=sys.stderr)
    os.write(2, b"an unfinished line")
    {then}
os.write(2, b"\\nafter")
"""


@pytest.mark.parametrize(("then", "end"), [("pass", "\nafter"), ("os.abort()", "")])
def test_only_the_two_known_lines_are_dropped_also_when_the_process_dies(
    then: str, end: str
) -> None:
    lines = [KNOWN[0], OTHERS[0], KNOWN[1], OTHERS[1], KNOWN[0], OTHERS[2]]
    program = WRITES.format(lines=lines, then=then)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == "\n".join([*OTHERS, "from Python", "an unfinished line"]) + end
    assert (done.returncode == 0) == (then == "pass")


def test_a_line_passes_while_the_import_goes_on() -> None:
    program = WRITES.format(lines=[], then="sys.stdin.read()")
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with child:
        assert child.stderr is not None
        assert child.stderr.readline() == b"from Python\n"
        assert child.stderr.read(8) == b"an unfin"
        assert child.poll() is None
        assert child.stdin is not None
        child.stdin.close()


def test_a_program_that_is_started_meanwhile_does_not_hold_up_the_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with tensorflow_import.without_chatter():
        sleeper = subprocess.Popen(["sleep", "60"])
        began = time.monotonic()
    assert time.monotonic() - began < tensorflow_import._CLOSE_TIMEOUT_S
    reader = tensorflow_import._still_read.pop()
    assert reader.poll() is None
    sleeper.kill()
    sleeper.wait()
    assert reader.wait(30) == 0


def test_a_closed_standard_error_is_no_reason_to_fail() -> None:
    program = "import os; os.close(2)\n" + WRITES.split("    for")[0] + "    print('in it')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "in it\n"


def test_the_import_says_nothing() -> None:
    program = "from spark_dlobd.processes.tensorflow_import import import_tensorflow as i; i()"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
