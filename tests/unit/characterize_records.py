"""Made-up results whose numbers can be followed by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.subjects.datasets import DatasetDescription, get_dataset
from spark_dlobd.characterize.sweep.case import Case
from spark_dlobd.characterize.sweep.transports import get_transport

MACHINE = {
    "cores": 2,
    "memory_gib": 8.0,
    "os": "Linux 6.1 x86_64",
    "cpu": "Example CPU",
    "python": "3.11.9",
    "tensorflow": "2.21.0",
    "pyspark": "4.0.5",
}
ROWS = 1200


def made(
    transport: str,
    workers: int,
    seconds_per_epoch: float,
    *,
    model: str = "lenet",
    data: str = "generated-mnist",
    accuracies: tuple[float, ...] = (0.5, 0.7, 0.9),
    start_up: float = 5.0,
    repeat: int = 1,
    shares: dict[str, float] | None = None,
    **case: Any,
) -> CaseRecord:
    """A finished case: `start_up` seconds, equal epochs of 1,200 rows, 1 s of testing."""
    epochs = len(accuracies)
    made_case = Case(
        model, data, get_transport(transport).backend, transport, workers,
        epochs=epochs, repeat=repeat, **case,
    )  # fmt: skip
    ends = [start_up + seconds_per_epoch * (epoch + 1) for epoch in range(epochs)]
    points = [[epoch, ends[epoch], accuracies[epoch]] for epoch in range(epochs)]
    report = {
        "total_seconds": ends[-1],
        "epoch_seconds": [seconds_per_epoch] * epochs,
        "rows_per_second": [ROWS / seconds_per_epoch] * epochs,
        "metrics_over_time": {"accuracy": points},
        "training_shares": shares or {"compute": 0.75, "communication": 0.2, "input": 0.05},
        "utilization": [wave(rank, ends[-1]) for rank in range(workers)],
        "limit": {"by": "compute", "text": "Most of the time is computing."},
        "transport": get_transport(transport).title,
    }
    return CaseRecord(
        made_case, "finished", MACHINE, described(data), report,
        test_accuracy=accuracies[-1], test_seconds=1.0, started=1_700_000_000.0,
    )  # fmt: skip


def described(name: str) -> dict[str, Any]:
    entry = get_dataset(name)
    return DatasetDescription(
        name, entry.title, ROWS, 200, entry.shape, entry.classes, entry.generated,
        "drawn by a program" if entry.generated else "published idx files",
    ).to_json()  # fmt: skip


def wave(rank: int, seconds: float) -> dict[str, Any]:
    times = [0.5 * point for point in range(int(2 * seconds))]
    return {
        "rank": rank,
        "seconds": times,
        "cpu_percent": [90 + 8 * math.sin(time + rank) for time in times],
        "rss_bytes": [(0.6 + 0.4 * (1 - math.exp(-time))) * 2**30 for time in times],
        "sent_bytes_per_s": [3e7 + 5e6 * math.sin(2 * time + rank) for time in times],
        "received_bytes_per_s": [3e7 + 5e6 * math.cos(2 * time + rank) for time in times],
    }


def failed(record: CaseRecord, status: str = "failed", error: str = "it broke") -> CaseRecord:
    return replace(
        record, status=status, report={}, test_accuracy=None, test_seconds=None, error=error
    )


def many() -> list[CaseRecord]:
    """Two models, five stacks, 1 to 4 workers, three repetitions, two failures."""
    base = {"gloo": 12.0, "mpi-tcp": 11.0, "mpi-sm": 10.0, "grpc": 16.0, "spark": 20.0}
    found = []
    for model, weight in (("lenet", 1.0), ("softmax", 0.2)):
        for transport, seconds in base.items():
            for workers in (1, 2, 4):
                for repeat in (1, 2, 3):
                    noise = 1 + 0.03 * math.sin(7 * repeat + workers + len(transport))
                    fixed = seconds * weight * (0.55 if workers > 1 else 0.45)
                    epoch = (fixed + seconds * weight / workers) * noise
                    record = made(
                        transport, workers, epoch, model=model, repeat=repeat,
                        start_up=4 + workers, accuracies=(0.45, 0.66, 0.74, 0.8, 0.83),
                        shares={"compute": 0.5 / workers, "communication": 0.4 - 0.3 / workers,
                                "input": 0.08, "waiting": 0.07, "spark": 0.45 - 0.2 / workers},
                    )  # fmt: skip
                    found.append(record)
        for repeat in (1, 2, 3):
            epoch = 11.0 * weight * (1 + 0.02 * repeat)
            found.append(
                made(
                    "process",
                    1,
                    epoch,
                    model=model,
                    repeat=repeat,
                    start_up=2,
                    accuracies=(0.45, 0.66, 0.74, 0.8, 0.83),
                )
            )
    slow = [i for i, r in enumerate(found) if r.case.transport == "grpc" and r.case.workers == 4]
    for index in slow[:3]:
        found[index] = failed(found[index], "timed out", "not done after 600 s")
    return found
