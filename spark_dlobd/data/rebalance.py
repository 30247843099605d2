"""Better file sizes for small data."""

from __future__ import annotations

from spark_dlobd.data.storage import arrow_file_system
from spark_dlobd.job.dataset import RowGroup

_LARGEST_BYTES = 256 * 2**20


def wanted_files(rows: int, total_bytes: int, world_size: int, row_group_bytes: int) -> int:
    """Number of files for one split: about `row_group_bytes` each, at least one per worker.

    Examples
    --------
    >>> wanted_files(rows=100, total_bytes=4_000, world_size=4, row_group_bytes=1_000_000)
    4
    """
    return max(min(world_size, rows), -(-total_bytes // row_group_bytes))


def rebalance(
    groups: list[RowGroup], total_bytes: int, world_size: int, row_group_bytes: int
) -> list[RowGroup]:
    """Rewrite the files of a split where they are too few or far too many. Runs on the driver.

    Fewer files than workers would make several workers read the same file; the many
    tiny files of a shuffle cost more to open than to read. Up to 256 MiB the driver
    rewrites them in their order, larger data stay as they are.

    Parameters
    ----------
    groups : list of RowGroup
        Files with their rows, in order.
    total_bytes : int
        Their size.
    world_size, row_group_bytes : int
        As in `wanted_files`.

    Returns
    -------
    list of RowGroup
        The files that now hold the rows, of near-equal row counts.
    """
    rows = sum(group.rows for group in groups)
    wanted = wanted_files(rows, total_bytes, world_size, row_group_bytes)
    if total_bytes > _LARGEST_BYTES or min(world_size, rows) <= len(groups) <= 2 * wanted:
        return groups
    return _rewritten(groups, rows, wanted)


def _rewritten(groups: list[RowGroup], rows: int, wanted: int) -> list[RowGroup]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    system, _ = arrow_file_system(groups[0].url)
    paths = [arrow_file_system(group.url)[1] for group in groups]
    tables = [pq.ParquetFile(system.open_input_file(path)).read() for path in paths]
    table = pa.concat_tables(tables).combine_chunks()
    folder = groups[0].url.rpartition("/")[0]
    made = []
    for index in range(wanted):
        start, stop = rows * index // wanted, rows * (index + 1) // wanted
        group = RowGroup(f"{folder}/rebalanced-{index:05d}.parquet", stop - start)
        pq.write_table(
            table.slice(start, group.rows),
            arrow_file_system(group.url)[1],
            filesystem=system,
            row_group_size=group.rows,
            compression="none",
            use_dictionary=False,
        )
        made.append(group)
    for path in paths:
        system.delete_file(path)
    return made
