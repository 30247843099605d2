from __future__ import annotations

from typing import Any

import pytest

from spark_dlobd.cost import model
from spark_dlobd.cost.model import Prediction, Way, predict, way_of
from tests.unit.cost_numbers import cluster, step, work


def predicted(param: Any, workers: int, **changes: Any) -> Prediction:
    way = way_of(param)
    assert way is not None
    return predict(
        way,
        workers,
        changes.get("work", work()),
        changes.get("cluster", cluster()),
        changes.get("step", step()),
    )


@pytest.mark.parametrize(
    ("rows", "per_host", "seconds"),
    [
        (64, 1, 0.052),
        (128, 1, 0.084),
        (32, 1, 0.036),  # 20 ms and 0.5 ms a row
        (64, 2, 0.065),  # as it was measured
        (128, 2, 0.105),  # a quarter longer, here too
        (64, 4, 0.104),  # four on two cores: twice as long
    ],
)
def test_a_step_is_linear_in_rows_and_grows_with_its_neighbours(
    rows: int, per_host: int, seconds: float
) -> None:
    found = model.compute_seconds(step(), rows, per_host, cores=2, threads=1)
    assert found == pytest.approx(seconds)


def test_noise_makes_no_step_of_negative_rows() -> None:
    # 128 rows measured faster than 64, or more than twice as slow
    faster = step(full_seconds=0.05)
    assert model.compute_seconds(faster, 1, 1, 2, 1) == pytest.approx(0.05)
    slower = step(full_seconds=0.128)
    assert model.compute_seconds(slower, 1, 1, 2, 1) == pytest.approx(0.001)
    assert model.compute_seconds(step(rows=128), 1, 1, 2, 1) == 0.084


def test_horovod_moves_half_of_the_gradients_twice_between_two() -> None:
    found = predicted("horovod", 2)
    # two ranks and Horovod's threads on two cores
    assert found.compute_s == pytest.approx(1.15 * 0.065)
    # 1 ms of cycle and 3 until all agree, 2 messages of 0.1 ms, 4 MB at 1 GB/s, 4 copies of
    # 4 MB at 4 GB/s
    assert found.synchronization_s == pytest.approx(0.001 + 0.003 + 0.0002 + 0.004 + 0.004)
    epoch = 0.025 + 100 * (0.07475 + 0.0122)
    assert found.epoch_s == pytest.approx(epoch)
    assert found.bytes_per_step == 4e6
    # imports, the barrier's second, tracing
    assert found.start_s == pytest.approx(4.0 + 1.0 + 1.5)
    assert found.fit_s == pytest.approx(6.5 + 3 * epoch)
    assert found.fits and found.limit == "compute" and found.step_s == pytest.approx(epoch / 100)
    spare = predicted("horovod", 2, cluster=cluster(cores_per_host=4))
    assert spare.compute_s == pytest.approx(0.065)


def test_four_workers_on_as_many_hosts_move_one_and_a_half_times_the_gradients() -> None:
    four = cluster(slots=4, hosts=4, cores_per_host=1, workers=4)
    found = predicted("horovod", 4, cluster=four, step=step(workers_per_host=1))
    assert found.compute_s == pytest.approx(1.15 * 0.036)
    assert found.synchronization_s == pytest.approx(0.001 + 0.003 + 0.0006 + 0.006 + 0.004)


def test_options_of_horovod_change_its_bytes_and_their_way() -> None:
    half = predicted({"name": "horovod", "compression": "fp16"}, 2)
    assert half.synchronization_s == pytest.approx(0.001 + 0.003 + 0.0002 + 0.002 + 0.002)
    seldom = predicted({"name": "horovod", "gradient_accumulation_steps": 4}, 2)
    assert seldom.synchronization_s == pytest.approx(0.0122 / 4)
    shared = predicted({"name": "horovod", "controller": "mpi", "transport": "sm"}, 2)
    assert shared.synchronization_s == pytest.approx(0.001 + 0.0002 + 0.001 + 0.004)
    ucx = way_of({"name": "horovod", "controller": "mpi", "transport": "ucx", "ucx_tls": "sm,self"})
    assert ucx is not None and ucx.within_memory and ucx.label == "horovod, mpi over ucx"


def test_one_worker_sends_nothing() -> None:
    found = predicted("horovod", 1)
    assert (found.compute_s, found.synchronization_s) == (0.084, 0.0)


