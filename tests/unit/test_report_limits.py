"""What the report says limits a fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from spark_dlobd.report.limits import Facts, limit_of
from spark_dlobd.report.schema import Parts, RankSeconds, no_parts


def _shares(**given: float | None) -> Parts:
    zeros = dict.fromkeys(no_parts(), 0.0)
    return Parts(**{**zeros, **given})  # type: ignore[typeddict-item]


FACTS = Facts(
    backend="horovod",
    workers=2,
    total_seconds=100.0,
    seconds={"prepare": 1.0, "materialize": 6.0, "start": 3.0, "train": 90.0},
    before_training=10.0,
    training_seconds=80.0,
    shares=_shares(compute=1.0),
    bytes_sent_per_step=1_724_320.0,
)


@pytest.mark.parametrize(
    ("shares", "by", "says"),
    [
        (
            {"input": 0.6, "compute": 0.4},
            "input",
            ["60 % waiting for rows", "40 % computing", "cacheDir", "uint8"],
        ),
        (
            {"input": 0.1, "compute": 0.7, "communication": 0.2},
            "compute",
            ["70 % computing", "numTrainWorkers"],
        ),
        (
            {"compute": 0.3, "communication": 0.5, "waiting": 0.2},
            "synchronization",
            ["50 % exchanging gradients", "sends 1.72 MB a step", "larger batchSize", "bf16"],
        ),
        (
            {"compute": 0.4, "communication": 0.1, "spark": 0.5},
            "synchronization",
            ["50 % Spark's scheduling and shuffle"],
        ),
        (
            {"compute": 0.3, "communication": 0.1, "waiting": 0.6},
            "stragglers",
            ["60 % waiting for slower workers", "Rank 1 needed 9.0 s", "the mean is 6.0 s"],
        ),
    ],
)
def test_the_largest_part_limits(shares: dict[str, float], by: str, says: list[str]) -> None:
    ranks = (
        RankSeconds(rank=0, input=1.0, compute=2.0, communication=1.0, waiting=6.0),
        RankSeconds(rank=1, input=1.0, compute=8.0, communication=1.0, waiting=0.0),
    )
    limit = limit_of(replace(FACTS, shares=_shares(**shares), ranks=ranks))
    assert limit["by"] == by
    assert "The training steps took 80.0 s" in limit["text"]
    for text in says:
        assert text in limit["text"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"before_training": 60.0}, "60 % of its 100.0 s"),
        ({"tracing": 45.0}, "tracing the first step 45.0 s"),
        ({"before_training": 60.0}, "reuse_data()"),
        ({"before_training": 60.0, "seconds": {"start": 60.0}}, "starting the workers 60.0 s"),
        ({"before_training": 60.0, "seconds": {"start": 60.0}}, "backend='local'"),
    ],
)
def test_start_up_limits_a_short_fit(change: dict[str, Any], says: str) -> None:
    limit = limit_of(replace(FACTS, **change))
    assert limit["by"] == "start-up"
    assert says in limit["text"]


@pytest.mark.parametrize(
    ("backend", "advice"),
    [
        ("horovod", "gradient_accumulation_steps"),
        ("shuffle", "sync_every"),
        ("parameter_server", "steps_per_call"),
        ("mine", "fewer synchronizations"),
    ],
)
def test_advice_names_the_options_of_the_backend(backend: str, advice: str) -> None:
    shares = _shares(communication=1.0)
    limit = limit_of(replace(FACTS, backend=backend, shares=shares, bytes_sent_per_step=None))
    assert advice in limit["text"]
    assert "MB a step" not in limit["text"]


def test_virtual_workers_are_advised_to_become_real_ones() -> None:
    limit = limit_of(replace(FACTS, backend="local"))
    assert limit["by"] == "compute"
    assert "one after another" in limit["text"]


def test_what_was_not_measured_is_not_guessed() -> None:
    limit = limit_of(replace(FACTS, shares=no_parts()))
    assert limit["by"] == "unknown"
    assert "could not measure" in limit["text"]
    partly = _shares(input=0.2, compute=None, communication=None, waiting=None)
    assert limit_of(replace(FACTS, shares=partly))["by"] == "unknown"
    mostly = _shares(input=0.7, compute=None, communication=None, waiting=None)
    assert limit_of(replace(FACTS, shares=mostly))["by"] == "input"


def test_a_fit_without_an_epoch_has_no_limit() -> None:
    limit = limit_of(replace(FACTS, shares=no_parts(), training_seconds=0.0))
    assert limit["text"].endswith("it did not finish an epoch.")
