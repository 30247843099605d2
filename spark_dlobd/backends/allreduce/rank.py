"""The program of a rank, whatever carries its tensors. Runs on each worker."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import time
from typing import IO, TYPE_CHECKING, Any

from spark_dlobd.processes.events import Measured, Met, Result
from spark_dlobd.processes.tensorflow_import import import_tensorflow
from spark_dlobd.processes.versions import ALIKE, versions

if TYPE_CHECKING:
    from spark_dlobd.backends.allreduce.group import RankGroup
    from spark_dlobd.job.dataset import DatasetRef
    from spark_dlobd.job.train_job import TrainJob, TrainResult
    from spark_dlobd.processes.child_program import Parent
RANK = "SPARK_DLOBD_RANK"
"""Environment variable in which callbacks find their rank."""


class Rank:
    """Reads the job and then how to find the others, trains, and tells the result.

    TensorFlow is imported, and where the way allows it the model is built, while the tasks
    still meet.
    """

    alike: tuple[str, ...] = ()
    """Further distributions whose versions have to be equal on all ranks."""

    def builds_first(self, config: Any) -> bool:
        """Whether the model can be built before the ranks are joined."""
        return True

    def import_more(self) -> None:
        """Import what takes a while."""

    def join(self, told: dict[str, Any], size: int, config: Any) -> RankGroup:
        """Find the other ranks with what the task has told."""
        raise NotImplementedError

    def run(self, parent: Parent) -> None:
        """Train one rank; every exception goes to the caller."""
        _, payload = parent.next("the job")
        started = time.monotonic()
        parent.phase("import tensorflow")
        tf = import_tensorflow()
        self.import_more()
        # Trusted: written by the task that is this process's parent.
        pickles = io.BytesIO(payload)
        size, config = pickle.load(pickles)
        _share_gpus(tf)
        built = _built(parent, pickles) if self.builds_first(config) else None
        ready = time.monotonic() - started
        parent.phase("wait for communicator")
        told, _ = parent.next("the communicator")
        os.environ.update({RANK: str(told["rank"]), **told.get("environment", {})})
        parent.phase("initialize communicator")
        group = self.join(told, size, config)
        model, job, data = built or _built(parent, pickles)
        result, joined = self._train(model, job, data, config, group, parent)
        seconds = {"ready": ready, "joined": joined - started, "all": time.monotonic() - started}
        report = {**result.report, "rank_seconds": seconds}
        archives = result.archive + result.optimizer_state
        parent.tell(Result(result.history, report, len(result.archive)), archives)

    def _train(
        self,
        model: Any,
        job: TrainJob,
        data: DatasetRef,
        config: Any,
        group: RankGroup,
        parent: Parent,
    ) -> tuple[TrainResult, float]:
        """Train among the other ranks; return also when all had met, of ``time.monotonic``."""
        from spark_dlobd.backends.allreduce.attendance import (
            AttendanceBegin,
            AttendanceEnd,
            Heartbeat,
        )
        from spark_dlobd.backends.stall import heartbeat_s
        from spark_dlobd.training.loop import LoopOptions, plans, train_rank

        train, validation = plans(job, data, group.size)
        group.check_agreement(self._facts(job, train.describe()))
        parent.tell(Met())
        joined = time.monotonic()
        attendance = group.attendance
        validation_steps = validation.steps_per_epoch if validation is not None else 0
        loop = LoopOptions(
            accumulation_steps=config.gradient_accumulation_steps,
            measured=lambda facts: parent.tell(Measured(facts)),
            first_callbacks=[AttendanceBegin(attendance)],
            last_callbacks=[AttendanceEnd(attendance, train.steps_per_epoch, validation_steps)],
        )
        with Heartbeat(attendance.state, parent.tell, heartbeat_s(config.stall_timeout_s)):
            result = train_rank(model, job, data, group, parent, loop)
        group.close()
        return result, joined

    def _facts(self, job: TrainJob, plan: dict[str, Any]) -> dict[str, Any]:
        """What must be equal on all ranks."""
        return {
            **versions((*ALIKE, *self.alike)),
            "shard plan": plan,
            "model": hashlib.sha256(job.network.archive).hexdigest()[:16],
        }


def _built(parent: Parent, pickles: IO[bytes]) -> tuple[Any, TrainJob, DatasetRef]:
    """The model with its job: Keras objects, the first of which sets TensorFlow up."""
    from spark_dlobd.training.loop import build_model

    parent.phase("build model")
    job, data = pickle.load(pickles)
    return build_model(job), job, data


def _share_gpus(tf: Any) -> None:
    """Let several ranks use one GPU: allocate memory as it is needed."""
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)
