"""State of a slice on the host of its owner, between the stages of one Spark job.

Runs on each worker. Spark may give the tasks of one partition to any Python process of
the executor, so the state is a file in the executor's own local directory, beside its
shuffle files: the executor deletes it with them.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from spark_dlobd.backends.shuffle.slices.folders import remove_shared
from spark_dlobd.backends.shuffle.wire.messages import Message, pack, unpack
from spark_dlobd.processes.python_worker import local_folder

_FOLDER = "spark-dlobd-slices"


class SliceStore:
    """Versions of the slices of one fit that this host owns.

    Parameters
    ----------
    run_id : str
        Names the fit.

    Attributes
    ----------
    folder : Path
        Where they are.
    """

    def __init__(self, run_id: str) -> None:
        self.folder = local_folder() / _FOLDER / run_id

    def _path(self, index: int, epoch: int, step: int) -> Path:
        return self.folder / f"{index:05d}-{epoch:05d}-{step:08d}"

    def write(self, index: int, epoch: int, step: int, state: Message) -> None:
        """Write the state before a step; the one before the last step is kept for a repeat."""
        # the directories of a block manager are open to all users
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(index, epoch, step)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
        temporary.write_bytes(pack(state))
        temporary.replace(path)
        oldest = self._path(index, epoch, step - 1).name
        for other in self.folder.glob(f"{index:05d}-*"):
            # a newer one is that of a task that has overtaken this one
            if other.name < oldest:
                other.unlink(missing_ok=True)

    def read(self, index: int, epoch: int, step: int) -> Message | None:
        """Read the state before a step; None if this host does not have it."""
        try:
            return unpack(self._path(index, epoch, step).read_bytes())
        except FileNotFoundError:
            return None

    def remove(self) -> None:
        """Delete what this executor has of the fit."""
        remove_shared(self.folder)
