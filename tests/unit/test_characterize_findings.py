"""Findings from made-up results whose numbers can be followed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from spark_dlobd.characterize.results.comparison import (
    Measured,
    efficiencies,
    equal,
    speedups,
    workloads,
)
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.show.findings import Finding, find, last_that_pays
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
    assert runs.measure(lambda record: record.seconds_per_epoch) == Measured(
        5.0, pytest.approx(2**0.5), 2
    )


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
        "Workers that pay: 4 with Spark shuffle, 2 with Horovod (Gloo over TCP).",
    )
    assert found.numbers == {"Horovod (Gloo over TCP)": 2.0, "Spark shuffle": 4.0}
    assert "78 %" in found.literature


def test_more_workers_that_pay_everywhere_or_nowhere() -> None:
    gloo, spark = [made("gloo", 1, 12.0), made("gloo", 2, 8.0)], made("spark", 1, 12.0)
    assert finding(gloo, "More workers").ours == ("2 workers pay with Horovod (Gloo over TCP).",)
    both = finding([*gloo, spark, made("spark", 2, 9.0)], "More workers")
    assert both.ours == ("2 workers pay with every stack.",)
    none = finding([spark, made("spark", 2, 13.0)], "More workers")
    assert none.ours == ("More than 1 worker pay with no stack.",)
    assert none.numbers == {"Spark shuffle": 1.0}


def test_efficiency() -> None:
    gloo = [made("gloo", 1, 12.0), made("gloo", 2, 8.0)]
    assert finding(gloo, "Efficiency").ours == (
        "2 workers are 1.50 times as fast as 1: efficiency 75 %.",
    )
    found = finding([*gloo, made("spark", 1, 12.0), made("spark", 2, 10.0)], "Efficiency")
    assert found.ours == (
        "2 workers are 1.20 to 1.50 times as fast as 1: efficiency 60 % with Spark shuffle to "
        "75 % with Horovod (Gloo over TCP).",
    )
    assert found.numbers == pytest.approx({"Horovod (Gloo over TCP)": 0.75, "Spark shuffle": 0.6})


def test_in_band_against_the_fastest_out_of_band() -> None:
    records = [made("gloo", 2, 8.0), made("mpi-sm", 2, 5.0), made("spark", 2, 15.0)]
    found = finding(records, "In band against out of band")
    assert found.ours == (
        "Spark's shuffle takes 3 times as long as Horovod (MPI, shared memory) on 2 workers: "
        "15 s against 5 s an epoch.",
    )
    assert found.numbers == {"2 workers": 3.0}


def test_parameter_servers_as_fast_as_allreduce() -> None:
    records = [made("gloo", 2, 8.0), made("grpc", 2, 8.05), made("gloo", 1, 9.0)]
    found = finding(records, "Parameter servers against allreduce")
    assert found.ours == (
        "Parameter servers take as long as Horovod (Gloo over TCP) on 2 workers: "
        "8.05 s against 8 s an epoch.",
    )


def test_only_the_most_workers_are_told_but_all_are_numbers() -> None:
    records = [made("gloo", 2, 8.0), made("grpc", 2, 6.0), made("gloo", 4, 4.0)]
    found = finding([*records, made("grpc", 4, 5.0)], "Parameter servers against allreduce")
    assert found.ours == (
        "Parameter servers take 1.25 times as long as Horovod (Gloo over TCP) on 4 workers: "
        "5 s against 4 s an epoch.",
    )
    assert found.numbers == {"2 workers": 0.75, "4 workers": 1.25}


def test_fastest_transport() -> None:
    records = [made("gloo", 2, 8.0), made("mpi-sm", 2, 5.0), made("mpi-tcp", 2, 5.05)]
    assert finding(records, "Fastest way for gradients").ours == (
        "Horovod (MPI, shared memory) and Horovod (MPI over TCP), equally fast: 5 s an epoch on "
        "2 workers.",
        "Slowest: Horovod (Gloo over TCP), 1.6 times as long.",
    )


def test_time_to_the_target() -> None:
    """Epochs of 4 s and 5 s of start-up: the second epoch ends after 13 s."""
    records = [made("gloo", 2, 4.0), made("spark", 2, 6.0, accuracies=(0.2, 0.3, 0.4))]
    assert finding(records, "Time to 70 % accuracy").ours == (
        "On 2 workers first Horovod (Gloo over TCP), 13 s.",
        "Not reached by Spark shuffle.",
    )
    both = [records[0], made("spark", 2, 6.0)]
    assert finding(both, "Time to 70 % accuracy").ours == (
        "On 2 workers first Horovod (Gloo over TCP), 13 s; last Spark shuffle, 17 s.",
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
    assert found.ours == (
        "An epoch over 1 Gbit/s instead of 10 Gbit/s takes 1.5 times as long with Horovod (Gloo "
        "over TCP) and 2.5 times as long with Spark shuffle.",
    )


def test_size_of_the_model() -> None:
    records = [
        made("gloo", workers, seconds, model=model)
        for model, times in (("softmax", (4.0, 4.0)), ("lenet", (12.0, 8.0)))
        for workers, seconds in zip((1, 2), times, strict=True)
    ]
    found = finding(records, "Size of the model")
    assert found.ours == (
        "Efficiency of 2 workers: 50 % with SoftMax Regression (7,850 weights), 75 % with LeNet "
        "(431,080 weights).",
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
