"""One rank of the benchmark of measuring: two trainings that take turns.

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

from spark_dlobd.report.sampling import Sampler

_TURN_TIMEOUT_S = 300.0


class Turns:
    """Who trains now, training 0 or training 1."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._now = 0
        self.failure: BaseException | None = None

    def wait_for(self, index: int) -> None:
        with self._condition:
            came = self._condition.wait_for(
                lambda: self._now == index or self.failure, _TURN_TIMEOUT_S
            )
        if not came or self.failure:
            raise RuntimeError("the other training failed or hangs")

    def hand_over(self, failure: BaseException | None = None) -> None:
        with self._condition:
            self._now = 1 - self._now
            self.failure = self.failure or failure
            self._condition.notify_all()


class NoSampler(Sampler):
    """The turns have their own, because this one would also run in the other's."""

    def start(self) -> Sampler:
        return self


class TurnTaking(keras.callbacks.Callback):
    """Trains an epoch when it is its turn, and times it."""

    def __init__(self, turns: Turns, index: int) -> None:
        super().__init__()
        self._turns = turns
        self._index = index
        self._sampler = NoSampler()
        self.seconds: list[float] = []
        self.sampling_seconds = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch:
            self._turns.hand_over()
        self._turns.wait_for(self._index)
        self._began = time.perf_counter()
        if self._index == 0:
            self._sampler = Sampler().start()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._sampler.stop()
        self.seconds.append(time.perf_counter() - self._began)
        self.sampling_seconds += self._sampler.cpu_seconds


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

    from spark_dlobd.backends.horovod_group import HorovodGroup
    from spark_dlobd.training import measure
    from spark_dlobd.training.loop import LoopOptions, build_model, train_rank

    hvd.init()
    measure.Sampler = NoSampler  # type: ignore[misc]
    job, data = cloudpickle.loads((folder / "job").read_bytes())
    turns = Turns()
    takers = [TurnTaking(turns, index) for index in (0, 1)]
    models = [build_model(job) for _ in takers]
    facts: list[Any] = []

    def train(index: int) -> None:
        own = replace(job, config=replace(job.config, callbacks=(takers[index],)))
        options = LoopOptions(measured=facts.append if index == 0 else None)
        failure: BaseException | None = None
        try:
            train_rank(models[index], own, data, HorovodGroup(), NoEvents(), options)
        except BaseException as error:
            failure = error
            raise
        finally:
            turns.hand_over(failure)

    threads = [threading.Thread(target=train, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if turns.failure:
        raise turns.failure
    result = {
        "measured": takers[0].seconds,
        "plain": takers[1].seconds,
        "steps": next(fact["times"]["steps"] for fact in facts if "times" in fact),
        "sampler_cpu_share": takers[0].sampling_seconds / sum(takers[0].seconds),
    }
    (folder / str(hvd.rank())).write_text(json.dumps(result))
    hvd.shutdown()


if __name__ == "__main__":
    main()
