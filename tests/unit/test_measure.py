"""What the training loop measures."""

from __future__ import annotations

import sys
import threading
import time
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow as tf

from spark_dlobd.errors import MissingDependencyError
from spark_dlobd.training import gpu, sampling
from spark_dlobd.training.measure import (
    CommunicationTime,
    InputWait,
    Measurement,
    Measuring,
    tracing_seconds,
    waited_for_batches,
    waiting_seconds,
)
from spark_dlobd.training.sampling import Sampler


def stepped(wait: InputWait, datasets: list[Any], step_s: float = 0.0) -> list[Any]:
    """Go through an epoch as the loop does."""
    elements: list[Any] = []
    iterator = iter(tf.data.Dataset.zip(tuple(d.map(wait.noter()).prefetch(2) for d in datasets)))
    wait.restart()
    while True:
        wait.ask(len(elements))
        try:
            elements.append(next(iterator))
        except StopIteration:
            return elements
        time.sleep(step_s)


def slow(seconds: float) -> Any:
    def rows() -> Any:
        for row in range(5):
            time.sleep(seconds)
            yield float(row), row

    signature = (tf.TensorSpec(()), tf.TensorSpec((), tf.int64))
    return tf.data.Dataset.from_generator(rows, output_signature=signature)


def test_waiting_for_batches_is_measured() -> None:
    wait = InputWait(5)
    elements = stepped(wait, [slow(0.05)])
    assert [float(x) for ((x, _),) in elements] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert 0.2 <= wait.seconds(5) < 5.0
    assert wait.seconds(1) < wait.seconds(5)
    wait.restart()
    assert wait.seconds(5) == 0.0


def test_a_step_waits_for_its_slowest_reader() -> None:
    wait = InputWait(5)
    stepped(wait, [slow(0.0), slow(0.05)])
    assert 0.2 <= wait.seconds(5) < 5.0


def test_a_batch_that_is_there_is_not_waited_for() -> None:
    wait = InputWait(5)
    stepped(wait, [slow(0.0)], step_s=0.2)
    assert wait.seconds(5) < 0.8


def test_several_steps_of_one_call_wait_for_the_last() -> None:
    ready = np.array([1.0, 2.0, 7.0, 3.0, 0.0])
    assert waited_for_batches(ready, [(0, 1.5), (2, 4.0)]) == 0.5 + 3.0
    assert waited_for_batches(ready[:2], [(0, 1.5), (2, 4.0)]) == 0.5
    assert waited_for_batches(ready, []) == 0.0


def test_elements_keep_their_structure() -> None:
    source = tf.data.Dataset.from_tensor_slices((np.zeros((4, 2)), np.ones(4), np.ones(4)))
    noted = source.map(InputWait(4).noter())
    assert noted.element_spec == source.element_spec
    assert int(noted.cardinality()) == 4


class Group:
    """Two ranks of which the other tells what a test gives it."""

    rank = 0
    size = 2

    def __init__(self, other: Any) -> None:
        self._other = np.asarray(other)

    def gather(self, array: Any) -> Any:
        return np.stack([array, self._other])


def test_communication_is_timed_inside_the_graph() -> None:
    timer = CommunicationTime(steps=3)

    def average(gradients: list[Any]) -> list[Any]:
        (gradient,) = gradients
        slow = tf.numpy_function(lambda g: (time.sleep(0.05), g)[1], [gradient], tf.float32)
        return [tf.ensure_shape(slow, gradient.shape)]

    @tf.function
    def step(position: Any) -> Any:
        return timer.measured(average, [tf.ones(4)], position)[0]

    for position in range(3):
        np.testing.assert_array_equal(step(tf.constant(position, tf.int64)), np.ones(4))
    assert 0.15 <= timer.seconds < 1.0
    # the other rank comes last in every step and needs 10 ms for the exchange itself
    waited = timer.split(Group([0.01, 0.01, 0.01]))
    assert waited == pytest.approx(timer.seconds - 0.03)
    timer.restart()
    assert timer.seconds == 0.0


def test_samples_are_bounded() -> None:
    timer = CommunicationTime(steps=100_000)
    average = list

    @tf.function
    def step(position: Any) -> Any:
        return timer.measured(average, [tf.ones(1)], position)

    step(tf.constant(99_999, tf.int64))
    assert timer._samples.shape == (511,)


def test_the_rank_that_comes_last_waits_for_nobody() -> None:
    samples = np.array([[1.0, 3.0], [2.0, 1.0]])
    assert waiting_seconds(samples, 0, total=8.0) == 4.0  # 2 of 4 sampled seconds
    assert waiting_seconds(samples, 1, total=3.0) == 1.0  # 1 of 3
    assert waiting_seconds(np.zeros((2, 2)), 0, total=0.0) == 0.0


def test_tracing_is_what_the_first_call_took_longer() -> None:
    assert tracing_seconds(1, first=3.0, steps=11, computing=8.0) == 2.5
    assert tracing_seconds(5, first=5.0, steps=10, computing=7.0) == 3.0
    assert tracing_seconds(1, first=0.1, steps=3, computing=2.1) == 0.0
    assert tracing_seconds(4, first=3.0, steps=4, computing=3.0) == 0.0


def test_nothing_is_measured_that_nobody_asked_for() -> None:
    measurement = Measurement(None, Group([]), steps=3)
    with measurement:
        assert measurement.noter() is None
        assert measurement.callbacks(None) == []  # type: ignore[arg-type]
        assert measurement.communication is None
        assert not [t for t in threading.enumerate() if t.name == "dlobd-sampler"]


