"""Every example runs as it is, says what it should, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("tensorflow")

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT_S = 280
# What the JVM says before any setting of ours is read.
UNAVOIDABLE = "WARNING: Using incubator modules: jdk.incubator.vector\n"


WITHOUT_HOROVOD = """
import importlib.util
found, hidden = importlib.util.find_spec, ("horovod", "mpi4py")
importlib.util.find_spec = lambda name, *more: None if name in hidden else found(name, *more)
"""


def run(tmp_path: Path, name: str, *arguments: str, **variables: str) -> str:
    """Run an example in an empty folder; return what it printed."""
    folder, temporary = tmp_path / "work", tmp_path / "temporary"
    for new in (folder, temporary):
        new.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(temporary), **variables}
    for inherited in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        environment.pop(inherited, None)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.replace(UNAVOIDABLE, "") == ""
    assert [path.name for path in temporary.iterdir()] == []
    assert {path.name for path in folder.iterdir()} <= {"demo-output"}
    return done.stdout


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, f"{pattern!r} is not in {text!r}"
    return float(found[1].replace(",", ""))


@pytest.mark.timeout(2 * TIMEOUT_S)
def test_quickstart_needs_no_horovod(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_HOROVOD)
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    said = run(tmp_path, "quickstart.py", PYTHONPATH=path)
    assert said.startswith("A Keras network learns handwritten digits")
    assert "It is small" in said.splitlines()[1]
    assert "Epoch 1/8 - " in said
    assert "Backend shuffle, 2 workers (auto: several workers, and neither Horovod nor" in said
    assert "demo-output/pipeline; loaded again, it predicts the same" in said
    end = said.partition("\n\naccuracy")[2]
    assert number(r"^ +([\d.]+) on \d+ digits", end) >= 0.95
    assert re.search(r"^time +\d+ s in all: start \d+ s, fit \d+ s, score \d+ s, sa", end, re.M)
    output = tmp_path / "work" / "demo-output"
    assert (output / "learning_curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert f"mlflow ui --backend-store-uri sqlite:///{Path('demo-output/mlflow.db')}" in said
    files = {path.name for path in output.iterdir()}
    assert files == {"artifacts", "learning_curves.png", "mlflow.db", "pipeline"}


@pytest.fixture(scope="module")
def small_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits of 8x8 pixels, three times as large, in MNIST's files."""
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    large = np.kron(small.reshape(-1, 8, 8) * 15, np.ones((3, 3)))
    pixels = np.pad(large, [(0, 0), (2, 2), (2, 2)]).astype("uint8")
    folder = tmp_path_factory.mktemp("mnist")
    for name, part in (("train", slice(1500)), ("t10k", slice(1500, None))):
        for kind, values in (("images-idx3", pixels[part]), ("labels-idx1", labels[part])):
            shape = struct.pack(f">{values.ndim}i", *values.shape)
            header = bytes([0, 0, 8, values.ndim]) + shape
            path = folder / f"{name}-{kind}-ubyte"
            path.write_bytes(header + values.astype("uint8").tobytes())
    return folder


def test_mnist_horovod(tmp_path: Path, small_mnist: Path) -> None:
    if importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed")
    said = run(
        tmp_path, "mnist_horovod.py", "--data", str(small_mnist), "--controller", "mpi",
        "--rows", "1500", "--epochs", "4", "--stop-when", "loss < 0.3",
    )  # fmt: skip
    assert re.search(r"limits? this fit", said)
    assert "2 workers, mpi" in said
    assert number(r"([\d,]+) rows/s", said) > 0
    assert number(r"test accuracy ([\d.]+)", said) >= 0.85


def test_mnist_that_is_not_there_is_said_in_one_message(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "mnist_horovod.py"), "--data", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    assert "Neither" in done.stderr
    assert "Traceback" not in done.stderr


def test_image_files(tmp_path: Path) -> None:
    said = run(tmp_path, "image_files.py")
    assert number(r"files right: accuracy ([\d.]+)", said) >= 0.85


def test_text_classification(tmp_path: Path) -> None:
    said = run(tmp_path, "text_classification.py")
    assert number(r"accuracy ([\d.]+) on", said) >= 0.85
    assert "'hello my parcel is lost' goes to delivery" in said


def test_two_towers(tmp_path: Path) -> None:
    said = run(tmp_path, "two_towers.py")
    assert number(r"area under ROC ([\d.]+)", said) >= 0.8
    assert number(r"stars: ([\d.]+) off", said) <= 0.8
    assert "120 films as vectors of 8 numbers" in said


def test_wide_and_deep(tmp_path: Path) -> None:
    said = run(tmp_path, "wide_and_deep.py")
    assert "2 workers, 2 servers, tables of 1,000,000 rows" in said
    assert number(r"([\d,]+) rows/s", said) > 0
    area = number(r"area under ROC ([\d.]+)", said)
    assert area >= 0.8
    # Keras has 200 thresholds
    assert number(r"auc ([\d.]+) by Keras", said) == pytest.approx(area, abs=0.01)


def test_cross_validation(tmp_path: Path) -> None:
    said = run(tmp_path, "cross_validation.py").splitlines()
    assert said[0].split() == ["learningRate", "batchSize", "area", "under", "ROC"]
    areas = [float(line.split()[2]) for line in said[1:5]]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > 0.97
    assert said[5:] == ["12 models were fitted on 3 materialized folds."]


def test_further_fit(tmp_path: Path) -> None:
    said = run(tmp_path, "further_fit.py").splitlines()
    assert [line.split()[0] for line in said] == ["monday", "tuesday"]
    before, after = (number(r"loss ([\d.]+)", line) for line in said)
    assert after < before
    assert number(r"acc ([\d.]+)", said[1]) >= 0.9


def test_mlflow_roundtrip(tmp_path: Path) -> None:
    said = run(tmp_path, "mlflow_roundtrip.py")
    for flavour in ("keras", "spark", "pyfunc"):
        assert re.search(rf"{flavour} +178 of 178 predictions are the same", said)
    assert number(r"accuracy ([\d.]+)", said) >= 0.9
    assert {path.name for path in (tmp_path / "work/demo-output").iterdir()} == {
        "artifacts",
        "mlflow.db",
    }


def test_readme_names_every_example() -> None:
    text = (EXAMPLES / "README.md").read_text()
    programs = {path.name for path in EXAMPLES.glob("[a-z]*.py")}
    assert programs == set(re.findall(r"\[(\w+\.py)\]\(\1\)", text))
