"""A standalone Spark cluster of processes that the test owns, from the pip install."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_START_TIMEOUT_S = 60.0


class StandaloneCluster:
    """Master and workers with a core each. A context manager.

    Parameters
    ----------
    folder : Path
        For logs, work and local directories.
    conf : mapping of str to str
        Of the daemons.
    hosts : sequence of str
        An address of the loopback network for each worker.
    environment : mapping of str to str or None
        Environment variables of the processes, instead of those of the tests.
    """

    def __init__(
        self,
        folder: Path,
        conf: Mapping[str, str] | None = None,
        hosts: Sequence[str] = ("127.0.0.1", "127.0.0.1"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._environment = os.environ if environment is None else environment
        self._hosts = hosts
        self._processes: list[subprocess.Popen[bytes]] = []
        self._properties = folder / "daemons.conf"
        lines = [f"{key} {value}" for key, value in (conf or {}).items()]
        self._properties.write_text("\n".join(["spark.ui.enabled false", *lines]) + "\n")
        self.url = ""

    def __enter__(self) -> StandaloneCluster:
        try:
            log = self._start("master", "Master", "127.0.0.1", [])
            self.url = self._wait(log, r"Starting Spark master at (spark://\S+)")
            workers = []
            for number, host in enumerate(self._hosts):
                folder = self._folder / f"work-{number}"
                options = ["--cores", "1", "--memory", "1g", "--work-dir", str(folder), self.url]
                workers.append(self._start(f"worker-{number}", "Worker", host, options))
            for log in workers:
                self._wait(log, r"Successfully registered with (master \S+)")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)

    def _start(self, name: str, kind: str, host: str, options: list[str]) -> Path:
        import pyspark

        home = Path(pyspark.__file__).parent
        package = f"org.apache.spark.deploy.{kind.lower()}.{kind}"
        ports = ["--host", host, "--port", "0", "--webui-port", "0"]
        properties = ["--properties-file", str(self._properties)]
        environment: dict[str, Any] = {
            **self._environment,
            "SPARK_HOME": str(home),
            "SPARK_LOCAL_IP": host,
            "SPARK_LOCAL_DIRS": str(self._folder),
            "SPARK_DAEMON_MEMORY": "256m",
        }
        log = self._folder / f"{name}.log"
        with log.open("wb") as stream:
            self._processes.append(
                subprocess.Popen(
                    [str(home / "bin" / "spark-class"), package, *ports, *properties, *options],
                    env=environment,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                )
            )
        return log

    def _wait(self, log: Path, pattern: str) -> str:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            text = log.read_text()
            if found := re.search(pattern, text):
                return found[1]
            ended = [p.args for p in self._processes if p.poll() is not None]
            assert not ended, f"ended: {ended}\n{text}"
            assert time.monotonic() < deadline, f"no {pattern!r} in {log}:\n{text}"
            time.sleep(0.1)
