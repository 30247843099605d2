from __future__ import annotations

from spark_dlobd.backends.horovod.gloo import gloo_environment
from spark_dlobd.processes.placement import Place, place_ranks


def test_ranks_fill_one_host_after_the_other() -> None:
    places = place_ranks(["a", "b", "a", "b", "b"])
    assert [place.rank for place in places] == [0, 2, 1, 3, 4]
    assert [place.local_rank for place in places] == [0, 0, 1, 1, 2]
    assert [place.local_size for place in places] == [2, 3, 2, 3, 3]


def test_cross_ranks_count_hosts_that_have_the_local_rank() -> None:
    places = place_ranks(["a", "b", "a", "b", "b"])
    assert [(place.cross_rank, place.cross_size) for place in places] == [
        (0, 2),
        (1, 2),
        (0, 2),
        (1, 2),
        (0, 1),
    ]


def test_partition_zero_is_always_rank_zero() -> None:
    for hosts in (["a"], ["a", "b"], ["b", "a", "b"], ["x", "x", "y"]):
        assert place_ranks(hosts)[0].rank == 0


def test_gloo_environment_is_what_horovod_reads() -> None:
    place = Place(3, 5, 1, 3, 1, 2, "10.0.0.2")
    assert gloo_environment(place, ("10.0.0.1", 4711), "eth0", 45.9) == {
        "HOROVOD_RANK": "3",
        "HOROVOD_SIZE": "5",
        "HOROVOD_LOCAL_RANK": "1",
        "HOROVOD_LOCAL_SIZE": "3",
        "HOROVOD_CROSS_RANK": "1",
        "HOROVOD_CROSS_SIZE": "2",
        "HOROVOD_HOSTNAME": "10.0.0.2",
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.1",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": "4711",
        "HOROVOD_GLOO_IFACE": "eth0",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "45",
    }
