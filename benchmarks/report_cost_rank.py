"""One rank of the benchmark of measuring: three trainings that take turns.

``python -m benchmarks.report_cost_rank DIRECTORY``; the launcher is `benchmarks.report_cost`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from spark_dlobd.training.sampling import Sampler

_TURN_TIMEOUT_S = 300.0

TRAININGS = ("measured", "plain", "plain_again")


class Turns:
    """Which of the trainings goes on now.

    Every round each has one turn, and another one begins: caches are cold for whoever
    follows a turn of many steps.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._taken = 0
        self.failure: BaseException | None = None

    def _now(self) -> int:
        rounds, place = divmod(self._taken, len(TRAININGS))
        return (rounds + place) % len(TRAININGS)

    def wait_for(self, index: int) -> None:
        with self._condition:
            came = self._condition.wait_for(
                lambda: self._now() == index or self.failure, _TURN_TIMEOUT_S
            )
        if not came or self.failure:
            raise RuntimeError("another training failed or hangs")

    def hand_over(self, failure: BaseException | None = None) -> None:
        with self._condition:
            self._taken += 1
            self.failure = self.failure or failure
            self._condition.notify_all()


class NoSampler(Sampler):
    """One for all trainings runs all the time, and its CPU time is counted."""

    def start(self) -> Sampler:
        return self


class TurnTaking(keras.callbacks.Callback):
    """Trains some steps when it is its turn, and times them.

    The last turn of an epoch has no steps: it is what the end of an epoch costs.
    """

    def __init__(self, turns: Turns, index: int, steps_per_turn: int) -> None:
        super().__init__()
        self._turns = turns
        self._index = index
        self._steps_per_turn = steps_per_turn
        self.epochs: list[list[float]] = []
        """Seconds of each turn of each epoch."""

    def _begin(self) -> None:
        self._turns.wait_for(self._index)
        self._began = time.perf_counter()

    def _end(self) -> None:
        self.epochs[-1].append(time.perf_counter() - self._began)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch:
            self._turns.hand_over()
        self.epochs.append([])
        self._begin()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        done = batch + 1
        if done % self._steps_per_turn == 0 or done == self.params["steps"]:
            self._end()
            self._turns.hand_over()
            self._begin()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._end()


class NoEvents:
    def phase(self, text: str) -> None:
        pass

    def steps(self, steps: Any) -> None:
        pass

    def epoch(self, epoch: int, metrics: Any) -> None:
        pass


def main() -> None:
    folder = Path(sys.argv[1])
    import cloudpickle
    import horovod.tensorflow as hvd

    from spark_dlobd.backends.horovod.group import HorovodGroup
    from spark_dlobd.training import measure
    from spark_dlobd.training.loop import LoopOptions, build_model, train_rank

    hvd.init()
    measure.Sampler = NoSampler  # type: ignore[misc]
    job, data, steps_per_turn = cloudpickle.loads((folder / "job").read_bytes())
    turns = Turns()
    takers = [TurnTaking(turns, index, steps_per_turn) for index in range(len(TRAININGS))]
    models = [build_model(job) for _ in takers]

    def train(index: int) -> None:
        own = replace(job, config=replace(job.config, callbacks=(takers[index],)))
        options = LoopOptions(measured=(lambda _: None) if index == 0 else None)
        failure: BaseException | None = None
        try:
            train_rank(models[index], own, data, HorovodGroup(), NoEvents(), options)
        except BaseException as error:
            failure = error
            raise
        finally:
            turns.hand_over(failure)

    threads = [threading.Thread(target=train, args=(index,)) for index in range(len(TRAININGS))]
    began = time.perf_counter()
    with Sampler() as sampler:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if turns.failure:
        raise turns.failure
    result = {
        "seconds": {name: taker.epochs for name, taker in zip(TRAININGS, takers, strict=True)},
        "sampler_cpu_share": sampler.cpu_seconds / (time.perf_counter() - began),
    }
    (folder / str(hvd.rank())).write_text(json.dumps(result))
    hvd.shutdown()


if __name__ == "__main__":
    main()