def test_the_shuffle_pays_stages_sockets_and_jobs() -> None:
    found = predicted("shuffle", 2)
    # two stages of 30 ms, less when compiled, and 4 MB at 100 MB/s, 7.5 copies of 4 MB at 4 GB/s
    synchronization = 2 * (0.75 * 0.03 + 0.04) + 7.5 * 0.001
    # with 0.1975 s each, 5 s hold 16 as a power of two: 7 jobs of 0.1 s in 100 steps
    assert found.synchronization_s == pytest.approx(synchronization + 7 * 0.1 / 100)
    assert found.compute_s == pytest.approx(0.065)
    assert found.limit == "synchronization" and found.fits


def test_one_task_a_stage_leaves_a_core_to_the_driver() -> None:
    alone = predicted("shuffle", 1, cluster=cluster(stage_bytes_per_s=1e12, job_s=0.0))
    copies = (model.SHUFFLE_COPIES + model.SLICE_STATE_COPIES) * 0.001
    assert alone.synchronization_s == pytest.approx(0.85 * 2 * 0.75 * 0.03 + copies, rel=1e-3)


def test_the_shuffle_with_local_steps_synchronizes_less() -> None:
    found = predicted({"name": "shuffle", "sync_every": 10}, 2)
    # 10 synchronizations; each with its steps takes 0.7825 s: 4 in a job of 5 s
    assert found.synchronization_s == pytest.approx((10 * 0.1325 + 3 * 0.1) / 100)
    assert found.bytes_per_step == pytest.approx(4e5)


def test_workers_of_the_shuffle_take_turns_where_slots_are_missing() -> None:
    one = cluster(slots=1, cores_per_host=1, workers=1, latency_s=None, bytes_per_s=None)
    found = predicted("shuffle", 2, cluster=one)
    assert found.fits
    assert found.compute_s == pytest.approx(2 * 0.052)
    assert not predicted("horovod", 2, cluster=one).fits


def test_parameter_servers_pay_calls_steps_and_updates() -> None:
    found = predicted({"name": "parameter_server", "steps_per_call": 10}, 2)
    # half of: 128 rows with a neighbour, 8 MB at 1 GB/s, 4 copies of 4 MB at 4 GB/s
    at_once = (0.85 * 0.105 + 0.008 + 0.004) / 2
    serial = 7 * 0.001 + model.SERVER_STEP_S + model.SERVER_CALL_S / 10
    assert found.step_s == pytest.approx(at_once + serial + model.EPOCH_S / 100)
    assert found.steps_per_epoch == 100


def test_a_server_gives_no_more_than_its_link_has() -> None:
    slow = cluster(bytes_per_s=1e7)
    found = predicted({"name": "parameter_server", "steps_per_call": 10}, 2, cluster=slow)
    serial = 7 * 0.001 + model.SERVER_STEP_S + model.SERVER_CALL_S / 10
    assert found.step_s == pytest.approx(0.8 + serial + model.EPOCH_S / 100)
    two = predicted(
        {"name": "parameter_server", "num_ps": 2, "steps_per_call": 10}, 2, cluster=slow
    )
    assert two.step_s < 0.6 * found.step_s


@pytest.mark.parametrize(
    ("steps_per_call", "measured_ms"), [(1, 17.37), (8, 3.82), (16, 2.69), (32, 2.04)]
)
def test_the_coordinators_constants_give_what_the_benchmark_measured(
    steps_per_call: int, measured_ms: float
) -> None:
    found = 1000 * (model.SERVER_STEP_S + model.SERVER_CALL_S / steps_per_call)
    assert found == pytest.approx(measured_ms, rel=0.1)


def test_virtual_workers_come_one_after_the_other() -> None:
    assert predicted("local", 1).compute_s == pytest.approx(0.042)
    # twice 64 rows, at 0.042 / 0.084 of what an executor needs
    assert predicted("local", 2).compute_s == pytest.approx(2 * 0.052 / 2)
    assert predicted("local", 1).start_s == 1.5


@pytest.mark.parametrize(("seconds", "length"), [(0.1, 32), (1.0, 4), (20.0, 1), (0.01, 64)])
def test_jobs_hold_some_seconds(seconds: float, length: int) -> None:
    assert model.job_length(None, 4e6, seconds) == length
    assert model.job_length(7, 4e6, seconds) == 7


def test_a_backend_without_formula_is_none() -> None:
    assert way_of("somebody's") is None
    assert way_of("parameter_server") == Way("parameter_server", "parameter_server")


def test_steps_are_counted_as_the_plan_counts_them() -> None:
    found = predicted("horovod", 2, work=work(rows=257))
    assert found.steps_per_epoch == 2  # one row is no step of two workers
