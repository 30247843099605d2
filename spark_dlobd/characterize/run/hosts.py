"""Several hosts on one machine: network namespaces with a Spark standalone cluster in them.

A bridge, and for each host a network namespace with an address, a host name and a Spark
worker of its own, joined by a veth pair whose rate can be limited. The driver and the master
are on the bridge, so no address is localhost. Needs Linux, root and iproute2.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spark_dlobd.errors import ConfigurationError, MissingDependencyError, ResourceError
from spark_dlobd.processes.linux import die_with_parent, end_process_group

_PREFIX = "dlobd"
_COMMAND_TIMEOUT_S = 20.0
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0
_SUBNETS = range(60, 100)
_NEEDED_PROGRAMS = ("ip", "tc", "unshare", "hostname")


@dataclass(frozen=True)
class Host:
    """One emulated host.

    Attributes
    ----------
    name : str
        Of the namespace, and the host name seen inside.
    address : str
        Its IPv4 address.
    """

    name: str
    address: str


class EmulatedHosts:
    """A Spark standalone cluster over emulated hosts, as a context.

    Parameters
    ----------
    count : int
        Number of hosts, 1 to 200, each with one Spark worker.
    rate : str, optional
        Rate of each host's link in both directions as ``tc`` writes it, e.g. ``"1gbit"``.
        Default: not limited.
    cores : int, default 1
        Cores of each Spark worker.
    memory : str, default "1500m"
        Memory of each Spark worker.
    environment : dict of str to str, optional
        Further environment variables of master and workers.

    Attributes
    ----------
    master_url : str
        What ``SparkSession.builder.master`` takes.
    hosts : list of Host
        The hosts.

    Raises
    ------
    ResourceError
        Not root on Linux.
    MissingDependencyError
        A program of iproute2 or util-linux is missing.
    ConfigurationError
        `rate` is not a rate, or `count` is out of range.

    Examples
    --------
    >>> with EmulatedHosts(2, rate="1gbit") as hosts:  # doctest: +SKIP
    ...     builder = SparkSession.builder.master(hosts.master_url)
    ...     for name, value in hosts.spark_conf().items():
    ...         builder = builder.config(name, value)
    ...     spark = builder.getOrCreate()
    """

    def __init__(
        self,
        count: int,
        rate: str | None = None,
        cores: int = 1,
        memory: str = "1500m",
        environment: dict[str, str] | None = None,
    ) -> None:
        check_machine()
        if not 1 <= count <= 200:
            raise ConfigurationError(f"count must be an int from 1 to 200. Got {count!r}.")
        if rate is not None and not re.fullmatch(r"\d+(\.\d+)?[kmg]bit", rate):
            raise ConfigurationError(
                f"rate must be a number with kbit, mbit or gbit, e.g. '1gbit'. Got {rate!r}."
            )
        self._rate = rate
        self._cores = cores
        self._memory = memory
        self._environment = environment or {}
        self._id = f"{_PREFIX}{os.getpid()}"
        self._bridge = f"{_PREFIX}{os.getpid()}br"[-15:]
        self._subnet = _free_subnet()
        self._address = f"{self._subnet}.1"
        self.hosts = [Host(f"{self._id}-{i}", f"{self._subnet}.{i + 11}") for i in range(count)]
        self._undo: contextlib.ExitStack = contextlib.ExitStack()
        self.master_url = ""

    def spark_conf(self) -> dict[str, str]:
        """Settings of a session on these hosts: one executor each, driver on the bridge."""
        return {
            "spark.driver.host": self._address,
            "spark.driver.bindAddress": self._address,
            "spark.executor.cores": str(self._cores),
            "spark.executor.instances": str(len(self.hosts)),
            "spark.cores.max": str(self._cores * len(self.hosts)),
            "spark.ui.enabled": "false",
        }

    def __enter__(self) -> EmulatedHosts:
        remove_stale()
        with contextlib.ExitStack() as stack:
            self._make_network(stack)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spark-dlobd-hosts-"))
            self._start_cluster(stack, Path(folder))
            self._undo = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _make_network(self, stack: contextlib.ExitStack) -> None:
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        stack.callback(_run, "ip", "link", "del", self._bridge)
        _run("ip", "addr", "add", f"{self._address}/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        for index, host in enumerate(self.hosts):
            _run("ip", "netns", "add", host.name)
            stack.callback(_remove_namespace, host.name)
            outside = f"{self._bridge[:-2]}v{index}"
            inside = ["ip", "netns", "exec", host.name]
            _run("ip", "link", "add", outside, "type", "veth", "peer", "eth0", "netns", host.name)
            # the kernel removes it with the namespace, but some time later
            stack.callback(_run, "ip", "link", "del", outside)
            _run("ip", "link", "set", outside, "master", self._bridge, "up")
            _run(*inside, "ip", "addr", "add", f"{host.address}/24", "dev", "eth0")
            _run(*inside, "ip", "link", "set", "eth0", "up")
            _run(*inside, "ip", "link", "set", "lo", "up")
            if self._rate is not None:
                limit = ["root", "tbf", "rate", self._rate, "burst", "512kb", "latency", "100ms"]
                _run("tc", "qdisc", "add", "dev", outside, *limit)
                _run(*inside, "tc", "qdisc", "add", "dev", "eth0", *limit)

    def _start_cluster(self, stack: contextlib.ExitStack, folder: Path) -> None:
        log = folder / "master.log"
        _start(stack, [*_spark_class("master.Master"), "--host", self._address, "--port", "0",
                       "--webui-port", "0"], log, self._env(self._address))  # fmt: skip
        self.master_url = _wait_for(log, r"Starting Spark master at (spark://\S+)", "the master")
        for host in self.hosts:
            worker = [*_spark_class("worker.Worker"), "--host", host.address, "--cores"]
            worker += [str(self._cores), "--memory", self._memory, "--webui-port", "0"]
            worker += ["--work-dir", str(folder / host.name), self.master_url]
            named = 'hostname "$0" && exec "$@"'
            inside = ["ip", "netns", "exec", host.name, "unshare", "--uts"]
            command = [*inside, "sh", "-c", named, host.name, *worker]
            _start(stack, command, folder / f"{host.name}.log", self._env(host.address))
        for host in self.hosts:
            log = folder / f"{host.name}.log"
            _wait_for(log, "Successfully registered with master", f"the worker of {host.name}")

    def _env(self, address: str) -> dict[str, str]:
        import pyspark

        home = {"SPARK_HOME": str(Path(pyspark.__file__).parent), "SPARK_NO_DAEMONIZE": "1"}
        return {**os.environ, **home, **self._environment, "SPARK_LOCAL_IP": address}


def check_machine() -> None:
    """Raise unless this machine can emulate hosts."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise ResourceError(
            "Emulated hosts need root, because only root may make network namespaces. Run as "
            "root, or measure on the hosts you have with their own master URL."
        )
    missing = [program for program in _NEEDED_PROGRAMS if shutil.which(program) is None]
    if missing:
        raise MissingDependencyError(
            f"Emulated hosts need {', '.join(missing)}. On Debian: apt-get install iproute2 "
            "util-linux hostname"
        )


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S)
    if done.returncode:
        raise ResourceError(f"'{' '.join(command)}' failed: {done.stderr.strip()}")
    return done.stdout


