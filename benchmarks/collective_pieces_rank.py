"""Program of a rank that times steps: ``collective_pieces_rank PARENT_PID FD``."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from spark_dlobd.backends.collective.rank_main import CollectiveRank
from spark_dlobd.job.train_job import TrainResult
from spark_dlobd.processes.child_program import run_child
from spark_dlobd.processes.events import Met

ROWS, PIECES = 64, 4
_ROUNDS, _STEPS, _WARM_UP = 4, 15, 3
Average = Callable[[list[Any]], list[Any]]


class InPieces:
    """Averages of some gradients each, begun as they come; on a communicator for each piece."""

    def __init__(self, communicator: Any, count: int) -> None:
        self._communicators = [communicator.Dup() for _ in range(count)]
        self._size = communicator.Get_size()
        self._begun: dict[int, tuple[Any, Any, Any]] = {}

    def average(self, gradients: list[Any]) -> list[Any]:
        """In the graph: gradients of late layers come first, so pieces go from the end."""
        import tensorflow as tf

        from spark_dlobd.backends.allreduce.half import split_like

        places = np.array_split(np.arange(len(gradients))[::-1], len(self._communicators))
        flat = [
            tf.concat([tf.reshape(gradients[place], [-1]) for place in piece], axis=0)
            for piece in places
        ]
        begun = [
            tf.numpy_function(lambda a, i=i: self._begin(i, a), [piece], tf.int64)
            for i, piece in enumerate(flat)
        ]
        averaged = list(gradients)
        for index, piece in enumerate(places):
            with tf.control_dependencies(begun):
                mean = tf.numpy_function(
                    lambda _, i=index: self._end(i), [begun[index]], tf.float32
                )
            mean.set_shape(flat[index].shape)
            for place, one in zip(
                piece, split_like(mean, [gradients[place] for place in piece]), strict=True
            ):
                averaged[place] = one
        return averaged

    def _begin(self, index: int, array: Any) -> Any:
        sent = array.copy()  # TensorFlow's memory may be used again before the end
        received = np.empty_like(sent)
        request = self._communicators[index].Iallreduce(sent, received)
        self._begun[index] = request, sent, received
        return np.int64(index)

    def _end(self, index: int) -> Any:
        request, _, received = self._begun.pop(index)
        request.Wait()
        received /= self._size
        return received


def through_python(group: Any) -> Average:
    """All gradients through ``tf.numpy_function`` and back."""

    def same(gradients: list[Any]) -> list[Any]:
        import tensorflow as tf

        from spark_dlobd.backends.allreduce.half import split_like

        flat = tf.concat([tf.reshape(one, [-1]) for one in gradients], axis=0)
        return list(split_like(group._call(lambda array: array.copy(), flat), gradients))

    return same


def timed(model: Any, group: Any) -> dict[str, float]:
    """Median milliseconds of a step by what is done with its gradients, in turns."""
    import keras
    import tensorflow as tf

    ways: dict[str, Average] = {
        "alone": list,
        "through_python": through_python(group),
        "one": group._average,
        "pieces": InPieces(group._in_graph, PIECES).average,
    }
    shape = (ROWS, *model.input_shape[1:])
    x = tf.random.stateless_uniform(shape, seed=[1, group.rank])
    y = tf.zeros([ROWS], tf.int32)
    variables = model.trainable_variables

    def made(average: Average) -> Any:
        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def step() -> Any:
            with tf.GradientTape() as tape:
                losses = keras.losses.sparse_categorical_crossentropy(y, model(x, training=True))
                loss = tf.reduce_mean(losses)
            gradients = tape.gradient(loss, [one.value for one in variables])
            model.optimizer.apply(average(gradients), variables)
            return loss

        return step

    steps = {name: made(average) for name, average in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, step in steps.items():
            group.sum(np.zeros(1))
            for number in range(_WARM_UP + _STEPS):
                began = time.perf_counter()
                step().numpy()
                if number >= _WARM_UP:
                    seconds[name].append(time.perf_counter() - began)
    return {name: round(1e3 * statistics.median(each), 2) for name, each in seconds.items()}


class PiecesRank(CollectiveRank):
    """A rank of MPI that times steps."""

    def _train(
        self, model: Any, job: Any, data: Any, config: Any, group: Any, parent: Any
    ) -> tuple[TrainResult, float]:
        from spark_dlobd.training import keras_codec

        parent.tell(Met())
        joined = time.monotonic()
        model.optimizer.build(model.trainable_variables)
        report = {"step_ms": timed(model, group), "trainable_weights": 1, "gradient_bytes": 4}
        group.close()
        return TrainResult(keras_codec.model_to_archive(model), {}, report), joined


if __name__ == "__main__":
    sys.exit(run_child(PiecesRank().run))
