"""MPI's collective operations, through mpi4py, as the training loop wants them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spark_dlobd.backends.allreduce.group import RankGroup
from spark_dlobd.backends.allreduce.half import mean_in_half, split_like

_NATIVE = (tf.float32, tf.float64)


class MpiGroup(RankGroup):
    """All ranks of an initialized MPI.

    Operations of the graph and those between steps have communicators of their own, so that
    the order of either is the same on every rank.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
        Of all ranks.
    compression : {"fp16", "bf16"} or None
        Type of gradients on the wire; sums are float32.
    """

    def __init__(self, communicator: Any, compression: str | None = None) -> None:
        super().__init__(communicator.Get_rank(), communicator.Get_size())
        self._between_steps = communicator
        self._in_graph = communicator.Dup()
        self._compression = compression

    def _average(self, gradients: list[Any]) -> list[Any]:
        if self._compression is not None:
            return mean_in_half(
                gradients, self.size, self._compression, self._alltoall, self._allgather
            )
        averaged: list[Any] = list(gradients)
        sent = [each if each.dtype in _NATIVE else tf.cast(each, tf.float32) for each in gradients]
        for dtype in sorted({tensor.dtype for tensor in sent}, key=lambda each: each.name):
            places = [place for place, tensor in enumerate(sent) if tensor.dtype == dtype]
            flat = tf.concat([tf.reshape(sent[place], [-1]) for place in places], axis=0)
            mean = self._call(self._mean, flat)
            found = split_like(mean, [gradients[place] for place in places])
            for place, tensor in zip(places, found, strict=True):
                averaged[place] = tensor
        return averaged

    def any_flag(self, flag: Any) -> Any:
        """Sum a small flag over ranks."""
        return self._call(self._total, tf.convert_to_tensor(flag))

    def sum(self, array: NDArray[Any]) -> NDArray[Any]:
        """Sum over ranks."""
        if self.size == 1:
            return array
        with self.attendance.joining():
            return _summed(self._between_steps, np.asarray(array, order="C"))

    def gather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Stack over ranks."""
        array = np.asarray(array, order="C")
        with self.attendance.joining():
            found = self._between_steps.allgather(array.tobytes())
        return np.frombuffer(b"".join(found), array.dtype).reshape(self.size, *array.shape).copy()

    def close(self) -> None:
        """Leave the others, when all have come to their end."""
        from mpi4py import MPI

        MPI.Finalize()

    def _call(self, function: Callable[[NDArray[Any]], NDArray[Any]], tensor: Any) -> Any:
        """Call Python inside the graph, once a step on every rank."""
        found = tf.numpy_function(function, [tensor], tensor.dtype)
        found.set_shape(tensor.shape)
        return found

    def _total(self, array: NDArray[Any]) -> NDArray[Any]:
        return _summed(self._in_graph, array)

    def _mean(self, array: NDArray[Any]) -> NDArray[Any]:
        total = _summed(self._in_graph, array)
        total /= self.size
        return total

    def _alltoall(self, tensor: Any) -> Any:
        def exchange(array: NDArray[Any]) -> NDArray[Any]:
            received = np.empty_like(array)
            self._in_graph.Alltoall(array, received)
            return received

        return self._call(exchange, tensor)

    def _allgather(self, tensor: Any) -> Any:
        def collect(array: NDArray[Any]) -> NDArray[Any]:
            received = np.empty(self.size * array.size, array.dtype)
            self._in_graph.Allgather(array, received)
            return received

        found = tf.numpy_function(collect, [tensor], tensor.dtype)
        found.set_shape([None])
        return found


def _summed(communicator: Any, array: NDArray[Any]) -> NDArray[Any]:
    # MPI knows neither halves nor bools: such arrays are small, and added in a type it knows
    half = array.dtype.itemsize == 2 and array.dtype.kind not in "iu"
    wide = array.astype(np.float32) if half else array
    wide = wide.astype(np.int32) if wide.dtype == np.bool_ else wide
    received = np.empty_like(wide)
    communicator.Allreduce(wide, received)
    return received if received.dtype == array.dtype else received.astype(array.dtype)


def join_mpi() -> Any:
    """Become a rank of the MPI that the environment names; returns the communicator of all."""
    import mpi4py

    mpi4py.rc.initialize = True
    mpi4py.rc.finalize = False
    mpi4py.rc.thread_level = "multiple"
    from mpi4py import MPI

    return MPI.COMM_WORLD
