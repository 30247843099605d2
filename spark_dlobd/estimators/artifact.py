"""Bytes on their way to the workers of a Spark Connect session, which has no broadcasts."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class Artifact:
    """A file that the session has sent to its workers.

    Attributes
    ----------
    name : str
        Of the file there.
    """

    name: str

    @property
    def value(self) -> bytes:
        """The bytes. Runs on each worker."""
        from pyspark import SparkFiles

        return Path(SparkFiles.get(self.name)).read_bytes()


def add_artifact(spark: SparkSession, content: bytes) -> Artifact:
    """Send bytes to the session; its workers fetch them when they ask. Runs on the driver."""
    name = f"spark-dlobd-{hashlib.sha256(content).hexdigest()[:40]}"
    with tempfile.TemporaryDirectory(prefix="spark-dlobd-") as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        spark.addArtifacts(str(path), file=True)
    return Artifact(name)
