"""Findings from made-up results whose numbers can be followed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from spark_dlobd.characterize.comparison import (
    Measured,
    efficiencies,
    seconds_per_epoch,
    speedups,
    workloads,
)
from spark_dlobd.characterize.findings import Finding, equal, find, last_that_pays
from spark_dlobd.characterize.record import CaseRecord
from tests.unit.characterize_records import failed, made


def finding(records: list[CaseRecord], topic: str, **arguments: Any) -> Finding:
    (found,) = [one for one in find(records, **arguments) if one.topic == topic]
    return found


def test_mean_and_deviation() -> None:
    assert Measured.of([4.0]) == Measured(4.0, 0.0, 1)
    assert Measured.of([1.0, 2.0, 3.0]) == Measured(2.0, 1.0, 3)


def test_speedup_and_efficiency() -> None:
    """1,200 rows in 12 s, 8 s and 6 s are 100, 150 and 200 rows a second."""
    (workload,) = workloads([made("gloo", 1, 12.0), made("gloo", 2, 8.0), made("gloo", 4, 6.0)])
    (series,) = workload.series
    assert speedups(series) == pytest.approx({1: 1.0, 2: 1.5, 4: 2.0})
    assert efficiencies(series) == pytest.approx({1: 1.0, 2: 0.75, 4: 0.5})


def test_without_one_worker_the_fewest_are_the_measure() -> None:
    (workload,) = workloads([made("gloo", 2, 8.0), made("gloo", 4, 5.0)])
    assert efficiencies(workload.series[0]) == pytest.approx({2: 1.0, 4: 0.8})


def test_repetitions_are_one_series_and_failures_stay_in() -> None:
    records = [made("gloo", 2, seconds, repeat=r) for r, seconds in ((1, 4.0), (2, 6.0))]
    records.append(failed(made("gloo", 2, 9.0, repeat=3)))
    (workload,) = workloads(records)
    runs = workload.series[0].runs[2]
    assert (len(runs.records), len(runs.finished)) == (3, 2)
    assert runs.measure(seconds_per_epoch) == Measured(5.0, pytest.approx(2**0.5), 2)


def test_labels_say_what_differs_and_no_more() -> None:
    def labels(*records: CaseRecord) -> list[str]:
        return [one.label for one in workloads(records)[0].series]

    assert labels(made("spark", 2, 1.0), made("spark", 2, 1.0, compression="bf16")) == [
        "Spark shuffle",
        "Spark shuffle (bf16)",
    ]
    assert labels(made("gloo", 2, 1.0, link_mbit=1000), made("gloo", 2, 1.0, link_mbit=100)) == [
        "Horovod (Gloo over TCP, 1 Gbit/s)",
        "Horovod (Gloo over TCP, 100 Mbit/s)",
    ]
    assert labels(made("grpc", 2, 1.0, batch_size=64), made("grpc", 2, 1.0)) == [
        "Parameter servers (batch 64)",
        "Parameter servers (batch 128)",
    ]
    grown = [made("grpc", workers, 1.0, batch_size=64 * workers) for workers in (1, 2)]
    assert labels(*grown) == ["Parameter servers"]


def test_other_rows_are_another_workload() -> None:
    titles = [w.title for w in workloads([made("gloo", 1, 1.0), made("gloo", 1, 1.0, rows=600)])]
    assert titles == [
        "LeNet on generated, MNIST's shape (all rows, 3 epochs)",
        "LeNet on generated, MNIST's shape (600 rows, 3 epochs)",
    ]


def means(**seconds: float) -> dict[int, Measured]:
    return {int(key[1:]): Measured(value, 0.0, 1) for key, value in seconds.items()}


def test_more_workers_pay_while_each_step_saves_five_percent() -> None:
    assert last_that_pays(means(w1=10.0, w2=6.0, w4=5.0)) == 4
    assert last_that_pays(means(w1=10.0, w2=9.6, w4=5.0)) == 1
    assert last_that_pays(means(w1=10.0, w2=6.0, w4=7.0)) == 2


def test_close_means_are_equal() -> None:
    assert equal(Measured(10.0, 0.0, 1), Measured(10.1, 0.0, 1))
    assert not equal(Measured(10.0, 0.0, 1), Measured(10.5, 0.0, 1))
    assert equal(Measured(10.0, 0.3, 3), Measured(10.5, 0.3, 3))
    assert last_that_pays({1: Measured(10.0, 1.0, 3), 2: Measured(9.0, 0.5, 3)}) == 1


def test_from_which_number_of_workers_more_do_not_pay() -> None:
    records = [
        *(made("gloo", workers, seconds) for workers, seconds in ((1, 12.0), (2, 8.0), (4, 10.0))),
        *(made("spark", workers, seconds) for workers, seconds in ((1, 12.0), (2, 9.0), (4, 7.0))),
        made("process", 1, 9.0),
        made("process", 2, 9.0),
    ]
    found = finding(records, "More workers")
    assert found.ours == (
        "Every step up to 4 workers pays with Spark shuffle.",
        "With Horovod (Gloo over TCP) more than 2 workers do not pay: with 4 an epoch takes 25 % "
        "longer (10 s after 8 s).",
    )
    assert found.numbers == {"Horovod (Gloo over TCP)": 2.0, "Spark shuffle": 4.0}
    assert "78 %" in found.literature


def test_efficiency() -> None:
    found = finding([made("gloo", 1, 12.0), made("gloo", 2, 8.0)], "Efficiency")
    assert found.ours == (
        "Horovod (Gloo over TCP): 2 workers are 1.50 times as fast as 1, efficiency 75 %.",
    )


def test_in_band_against_the_fastest_out_of_band() -> None:
    records = [made("gloo", 2, 8.0), made("mpi-sm", 2, 5.0), made("spark", 2, 15.0)]
    found = finding(records, "In band against out of band")
    assert found.ours == (
        "2 workers: an epoch through Spark's shuffle takes 3.00 times as long as with "
        "Horovod (MPI, shared memory), 15 s against 5 s.",
    )
    assert found.numbers == {"2 workers": 3.0}


def test_parameter_servers_as_fast_as_allreduce() -> None:
    records = [made("gloo", 2, 8.0), made("grpc", 2, 8.05), made("gloo", 1, 9.0)]
    found = finding(records, "Parameter servers against allreduce")
    assert found.ours == (
        "2 workers: an epoch with parameter servers takes as long as with "
        "Horovod (Gloo over TCP), 8.05 s against 8 s.",
    )


def test_fastest_transport() -> None:
    records = [made("gloo", 2, 8.0), made("mpi-sm", 2, 5.0), made("mpi-tcp", 2, 5.05)]
    assert finding(records, "Fastest way for gradients").ours == (
        "Horovod (MPI, shared memory) and Horovod (MPI over TCP) are equally fast on 2 workers: "
        "5 s an epoch.",
        "Horovod (Gloo over TCP) is the slowest: 8 s, 1.60 times as long.",
    )


def test_time_to_the_target() -> None:
    """Epochs of 4 s and 5 s of start-up: the second epoch ends after 13 s."""
    records = [made("gloo", 2, 4.0), made("spark", 2, 6.0, accuracies=(0.2, 0.3, 0.4))]
    assert finding(records, "Time to 70 % accuracy").ours == (
        "On 2 workers 70 % is reached by Horovod (Gloo over TCP) after 13 s.",
        "Spark shuffle did not reach it.",
    )
    assert finding(records, "Time to 90 % accuracy", target=0.9).numbers == {
        "Horovod (Gloo over TCP)": 17.0
    }


def test_speed_of_the_network() -> None:
    records = [
        made(transport, 2, seconds, link_mbit=rate)
        for transport, rate, seconds in (
            ("gloo", 1000, 6.0),
            ("gloo", 10_000, 4.0),
            ("spark", 1000, 20.0),
            ("spark", 10_000, 8.0),
        )
    ]
    found = finding(records, "Speed of the network")
    assert found.numbers == {"Horovod (Gloo over TCP)": 1.5, "Spark shuffle": 2.5}
    assert found.ours[0] == (
        "Horovod (Gloo over TCP): an epoch takes 1.50 times as long over links of 1000 Mbit/s as "
        "over 10000 Mbit/s."
    )


def test_size_of_the_model() -> None:
    records = [
        made("gloo", workers, seconds, model=model)
        for model, times in (("softmax", (4.0, 4.0)), ("lenet", (12.0, 8.0)))
        for workers, seconds in zip((1, 2), times, strict=True)
    ]
    found = finding(records, "Size of the model")
    assert found.ours == (
        "Efficiency with SoftMax Regression (7,850 weights) and with LeNet (431,080 weights):",
        "Horovod (Gloo over TCP) on 2 workers: 50 % and 75 %.",
    )


def test_failures() -> None:
    records = [made("grpc", 2, 4.0, repeat=1), failed(made("grpc", 2, 4.0, repeat=2), "timed out")]
    assert finding(records, "Failures").ours == (
        "Of 2 runs 1 timed out.",
        "LeNet on generated, MNIST's shape, Parameter servers on 2 workers: 1 of 2 timed out.",
    )
    assert finding(records[:1], "Failures").ours == ("All 1 runs finished.",)


def test_what_was_not_run_is_not_mentioned() -> None:
    assert [one.topic for one in find([made("gloo", 1, 4.0)])] == [
        "Time to 70 % accuracy",
        "Failures",
    ]
    assert [one.topic for one in find([failed(made("gloo", 1, 4.0))])] == ["Failures"]
    assert find([]) == []
