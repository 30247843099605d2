"""Rows/s of TensorFlow's ring on LeNet and MNIST, against Horovod with Gloo in the same run.

``python -m benchmarks.collective_training [--rounds 2] [--epochs 3] [--rows 60000]``. The
figure is the ratio of the medians of later epochs.
"""

from __future__ import annotations

from benchmarks._mnist import print_result
from benchmarks.shuffle_training import measure, parser
from spark_dlobd import CollectiveConfig, HorovodConfig


def main() -> None:
    given = parser()
    given.set_defaults(rounds=2)
    ways = {"collective": CollectiveConfig(), "horovod_gloo": HorovodConfig()}
    medians, _ = measure(ways, given.parse_args())
    figure = round(medians["collective"] / medians["horovod_gloo"], 3)
    print_result("collective_training", figure, wanted=">= 0.95", rows_per_s=medians)


if __name__ == "__main__":
    main()
