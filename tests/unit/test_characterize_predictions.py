"""Predictions of the cost model next to a sweep's results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from spark_dlobd.characterize.results.file import ResultsFile
from spark_dlobd.characterize.results.predictions import check_sweep, explaining_cases
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.show.page import render_page
from spark_dlobd.characterize.sweep.case import Case
from tests.unit.characterize_records import made
from tests.unit.test_cost_explanation import explanation


@pytest.fixture
def records() -> list[CaseRecord]:
    """LeNet explained once, with two workers; another model not at all."""
    explained = replace(made("gloo", 2, 5.0), explanation=explanation().to_json())
    return [
        made("gloo", 1, 9.0),
        explained,
        made("spark", 2, 20.0),
        made("gloo", 2, 1.0, model="softmax"),
    ]


def test_one_case_of_each_model_explains() -> None:
    cases = [
        Case("lenet", "mnist", "local", "process", 1),
        Case("lenet", "mnist", "horovod", "gloo", 1),
        Case("lenet", "mnist", "horovod", "gloo", 2),
        Case("lenet", "mnist", "shuffle", "spark", 2),
        Case("softmax", "mnist", "shuffle", "spark", 1),
        Case("softmax", "mnist", "shuffle", "spark", 2, link_mbit=100),
    ]
    assert explaining_cases(cases) == {cases[2].id, cases[4].id}


def test_every_case_of_the_model_is_compared(records: list[CaseRecord]) -> None:
    checked = check_sweep(records)
    assert [one.case.id for one in checked] == [record.case.id for record in records[:3]]
    assert [one.measured_s for one in checked] == [9.0, 5.0, 20.0]
    assert all(one.predicted_s > 0 for one in checked)


def test_the_page_shows_errors_and_the_largest(records: list[CaseRecord]) -> None:
    page = render_page(records, drawn=[])
    largest = max(abs(one.relative_error) for one in check_sweep(records))
    assert "Predicted and measured" in page
    assert f"The largest error is {100 * largest:.0f} %" in page
    assert "Predicted and measured" not in render_page(records[:1], drawn=[])


def test_an_explanation_survives_the_results_file(
    records: list[CaseRecord], tmp_path: Path
) -> None:
    file = ResultsFile(tmp_path / "results.jsonl")
    for record in records:
        file.append(record)
    assert check_sweep(file.read().records) == check_sweep(records)
