"""TensorFlow's collective operations as the training loop wants them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spark_dlobd.backends.allreduce.group import RankGroup
from spark_dlobd.backends.allreduce.half import split_like
from spark_dlobd.errors import ResourceError

_LEADER = "/job:worker/replica:0/task:0"
_GROUP, _GPU_GROUP = 1, 2
_WIRE = {"fp16": tf.float16, "bf16": tf.bfloat16}


def join_ring(rank: int, peers: Sequence[str]) -> None:
    """Start this process's server and make the others its peers.

    To be called before anything is made with TensorFlow.

    Parameters
    ----------
    rank : int
        Who this is.
    peers : sequence of str
        ``"host:port"`` of every rank.
    """
    from tensorflow.core.protobuf import config_pb2, tensorflow_server_pb2
    from tensorflow.python.eager import context

    settings = config_pb2.ConfigProto()
    settings.experimental.collective_group_leader = _LEADER
    server = tensorflow_server_pb2.ServerDef(
        cluster=tf.train.ClusterSpec({"worker": list(peers)}).as_cluster_def(),
        job_name="worker",
        task_index=rank,
        protocol="grpc",
        default_session_config=settings,
    )
    own = context.context()
    own.configure_collective_ops(collective_leader=_LEADER)
    own.enable_collective_ops(server)
    own.ensure_initialized()


class RingGroup(RankGroup):
    """All ranks of a ring that `join_ring` made.

    Every rank adds in the same order, so all of them get the same bits.

    Parameters
    ----------
    rank, size : int
        Who this is, of how many.
    compression : {"fp16", "bf16"} or None
        Type of gradients on the wire.
    timeout_s : float
        Longest single operation.
    nccl : bool, default False
        Whether gradients are averaged on GPUs.

    Raises
    ------
    ResourceError
        If they are to be, and this rank has no GPU.
    """

    def __init__(
        self, rank: int, size: int, compression: str | None, timeout_s: float, nccl: bool = False
    ) -> None:
        super().__init__(rank, size)
        self._wire = _WIRE.get(compression or "")
        self._timeout_s = timeout_s
        self._nccl = nccl
        self._task = f"/job:worker/replica:0/task:{rank}"
        if nccl and not tf.config.list_physical_devices("GPU"):
            raise ResourceError(
                f"nccl=True averages gradients on GPUs, and rank {rank} sees none. Give each rank "
                "one, with spark.task.resource.gpu.amount=1, or leave nccl out."
            )

    def _average(self, gradients: list[Any]) -> list[Any]:
        """Average in one operation for each type on the wire."""
        sent = [g if self._wire is None else tf.cast(g, self._wire) for g in gradients]
        averaged: list[Any] = list(gradients)
        for dtype in sorted({tensor.dtype for tensor in sent}, key=lambda each: each.name):
            places = [place for place, tensor in enumerate(sent) if tensor.dtype == dtype]
            found = self._fused([sent[place] for place in places])
            for place, mean in zip(places, found, strict=True):
                averaged[place] = tf.cast(mean, gradients[place].dtype)
        return averaged

    def _fused(self, tensors: list[Any]) -> list[Any]:
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)
        mean = self._reduce(flat, "gradients", self._nccl) / tf.cast(self.size, flat.dtype)
        return split_like(mean, tensors)

    def any_flag(self, flag: Any) -> Any:
        """Sum a small flag over ranks."""
        return self._reduce(tf.convert_to_tensor(flag), "stop_wish")

    def sum(self, array: NDArray[Any]) -> NDArray[Any]:
        """Sum over ranks."""
        if self.size == 1:
            return array
        with self.attendance.joining():
            return np.asarray(self._reduce(tf.convert_to_tensor(array), "sum"))

    def gather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Stack over ranks: each adds its row to zeros, byte by byte."""
        array = np.asarray(array)
        rows = np.zeros((self.size, array.nbytes), np.uint8)
        rows[self.rank] = np.frombuffer(array.tobytes(), np.uint8)
        found = self.sum(rows.astype(np.int32)).astype(np.uint8)
        return np.frombuffer(found.tobytes(), array.dtype).reshape(self.size, *array.shape).copy()

    def _reduce(self, tensor: Any, purpose: str, on_gpus: bool = False) -> Any:
        """Sum a tensor over ranks. What is summed alike has the same key on every rank."""
        if self.size == 1:
            return tensor
        name = f"{purpose} {tensor.dtype.name} {tensor.shape}"
        with tf.device(f"{self._task}/device:{'GPU' if on_gpus else 'CPU'}:0"):
            return tf.raw_ops.CollectiveReduceV2(
                input=tensor,
                group_size=self.size,
                # a group is one of devices
                group_key=_GPU_GROUP if on_gpus else _GROUP,
                instance_key=zlib.crc32(name.encode()) & 0x7FFFFFFF,
                ordering_token=[],
                merge_op="Add",
                final_op="Id",
                communication_hint="nccl" if on_gpus else "ring",
                timeout_seconds=self._timeout_s,
            )
