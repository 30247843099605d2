"""Ranks from the addresses of barrier tasks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where one rank stands in the gang; names as Horovod has them.

    Attributes
    ----------
    rank, size : int
        In the whole gang.
    local_rank, local_size : int
        Among the ranks of the same host.
    cross_rank, cross_size : int
        Among the ranks with the same local rank on all hosts.
    host : str
        Address of the host.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int
    host: str


def place_ranks(hosts: Sequence[str]) -> list[Place]:
    """Give each task its rank, hosts in order of appearance and filled one by one.

    Parameters
    ----------
    hosts : sequence of str
        Host address of each barrier task, by partition.

    Returns
    -------
    list of Place
        By partition.

    Examples
    --------
    >>> [place.rank for place in place_ranks(["a", "b", "a"])]
    [0, 2, 1]
    """
    order = list(dict.fromkeys(hosts))
    members = {host: [i for i, other in enumerate(hosts) if other == host] for host in order}
    ranks = {task: rank for rank, task in enumerate(t for host in order for t in members[host])}
    places = []
    for task, host in enumerate(hosts):
        local_rank = members[host].index(task)
        across = [other for other in order if len(members[other]) > local_rank]
        places.append(
            Place(
                rank=ranks[task],
                size=len(hosts),
                local_rank=local_rank,
                local_size=len(members[host]),
                cross_rank=across.index(host),
                cross_size=len(across),
                host=host,
            )
        )
    return places
