from __future__ import annotations

import errno
import fcntl
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spark_dlobd.characterize.results.file import ResultsFile
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.errors import PersistenceError


def record(workers: int, status: str = "finished", **report: Any) -> CaseRecord:
    case = Case("softmax", "generated-mnist", "horovod", "gloo", workers)
    error = None if status == "finished" else "it broke"
    return CaseRecord(case, status, report=report, error=error)


@pytest.fixture
def file(tmp_path: Path) -> ResultsFile:
    return ResultsFile(tmp_path / "new" / "results.jsonl")


def test_what_is_appended_is_read(file: ResultsFile) -> None:
    assert file.read().records == ()
    written = [record(1, total_seconds=2.5), record(2, "failed"), record(4, "timed out")]
    for one in written:
        file.append(one)
    assert list(file.read().records) == written
    assert file.read().torn is None


def test_failures_are_results_unless_asked_otherwise(file: ResultsFile) -> None:
    for one in (record(1), record(2, "failed"), record(4, "timed out")):
        file.append(one)
    assert file.read().done() == {record(w).case.id for w in (1, 2, 4)}
    assert file.read().done(retry_failed=True) == {record(1).case.id}


def test_the_newest_record_of_a_case_counts(file: ResultsFile) -> None:
    for one in (record(1, "failed"), record(2), record(1, total_seconds=1.0)):
        file.append(one)
    found = file.read().records
    assert [(r.case.workers, r.status) for r in found] == [(1, "finished"), (2, "finished")]


def test_a_torn_last_line_is_ignored_said_and_replaced(
    file: ResultsFile, caplog: pytest.LogCaptureFixture
) -> None:
    file.append(record(1))
    file.append(replace(record(2, "failed"), error="a long text " * 20))
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-10])
    found = file.read()
    assert [r.case.workers for r in found.records] == [1]
    assert "Line 2 of" in str(found.torn) and "its case runs again" in caplog.text
    file.append(record(2))
    assert [r.status for r in file.read().records] == ["finished", "finished"]
    assert file.read().torn is None


def test_a_broken_line_in_the_middle_is_an_error(file: ResultsFile) -> None:
    file.append(record(1))
    whole = file.path.read_bytes()
    file.path.write_bytes(whole + b"{broken\n" + whole)
    with pytest.raises(PersistenceError, match=r"Line 2 of .*results\.jsonl is not a result"):
        file.read()
    file.path.write_bytes(b"[1, 2]\n")
    with pytest.raises(PersistenceError, match="Line 1 of"):
        file.read()


def test_a_record_of_another_version_is_an_error(file: ResultsFile) -> None:
    content = record(1).to_json()
    file.path.parent.mkdir()
    file.path.write_text(json.dumps({**content, "schema": 7}) + "\n")
    with pytest.raises(PersistenceError, match=r"must have schema 1. Got 7"):
        file.read()
    file.path.write_text(json.dumps({**content, "colour": "red"}) + "\n")
    with pytest.raises(PersistenceError, match=r"lacks or has too many fields.*colour"):
        file.read()


def test_a_full_disk_leaves_the_file_as_it_was(
    file: ResultsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.append(record(1))
    before = file.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PersistenceError, match=r"w2.* cannot be written .*No space left.*goes on"):
        file.append(record(2))
    assert file.path.read_bytes() == before


def test_two_sweeps_do_not_write_at_once(file: ResultsFile) -> None:
    file.append(record(1))
    with file.path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(PersistenceError, match="Another sweep writes to"):
            file.append(record(2))


def test_not_a_number_survives(file: ResultsFile) -> None:
    file.append(record(1, metrics_over_time={"loss": [[0, 1.5, math.nan]]}))
    point = file.read().records[0].report["metrics_over_time"]["loss"][0]
    assert point[:2] == [0, 1.5] and math.isnan(point[2])


def test_unknown_status() -> None:
    with pytest.raises(PersistenceError, match=r"'finished', 'failed', 'timed out'. Got 'lost'"):
        record(1, "lost")


def test_derived_numbers() -> None:
    one = CaseRecord(
        record(1).case,
        "finished",
        test_seconds=2.0,
        report={
            "total_seconds": 10.0,
            "epoch_seconds": [4.0, 2.0, 2.0],
            "rows_per_second": [50.0, 100.0, 300.0],
            "metrics_over_time": {
                "accuracy": [[0, 5.0, 0.5], [1, 7.0, 0.72], [2, 9.0, 0.9]],
                "val_accuracy": [[0, 5.0, 0.4], [1, 7.0, 0.6], [2, 9.0, 0.8]],
            },
            "training_shares": {"compute": 0.75, "waiting": None, "communication": 0.25},
        },
    )
    assert one.seconds == 12.0
    assert one.rows_per_second == pytest.approx(150.0)  # 2 / (1/100 + 1/300)
    assert one.accuracy_over_time == [(5.0, 0.4), (7.0, 0.6), (9.0, 0.8)]
    assert one.seconds_to(0.7) == 9.0
    assert one.seconds_to(0.95) is None
    assert one.shares == {"compute": 0.75, "communication": 0.25}
    assert record(1).seconds is None and record(1).rows_per_second is None
