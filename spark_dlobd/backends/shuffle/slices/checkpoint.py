"""Weights, optimizer state and worker state on the file system all executors share.

A checkpoint is written by the last stage of a Spark job, one partition its own part, and
read by the first stage of the next one. The driver reads weights and worker state between.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from spark_dlobd.backends.shuffle.wire.messages import Message, pack, unpack
from spark_dlobd.data.storage import arrow_file_system


class CheckpointStore:
    """Checkpoints below one URL.

    Parameters
    ----------
    url : str
        Directory that driver and executors share.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def folder(self, epoch: int, step: int) -> str:
        """URL of the checkpoint before a step."""
        return f"{self.url}/{epoch:05d}-{step:08d}"

    def write(
        self,
        epoch: int,
        step: int,
        part: str,
        index: int,
        message: Message,
        replace: bool = False,
    ) -> None:
        """Write one part whole or not at all.

        Repeated tasks write the same again, so what is there may stay, unless `replace`.
        """
        url = f"{self.folder(epoch, step)}/{part}-{index:05d}"
        system, path = arrow_file_system(url)
        folder = path.rpartition("/")[0]
        system.create_dir(folder, recursive=True)
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            with system.open_output_stream(temporary) as stream:
                stream.write(pack(message))
            if replace and self._exists(system, path):
                system.delete_file(path)
            system.move(temporary, path)
        except OSError:
            if self._exists(system, temporary):
                system.delete_file(temporary)
            # HDFS does not replace; then an earlier attempt has written the same
            if replace or not self._exists(system, path):
                raise

    def read(self, epoch: int, step: int, part: str, index: int) -> Message:
        """Read one part."""
        system, path = arrow_file_system(f"{self.folder(epoch, step)}/{part}-{index:05d}")
        with system.open_input_stream(path) as stream:
            return unpack(stream.read())

    def read_all(self, epoch: int, step: int, part: str, count: int) -> Sequence[Message]:
        """Read the same part of every partition."""
        return [self.read(epoch, step, part, index) for index in range(count)]

    def remove(self, epoch: int, step: int) -> None:
        """Delete one checkpoint."""
        system, path = arrow_file_system(self.folder(epoch, step))
        system.delete_dir(path)

    @staticmethod
    def _exists(system: Any, path: str) -> bool:
        from pyarrow import fs

        return bool(system.get_file_info(path).type == fs.FileType.File)