def test_a_sampler_sees_its_process_and_ends() -> None:
    with Sampler(interval_s=0.05) as sampler:
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            sum(range(10_000))
    sampled = sampler.drain()["utilization"]
    assert sampled["fields"] == list(sampling.FIELDS)
    assert len(sampled["points"]) >= 2
    cpu = [point[1] for point in sampled["points"]]
    assert max(cpu) > 5
    assert all(point[2] > 1e6 for point in sampled["points"])
    assert "utilization" not in sampler.drain()
    assert not [t for t in threading.enumerate() if t.name == "dlobd-sampler"]


def test_a_process_that_works_for_less_than_a_second_is_sampled_too() -> None:
    with Sampler() as sampler:
        assert len(sampler.drain()["utilization"]["points"]) == 1


def test_a_sampler_that_fails_tells_why_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    def refuse() -> None:
        raise PermissionError("no /proc/net/dev")

    monkeypatch.setattr(psutil, "net_io_counters", refuse)
    with Sampler() as sampler:
        pass
    assert sampler.drain()["problem"] == (
        "Sampling of utilization ended: PermissionError: no /proc/net/dev"
    )


class Nvml(types.ModuleType):
    """Two GPUs as the package nvidia-ml-py shows them."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return types.SimpleNamespace(gpu=50 + 20 * handle)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return types.SimpleNamespace(used=1000 + handle)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An NVIDIA driver that is loaded."""
    path = tmp_path / "version"
    path.write_text("NVRM version")
    monkeypatch.setattr(gpu, "_DRIVER", path)
    return path


def test_gpus_are_read_through_nvml(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with gpu.open_gpus() as gpus:
        assert gpus is not None
        assert gpus.read() == (60.0, 2001.0)
    assert nvml.open == 0
    with Sampler(interval_s=0.05) as sampler:
        time.sleep(0.2)
    sampled = sampler.drain()["utilization"]
    assert sampled["fields"][-2:] == ["gpu_percent", "gpu_memory_bytes"]
    assert sampled["points"][0][-2:] == [60.0, 2001.0]


def test_no_visible_gpu_is_no_gpu(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with gpu.open_gpus() as gpus:
        assert gpus is None


def test_gpus_without_the_package_are_told(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingDependencyError, match="pip install nvidia-ml-py"), gpu.open_gpus():
        pass
    with Sampler(interval_s=0.05) as sampler:
        time.sleep(0.2)
    facts = sampler.drain()
    assert "nvidia-ml-py" in facts["problem"]
    assert facts["utilization"]["fields"] == list(sampling.FIELDS)


class Begin:
    """Epochs that took what a test says."""

    epoch_seconds: ClassVar[list[float]] = []


class FakeWait:
    """Stands for `InputWait`: seconds that a test sets."""

    waited = 0.0

    def restart(self) -> None:
        self.waited = 0.0

    def seconds(self, steps: int) -> float:
        return self.waited


class FakeTime:
    """Stands for `CommunicationTime`: seconds that a test sets."""

    seconds = 0.0

    def restart(self) -> None:
        self.seconds = 0.0

    def split(self, group: Any) -> float:
        return self.seconds / 4


def _measuring(communication: Any, group: Any) -> tuple[Measuring, FakeWait, list[Any]]:
    told: list[Any] = []
    wait = FakeWait()
    callback = Measuring(group, 10, Begin(), wait, communication, Sampler(), told.append)  # type: ignore[arg-type]
    return callback, wait, told


def test_an_epoch_is_told_with_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    communication = FakeTime()
    callback, wait, told = _measuring(communication, Group([]))
    now = [100.0]
    monkeypatch.setattr("spark_dlobd.training.measure.time.monotonic", lambda: now[0])
    callback.on_epoch_begin(0)
    now[0], wait.waited, communication.seconds = 105.0, 1.0, 2.0
    callback.on_train_batch_end(0)
    # what ranks waited for each other's tracing is start-up
    assert communication.seconds == 0.0
    now[0], wait.waited, communication.seconds = 109.0, 2.0, 0.4
    callback.on_train_batch_end(9)
    Begin.epoch_seconds = [9.0]
    callback.on_epoch_end(0)
    assert told == [
        {
            "times": {
                "epoch": 0,
                "steps": 10,
                "seconds": 9.0,
                "input": 2.0,
                "communication": pytest.approx(0.3),
                "waiting": pytest.approx(0.1),
                # 9 - 2 - 0.4 = 6.6 computing, 4 of it in the first step
                "tracing": pytest.approx(4.0 - 2.6 / 9),
            }
        }
    ]


def test_later_epochs_trace_nothing() -> None:
    callback, _, told = _measuring(FakeTime(), Group([]))
    for epoch in (0, 1):
        Begin.epoch_seconds = [5.0] * (epoch + 1)
        callback.on_epoch_begin(epoch)
        callback.on_train_batch_end(9)
        callback.on_epoch_end(epoch)
    assert told[1]["times"]["tracing"] == 0.0


def test_communication_on_gpus_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    measurement = Measurement(lambda facts: None, Group([]), steps=3)
    assert measurement.communication is None
    callback, _, told = _measuring(None, Group([]))
    Begin.epoch_seconds = [5.0]
    callback.on_epoch_begin(0)
    callback.on_train_batch_end(0)
    callback.on_epoch_end(0)
    assert told[0]["times"]["communication"] is None
    assert told[0]["times"]["waiting"] is None
