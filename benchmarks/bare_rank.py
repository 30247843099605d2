"""One rank of the bare script: plain Keras ``fit`` on arrays in memory, no Spark, no library.

``python -m benchmarks.bare_rank DATA.npz EPOCHS RESULT.json``; the launcher is
`benchmarks.bare.run_bare`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    path, epochs, result = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    import horovod.tensorflow as hvd
    import keras
    import numpy as np

    from benchmarks._mnist import BATCH_SIZE, lenet

    hvd.init()

    class AveragedAdam(keras.optimizers.Adam):
        def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
            return super().apply(hvd.grouped_allreduce(grads, op=hvd.Average), trainable_variables)

    class Clock(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.began = time.monotonic()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.seconds.append(time.monotonic() - self.began)

    with np.load(path) as data:
        x = data["x"][hvd.rank() :: hvd.size()].reshape(-1, 28, 28, 1)
        y = data["y"][hvd.rank() :: hvd.size()]
    model = lenet()
    model.compile(AveragedAdam(), "sparse_categorical_crossentropy", metrics=["accuracy"])
    clock = Clock()
    batch = BATCH_SIZE // hvd.size()
    model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0, callbacks=[clock])
    if hvd.rank() == 0:
        Path(result).write_text(json.dumps(clock.seconds))


if __name__ == "__main__":
    main()
