"""One process of the bare parameter-server script: no Spark, no library, arrays in memory.

``python -m benchmarks.bare_ps_role ROLE INDEX DATA.npz EPOCHS STEPS_PER_CALL RESULT.json``;
the launcher is `benchmarks.bare_ps.run_bare_ps`. A worker keeps its arrays and hands out
slices; the coordinator schedules as many steps a call as it is told. Worker and server
print their port and stay until their standard input closes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def serve(role: str, index: int, path: str) -> None:
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.ops import script_ops

    if role == "worker":
        with np.load(path) as data:
            x, y = data["x"].reshape(-1, 28, 28, 1), data["y"]

        def rows(bounds: Any) -> Any:
            return x[bounds[0] : bounds[1]], y[bounds[0] : bounds[1]]

        script_ops._py_funcs._funcs["rows"] = rows
    spec = tf.train.ClusterSpec({role: {index: "127.0.0.1:0"}})
    server = tf.distribute.Server(spec, job_name=role, task_index=index, protocol="grpc")
    print(server.target, flush=True)
    sys.stdin.read()


def coordinate(path: str, epochs: int, steps: int, result: str) -> None:
    import keras
    import numpy as np
    import tensorflow as tf

    from benchmarks._mnist import BATCH_SIZE, lenet

    addresses = json.loads(sys.stdin.readline())
    with np.load(path) as data:
        count = len(data["y"])
    spec = tf.train.ClusterSpec({"chief": ["127.0.0.1:0"], **addresses})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        spec, task_type="chief", task_id=0, rpc_layer="grpc"
    )
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        model = lenet()
        optimizer = keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy()

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            predicted = model(x, training=True)
            loss = loss_of(y, predicted)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        correct = tf.equal(tf.argmax(predicted, 1, tf.int32), y)
        return loss, tf.reduce_mean(tf.cast(correct, tf.float32))

    @tf.function
    def call(bounds: Any) -> Any:
        x, y = tf.raw_ops.PyFunc(input=[bounds], token="rows", Tout=[tf.float32, tf.int32])
        x, y = tf.ensure_shape(x, (None, 28, 28, 1)), tf.ensure_shape(y, (None,))
        loss, correct = 0.0, 0.0
        for first in tf.range(0, tf.shape(y)[0], BATCH_SIZE):
            batch = x[first : first + BATCH_SIZE], y[first : first + BATCH_SIZE]
            batch_loss, batch_correct = strategy.run(step, args=batch)
            loss, correct = loss + batch_loss, correct + batch_correct
        return loss, correct

    seconds = []
    for _ in range(epochs):
        began = time.monotonic()
        rows = steps * BATCH_SIZE
        for first in range(0, count, rows):
            bounds = tf.constant([first, min(first + rows, count)])
            coordinator.schedule(call, args=(bounds,))
        coordinator.join()
        seconds.append(time.monotonic() - began)
    Path(result).write_text(json.dumps(seconds))


def main() -> None:
    role, index, path, epochs, steps, result = sys.argv[1:]
    if role == "chief":
        coordinate(path, int(epochs), int(steps), result)
    else:
        serve(role, int(index), path)


if __name__ == "__main__":
    main()
