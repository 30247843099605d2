"""The shard plan: every row once, equal steps, exact gradient weights."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from spark_dlobd.errors import ConfigurationError, DataError
from spark_dlobd.job.plan import RowRange, ShardPlan


def layouts(total: int) -> list[tuple[int, ...]]:
    """Row groups of `total` rows: one, near-equal, uneven with empty ones."""
    half = total // 2
    return [
        (total,),
        tuple(np.diff(np.linspace(0, total, 6).astype(int)).tolist()),
        (0, half, 1 if total > half else 0, 0, max(total - half - 1, 0)),
    ]


def plans() -> list[ShardPlan]:
    found = []
    for total, world, batch in itertools.product(
        (1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 100), (1, 2, 3, 4, 7), (1, 2, 3, 4, 8, 10, 16, 64, 200)
    ):
        if total >= world and batch >= world:
            for counts in layouts(total):
                for shuffle in (True, False):
                    found.append(ShardPlan(counts, world, batch, seed=5, shuffle=shuffle))
    return found


ALL = plans()


def row_ids(plan: ShardPlan, epoch: int, rank: int) -> list[tuple[int, int]]:
    return [
        (piece.group, row)
        for piece in plan.ranges(epoch, rank)
        for row in range(piece.start, piece.stop)
    ]


def test_every_row_is_read_exactly_once_an_epoch():
    for plan in ALL:
        expected = [(g, r) for g, count in enumerate(plan.row_counts) for r in range(count)]
        for epoch in (0, 1):
            read = [i for rank in range(plan.world_size) for i in row_ids(plan, epoch, rank)]
            assert sorted(read) == expected, plan


def test_each_rank_reads_the_rows_of_its_steps():
    for plan in ALL:
        for rank in range(plan.world_size):
            local = plan.local_batch_sizes(rank)
            assert len(row_ids(plan, 1, rank)) == plan.rows(rank) == sum(local), plan


def test_every_rank_has_the_same_steps_and_no_step_is_empty():
    for plan in ALL:
        locals_ = [plan.local_batch_sizes(rank) for rank in range(plan.world_size)]
        assert {len(sizes) for sizes in locals_} == {plan.steps_per_epoch}
        assert min(min(sizes) for sizes in locals_) >= 1, plan
        assert all(len(set(sizes[:-1])) <= 1 for sizes in locals_)
        sums = tuple(sum(step) for step in zip(*locals_, strict=True))
        assert sums == plan.global_batch_sizes()
        assert sum(sums) == plan.total_rows


def test_scaled_mean_over_ranks_is_the_mean_over_rows():
    for plan in ALL:
        for step, rows in enumerate((plan.batch_size, plan.tail_batch_size)):
            values = np.arange(1.0, rows + 1)
            start = 0
            average = 0.0
            for rank in range(plan.world_size):
                full = plan.batch_size * (rank + 1) // plan.world_size
                full -= plan.batch_size * rank // plan.world_size
                size = full if step == 0 else plan.local_batch_sizes(rank)[-1]
                scale = plan.gradient_scales(rank)[step]
                average += scale * values[start : start + size].mean() / plan.world_size
                start += size
            assert start == rows
            assert average == pytest.approx((rows + 1) / 2, rel=1e-12), plan


def test_numbers_by_hand():
    plan = ShardPlan((6, 5), world_size=2, batch_size=4, seed=0, shuffle=False)
    assert plan.steps_per_epoch == 3
    assert plan.global_batch_sizes() == (4, 4, 3)
    assert plan.local_batch_sizes(0) == (2, 2, 1)
    assert plan.local_batch_sizes(1) == (2, 2, 2)
    assert plan.gradient_scales(0) == (1.0, pytest.approx(2 / 3))
    assert plan.gradient_scales(1) == (1.0, pytest.approx(4 / 3))
    assert plan.ranges(0, 0) == (RowRange(0, 0, 5),)
    assert plan.ranges(0, 1) == (RowRange(0, 5, 6), RowRange(1, 0, 5))


def test_tail_smaller_than_the_world_joins_the_step_before():
    plan = ShardPlan((9,), world_size=4, batch_size=8, seed=0)
    assert plan.global_batch_sizes() == (9,)
    assert [plan.rows(rank) for rank in range(4)] == [2, 2, 2, 3]
    assert ShardPlan((17,), 4, 8, 0).global_batch_sizes() == (8, 9)
    assert ShardPlan((20,), 4, 8, 0).global_batch_sizes() == (8, 8, 4)


def test_same_arguments_give_the_same_plan():
    first, second = (ShardPlan((10, 20, 30), 3, 6, seed=9) for _ in range(2))
    assert first == second
    assert [first.ranges(4, r) for r in range(3)] == [second.ranges(4, r) for r in range(3)]
    a, b = (p.row_generator(4, 2).permutation(50).tolist() for p in (first, second))
    assert a == b
    assert first.row_generator(4, 1).permutation(50).tolist() != a
    other = ShardPlan((10, 20, 30), 3, 6, seed=10)
    assert [first.ranges(e, 0) for e in range(4)] != [other.ranges(e, 0) for e in range(4)]


@pytest.mark.parametrize("counts", [(100,), (50, 50), (10,) * 10])
def test_rows_move_between_ranks_from_epoch_to_epoch(counts):
    plan = ShardPlan(counts, world_size=2, batch_size=10, seed=3)
    seen = [set(row_ids(plan, epoch, 0)) for epoch in range(10)]
    assert all(len(rows) == 50 for rows in seen)
    assert len({frozenset(rows) for rows in seen}) > 5
    assert len(set().union(*seen)) == 100


def test_without_shuffle_every_epoch_is_the_same():
    plan = ShardPlan((10, 20, 30), 3, 6, seed=9, shuffle=False)
    assert plan.ranges(0, 1) == plan.ranges(7, 1) == (RowRange(1, 10, 20), RowRange(2, 0, 10))


def test_one_rank_reads_no_group_twice():
    plan = ShardPlan((10, 20, 30), 1, 6, seed=9)
    for epoch in range(5):
        assert sorted(plan.ranges(epoch, 0)) == [(0, 0, 10), (1, 0, 20), (2, 0, 30)]


def test_describe_is_json():
    summary = json.loads(json.dumps(ShardPlan((6, 5), 2, 4, 0).describe()))
    assert summary["steps_per_epoch"] == 3
    assert summary["rows_per_rank"] == {"min": 5, "max": 6}


def test_batch_smaller_than_the_world_is_refused():
    with pytest.raises(ConfigurationError, match=r"Got 3 for 4 workers"):
        ShardPlan((100,), world_size=4, batch_size=3, seed=0)


def test_fewer_rows_than_ranks_is_refused():
    with pytest.raises(DataError, match=r"Each of 4 workers.*Got 3 rows"):
        ShardPlan((1, 2), world_size=4, batch_size=8, seed=0)
    with pytest.raises(DataError, match=r"Got 0 rows"):
        ShardPlan((), world_size=1, batch_size=8, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((10,), 0, 8, 0), r"world_size must be an int of at least 1. Got 0"),
        (((10,), 2, 8, -1), r"seed must be an int of at least 0. Got -1"),
        (((10, -1), 2, 8, 0), "row_counts must not be negative"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        ShardPlan(*arguments)


def test_rank_outside_the_world_is_refused():
    with pytest.raises(ConfigurationError, match=r"rank must be an int from 0 to 1. Got 2"):
        ShardPlan((10,), 2, 4, 0).ranges(0, 2)


@pytest.mark.parametrize("shuffle", [True, False])
def test_idle_ranks_have_neither_rows_nor_steps(shuffle):
    plan = ShardPlan((0, 1, 1), 3, batch_size=4, seed=0, shuffle=shuffle, idle_ranks=True)
    assert (plan.steps_per_epoch, plan.tail_batch_size) == (1, 2)
    assert [plan.local_batch_sizes(rank) for rank in range(3)] == [(), (1,), (1,)]
    assert [plan.rows(rank) for rank in range(3)] == [0, 1, 1]
    assert plan.ranges(0, 0) == ()
    read = [row for rank in range(3) for row in row_ids(plan, 0, rank)]
    assert sorted(read) == [(1, 0), (2, 0)]
    assert plan.describe()["rows_per_rank"] == {"min": 0, "max": 1}


def test_no_rank_is_idle_unless_that_is_allowed():
    with pytest.raises(DataError, match=r"Each of 3 workers needs at least one row\. Got 2"):
        ShardPlan((2,), 3, batch_size=4, seed=0)
    with pytest.raises(DataError, match="Got 0"):
        ShardPlan((0,), 3, batch_size=4, seed=0, idle_ranks=True)