def _free_subnet() -> str:
    taken = _run("ip", "-o", "addr")
    for number in _SUBNETS:
        if f" 10.77.{number}." not in taken:
            return f"10.77.{number}"
    raise ResourceError("All subnets 10.77.60.0/24 to 10.77.99.0/24 are in use on this machine.")


def _spark_class(name: str) -> list[str]:
    import pyspark

    script = Path(pyspark.__file__).parent / "bin" / "spark-class"
    return [str(script), f"org.apache.spark.deploy.{name}"]


def _start(
    stack: contextlib.ExitStack, command: list[str], log: Path, environment: dict[str, str]
) -> None:
    owner = os.getpid()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(owner),
        )
    stack.callback(end_process_group, process, _STOP_TIMEOUT_S)


def _wait_for(log: Path, pattern: str, what: str) -> str:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        found = re.search(pattern, log.read_text(errors="replace"))
        if found:
            return found[found.re.groups]
        time.sleep(0.1)
    end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise ResourceError(f"{what} did not start within {_START_TIMEOUT_S:g} s. Its log:\n{end}")


def _remove_namespace(name: str) -> None:
    """End what still runs inside, then delete it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        pids = [int(pid) for pid in _run("ip", "netns", "pids", name).split()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while pids and time.monotonic() < deadline and _run("ip", "netns", "pids", name).strip():
            time.sleep(0.1)
    _run("ip", "netns", "del", name)


def _ours() -> Iterator[tuple[str, int]]:
    """Name and owner of every namespace of this module."""
    for line in _run("ip", "netns", "list").splitlines():
        if found := re.match(rf"({_PREFIX}(\d+)-\d+)\b", line):
            yield found[1], int(found[2])


def remove_stale() -> None:
    """Remove what processes have left that were killed before they could."""
    gone = {owner for _, owner in _ours() if not Path(f"/proc/{owner}").exists()}
    for name, owner in list(_ours()):
        if owner in gone:
            _remove_namespace(name)
    for owner in gone:
        stem = f"{_PREFIX}{owner}br"[-15:-2]
        for link in re.findall(rf"^\d+: ({stem}(?:br|v\d+))\b", _run("ip", "-o", "link"), re.M):
            with contextlib.suppress(ResourceError):  # the kernel may have removed it meanwhile
                _run("ip", "link", "del", link)
