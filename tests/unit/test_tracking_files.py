from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spark_dlobd.processes.machine import system_facts
from spark_dlobd.processes.versions import requirements
from spark_dlobd.tracking.encoding import jsonable, redact
from spark_dlobd.tracking.jsonl import RUN_ID_TAG, JsonLinesTracker, Spool, kept_path
from spark_dlobd.tracking.mlflow.curves import curves_png, draw_curves


def strict(text: str) -> object:
    def refuse(name: str) -> None:
        raise ValueError(f"not JSON: {name}")

    return json.loads(text, parse_constant=refuse)


def test_credentials_leave_urls() -> None:
    text = "GET https://ann:s3cret@host:5000/api failed, see mysql://root@db/x"
    assert redact(text) == "GET https://host:5000/api failed, see mysql://db/x"
    assert redact("http://host/a@b") == "http://host/a@b"


def test_jsonable_takes_what_params_hold() -> None:
    value = {
        "f": np.float32(0.5),
        "i": np.int64(3),
        "a": np.arange(2),
        "b": b"abc",
        "t": (1, None, True),
        1: {math.inf},
        "p": Path("x/y"),
        "u": "http://a:b@c",
    }
    assert jsonable(value) == {
        "f": 0.5,
        "i": 3,
        "a": [0, 1],
        "b": "<3 bytes>",
        "t": [1, None, True],
        "1": ["Infinity"],
        "p": "x/y",
        "u": "http://c",
    }


def test_json_lines_are_strict_json_even_with_nan(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tracker = JsonLinesTracker(path).new()
    tracker.start({"lr": 0.1}, {"backend": "local"})
    tracker.step(0, 1, 1, {"loss": math.nan, "up": math.inf, "down": -math.inf})
    tracker.epoch(0, {"loss": 0.5})
    tracker.finish("FINISHED", {"loss": [0.5]}, {"seconds": {"train": 1.5}}, None)
    records = [strict(line) for line in path.read_text().splitlines()]
    assert [record["kind"] for record in records] == ["start", "step", "epoch", "report"]
    assert records[0]["params"] == {"lr": 0.1}
    assert records[1]["metrics"] == {"loss": "NaN", "up": "Infinity", "down": "-Infinity"}
    assert math.isnan(float(records[1]["metrics"]["loss"]))
    assert records[3]["report"] == {"seconds": {"train": 1.5}}
    assert all(record["time"] > 1e9 for record in records)


def test_default_file_is_named_after_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = JsonLinesTracker()
    tracker.new().start({}, {RUN_ID_TAG: "f1"})
    assert [path.name for path in tmp_path.iterdir()] == ["spark_dlobd-metrics-f1.jsonl"]
    assert tracker.path == tmp_path / "spark_dlobd-metrics-f1.jsonl"


def test_fits_at_the_same_time_have_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = JsonLinesTracker()
    first, second = tracker.new(), tracker.new()
    for fit, name in ((first, "f1"), (second, "f2")):
        fit.start({}, {RUN_ID_TAG: name})
    first.epoch(0, {"loss": 1.0})
    first.epoch(1, {"loss": 0.5})
    lines = [
        len((tmp_path / f"spark_dlobd-metrics-{name}.jsonl").read_text().splitlines())
        for name in ("f1", "f2")
    ]
    assert lines == [3, 1]


def test_spool_reads_on_from_an_offset() -> None:
    spool = Spool()
    for number in range(5):
        spool.append({"n": number})
    first, offset = spool.read(0, 3)
    assert [record["n"] for record in first] == [0, 1, 2]
    rest, offset = spool.read(offset, 3)
    assert [record["n"] for record in rest] == [3, 4]
    assert spool.read(offset, 3) == ([], offset)
    spool.append({"n": 5})
    assert spool.read(offset, 3)[0][0]["n"] == 5
    spool.discard()
    assert not spool.path.exists()


def test_spool_is_kept_under_the_given_name(tmp_path: Path) -> None:
    spool = Spool()
    spool.append({"n": 1})
    temporary = spool.path
    kept = spool.keep(kept_path("r7", tmp_path / "new"))
    assert kept == tmp_path / "new" / "spark_dlobd-metrics-r7.jsonl"
    assert json.loads(kept.read_text())["n"] == 1
    assert not temporary.exists()


def test_spool_that_cannot_be_moved_stays(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    spool = Spool()
    spool.append({"n": 1})
    assert spool.keep(blocked / "metrics.jsonl") == spool.path
    assert spool.path.exists()
    spool.path.unlink()


def test_abandoned_spool_is_removed_at_exit() -> None:
    program = (
        "from spark_dlobd.tracking.jsonl import Spool\n"
        "spool = Spool(); spool.append({'n': 1}); print(spool.path)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    path = Path(done.stdout.strip())
    assert path.name.startswith("spark_dlobd-metrics-")
    assert not path.exists()


def test_curves_are_a_png_with_labelled_integer_epochs() -> None:
    from matplotlib.image import imread

    history = {"loss": [1.0, 0.5], "val_loss": [1.1, 0.7], "accuracy": [0.5, 0.8]}
    png = curves_png(history, "LeNet")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert imread(io.BytesIO(png)).shape[0] > 200
    loss, accuracy = draw_curves(history).axes
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("epoch", "loss")
    assert accuracy.get_ylabel() == "accuracy"
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]
    low, high = loss.get_xlim()
    assert [tick for tick in loss.get_xticks() if low <= tick <= high] == [1, 2]


def test_one_epoch_is_drawn_with_markers() -> None:
    (axes,) = draw_curves({"loss": [0.5], "val_loss": [0.6]}).axes
    assert [line.get_marker() for line in axes.get_lines()] == ["o", "o"]
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_curves_of_nothing_and_of_nan() -> None:
    assert curves_png({}).startswith(b"\x89PNG")
    assert curves_png({"loss": [math.nan]}).startswith(b"\x89PNG")


def test_system_facts_name_versions_and_machine() -> None:
    facts = system_facts()
    assert facts["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert facts["cores"] >= 1
    assert {"os", "pyspark", "keras", "mlflow", "numpy"} <= facts.keys()
    assert facts["memory_gib"] > 0


def test_requirements_leave_out_what_is_not_installed() -> None:
    (found,) = requirements("numpy", "surely-not-installed")
    assert found == f"numpy=={np.__version__}"


def test_importing_tracking_loads_no_heavy_package() -> None:
    program = (
        "import sys, spark_dlobd.tracking\n"
        "print([n for n in ('mlflow','tensorflow','keras','horovod','matplotlib','rich')"
        " if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
