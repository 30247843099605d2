"""The verdict of a sweep from made-up results whose numbers can be followed by hand."""

from __future__ import annotations

from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.show.verdict import NOTHING, contests, verdict
from tests.unit.characterize_records import failed, made

ONE_PROCESS = made("process", 1, 6.0, data="mnist")  # 1,200 rows in 6 s: 200 images/s


def said(*records: CaseRecord) -> str:
    return verdict(contests(records))


def test_one_process_against_the_best_backend() -> None:
    assert said(ONE_PROCESS, made("gloo", 2, 8.0, data="mnist")) == (
        "LeNet on MNIST trains fastest in one process: 200 images/s, 1.3 times as many as with "
        "Horovod (Gloo over TCP) on 2 workers."
    )


def test_a_backend_is_measured_by_one_process_not_by_the_next() -> None:
    gloo = [made("gloo", workers, 8.0 / workers, data="mnist") for workers in (1, 2, 4)]
    next_one = made("grpc", 2, 3.0, data="mnist")
    assert said(ONE_PROCESS, *gloo, next_one) == (
        "LeNet on MNIST trains fastest with Horovod (Gloo over TCP) on 4 workers: 600 images/s, "
        "3.0 times as many as in one process."
    )
    assert said(*gloo, next_one) == (
        "LeNet on MNIST trains fastest with Horovod (Gloo over TCP) on 4 workers: 600 images/s, "
        "1.5 times as many as with parameter servers on 2 workers."
    )


def test_one_worker_of_a_backend_does_not_compete_with_one_process() -> None:
    """As fast or faster by chance: it is the same computation with more around it."""
    gloo = [made("gloo", 1, 5.0, data="mnist"), made("gloo", 2, 8.0, data="mnist")]
    (contest,) = contests([ONE_PROCESS, *gloo])
    assert [(e.title, e.number) for e in contest.entries] == [
        ("One process", "200"),
        ("Horovod (Gloo over TCP), 2 workers", "150"),
    ]
    (alone,) = contests([ONE_PROCESS, gloo[0]])
    assert [entry.workers for entry in alone.entries] == [1, 1]


def test_equally_fast() -> None:
    assert said(made("gloo", 2, 4.0, data="mnist"), made("spark", 2, 4.02, data="mnist")) == (
        "LeNet on MNIST trains equally fast with Horovod (Gloo over TCP) on 2 workers and with "
        "Spark shuffle on 2 workers: 300 images/s."
    )


def test_models_with_the_same_winner_are_one_sentence() -> None:
    other = [made("process", 1, 2.0, model="softmax"), made("gloo", 2, 5.0, model="softmax")]
    assert said(ONE_PROCESS, made("gloo", 2, 8.0, data="mnist"), *other) == (
        "Both models train fastest in one process, 1.3 to 2.5 times as fast as with the best "
        "backend."
    )


def test_models_with_different_winners_are_named() -> None:
    other = [made("process", 1, 2.0, model="softmax"), made("gloo", 2, 1.0, model="softmax")]
    assert said(ONE_PROCESS, made("grpc", 2, 8.0, data="mnist"), *other) == (
        "Training is fastest in one process for LeNet on MNIST; with Horovod (Gloo over TCP) on "
        "2 workers for SoftMax Regression on generated, MNIST's shape."
    )


def test_links_are_compared_apart() -> None:
    records = [
        made(transport, workers, seconds, data="mnist", link_mbit=rate)
        for transport, workers, rate, seconds in (
            ("gloo", 2, 100, 6.0), ("grpc", 2, 100, 4.0), ("gloo", 2, 1000, 3.0),
            ("grpc", 4, 1000, 2.0),
        )
    ]  # fmt: skip
    assert [contest.title for contest in contests(records)] == [
        "LeNet on MNIST, links of 100 Mbit/s",
        "LeNet on MNIST, links of 1 Gbit/s",
    ]
    assert said(*records) == (
        "LeNet on MNIST trains fastest with parameter servers over links of 100 Mbit/s and "
        "1 Gbit/s, 1.5 times as fast as what comes next."
    )


def test_nothing_to_compare() -> None:
    assert said() == NOTHING
    assert said(failed(ONE_PROCESS)) == NOTHING
    assert said(ONE_PROCESS, failed(made("gloo", 2, 8.0, data="mnist"))) == (
        "LeNet on MNIST trains 200 images/s in one process; nothing else was compared."
    )
