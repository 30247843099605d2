"""Slices of the flat parameter vector: every element once, in order, as even as the rule allows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from spark_dlobd.backends.shuffle.slices.plan import Segment, SlicePlan, empty_aligned, is_aligned
from spark_dlobd.errors import ConfigurationError

SIZES = [(), (1,), (7,), (0, 3), (5, 1, 9, 2), (100, 3, 3, 3), (1, 1, 1, 1, 50), (13, 0, 0, 29, 4)]
CASES = list(itertools.product(SIZES, (1, 2, 3, 5, 8), (False, True)))


@pytest.mark.parametrize(("sizes", "count", "whole"), CASES)
def test_every_element_is_in_exactly_one_slice_in_order(sizes, count, whole):
    plan = SlicePlan.of(sizes, count, whole)

    covered = [
        (segment.variable, element)
        for one in plan.slices
        for segment in one
        for element in range(segment.start, segment.stop)
    ]

    assert covered == [(v, e) for v, size in enumerate(sizes) for e in range(size)]
    assert plan.count == len(plan.lengths) == count
    assert sum(plan.lengths) == plan.total == sum(sizes)


@pytest.mark.parametrize(("sizes", "count"), list(itertools.product(SIZES, (1, 2, 3, 5, 8))))
def test_a_slice_starts_where_bigdl_starts_it(sizes, count):
    plan = SlicePlan.of(sizes, count)
    total = sum(sizes)

    starts = [n * (total // count) + min(n, total % count) for n in range(count + 1)]

    assert [plan.bounds(n) for n in range(count)] == list(itertools.pairwise(starts))
    assert max(plan.lengths) - min(plan.lengths) <= 1


def test_seven_elements_in_three_slices():
    plan = SlicePlan.of([5, 2], 3)

    assert plan.lengths == (3, 2, 2)
    assert plan.slices == (
        (Segment(0, 0, 3),),
        (Segment(0, 3, 5),),
        (Segment(1, 0, 2),),
    )


def test_fewer_elements_than_slices_leaves_the_last_ones_empty():
    plan = SlicePlan.of([2], 4)

    assert plan.lengths == (1, 1, 0, 0)
    assert plan.bounds(3) == (2, 2)
    assert [part.tolist() for part in plan.cut(np.array([8.0, 9.0]))] == [[8.0], [9.0], [], []]


@pytest.mark.parametrize(("sizes", "count"), list(itertools.product(SIZES, (1, 2, 3, 5))))
def test_whole_variables_are_as_even_as_contiguous_slices_can_be(sizes, count):
    plan = SlicePlan.of(sizes, count, whole_variables=True)

    assert all(s.start == 0 and s.stop == sizes[s.variable] for one in plan.slices for s in one)
    cuts = itertools.combinations_with_replacement(range(len(sizes) + 1), count - 1)
    best = min(
        max(sum(sizes[a:b]) for a, b in itertools.pairwise((0, *cut, len(sizes)))) for cut in cuts
    )
    assert max(plan.lengths) == best


def test_whole_variables_of_one_large_and_three_small():
    plan = SlicePlan.of([100, 3, 3, 3], 3, whole_variables=True)

    assert plan.lengths == (100, 9, 0)


def test_cutting_and_spreading_copy_nothing():
    plan = SlicePlan.of([5, 2], 3)
    flat = np.arange(7, dtype=np.float32)

    assert all(np.shares_memory(part, flat) for part in plan.cut(flat) + plan.variables(flat))
    assert [part.tolist() for part in plan.cut(flat)] == [[0, 1, 2], [3, 4], [5, 6]]
    assert [part.tolist() for part in plan.variables(flat)] == [[0, 1, 2, 3, 4], [5, 6]]


def test_a_vector_of_another_plan_is_refused():
    with pytest.raises(ConfigurationError, match=r"shape \(7,\). Got \(8,\)"):
        SlicePlan.of([5, 2], 3).cut(np.zeros(8))


@pytest.mark.parametrize(("sizes", "count"), [((3,), 0), ((-1,), 1)])
def test_impossible_plans_are_refused(sizes, count):
    with pytest.raises(ConfigurationError, match="at least 1 slice"):
        SlicePlan.of(sizes, count)


@pytest.mark.parametrize("size", [0, 1, 17, 1000])
def test_aligned_memory(size):
    array = empty_aligned(size)

    assert (array.shape, array.dtype) == ((size,), np.float32)
    assert is_aligned(array)
    assert not is_aligned(empty_aligned(size + 2)[1:])
