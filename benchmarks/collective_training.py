"""Rows/s of MPI and of TensorFlow's ring on LeNet and MNIST, beside Horovod with Gloo.

``python -m benchmarks.collective_training [--rounds 2] [--epochs 3] [--rows 60000]``. The
figures are ratios of the medians of later epochs, in the same run.
"""

from __future__ import annotations

from benchmarks._mnist import print_result
from benchmarks.shuffle_training import measure, parser
from spark_dlobd import CollectiveConfig, HorovodConfig


def main() -> None:
    given = parser()
    given.set_defaults(rounds=2)
    ways = {
        "mpi": CollectiveConfig(transport="mpi"),
        "ring": CollectiveConfig(transport="ring"),
        "horovod_gloo": HorovodConfig(),
    }
    medians, _ = measure(ways, given.parse_args())
    mpi, ring = (round(medians[way] / medians["horovod_gloo"], 3) for way in ("mpi", "ring"))
    print_result(
        "collective_training",
        mpi,
        wanted=">= 1.0",
        ring=ring,
        of_ring=">= 0.95",
        rows_per_s=medians,
    )


if __name__ == "__main__":
    main()
