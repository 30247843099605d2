"""The build itself: source, patches, compiler, and a library that finds its MPI."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from spark_dlobd.errors import BuildError
from spark_dlobd.horovod_build.needs import HOROVOD_VERSION, build_path, require_tools
from spark_dlobd.processes.machine import usable_cores

SDIST_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
BUILD_TIMEOUT_S = 3600


def build(target: Path) -> Path:
    """Build the wheel and move it into `target` in one step."""
    require_tools()
    env = build_environment()
    target.mkdir(parents=True, exist_ok=True)
    log = target / "build.log"
    log.write_bytes(b"")
    print(f"Building Horovod {HOROVOD_VERSION}: several minutes, once. Log: {log}", flush=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target) as folder:
        work = Path(folder)
        source = fetch_source(work, log, env)
        mend_source(source)
        out = work / "wheel"
        pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
        # pip's own wheel cache knows nothing of the patch and of the MPI used
        run([*pip, "--no-cache-dir", "-w", str(out), str(source)], log, env, work)
        (built,) = out.glob("*.whl")
        wheel = relocate(built, work, log, env)
        final = target / wheel.name
        os.replace(wheel, final)
    return final


def build_environment() -> dict[str, str]:
    """Return the environment Horovod's setup.py reads."""
    return {
        **os.environ,
        "PATH": build_path(),
        "HOROVOD_WITH_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_PYTORCH": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_WITH_MPI": "1",
        "MAKEFLAGS": f"-j{usable_cores()}",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def run(command: list[str], log: Path, env: Mapping[str, str], cwd: Path) -> None:
    """Run `command` with its output in `log`; a failure shows the log's end."""
    with log.open("ab") as sink:
        sink.write(f"$ {' '.join(command)}\n".encode())
        sink.flush()
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env=dict(env),
                stdout=sink,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=BUILD_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise BuildError(
                f"'{command[0]}' took more than {BUILD_TIMEOUT_S} s. Log: {log}"
            ) from error
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise BuildError(
            f"'{' '.join(command[:5])} ...' exited with {done.returncode}.\n{tail}\nLog: {log}"
        )


def fetch_source(work: Path, log: Path, env: Mapping[str, str]) -> Path:
    """Download, verify and unpack the source; return its folder."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation"]
    run([*pip, "--no-binary", "horovod", f"horovod=={HOROVOD_VERSION}"], log, env, work)
    archive = work / f"horovod-{HOROVOD_VERSION}.tar.gz"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise BuildError(f"{archive.name} has sha256 {digest}, expected {SDIST_SHA256}.")
    with tarfile.open(archive) as tar:
        tar.extractall(work)
    return work / f"horovod-{HOROVOD_VERSION}"


def mend_source(source: Path) -> None:
    """Drop what TensorFlow 2.21's headers do not compile, and mend Gloo's interface."""
    cmake = source / "horovod" / "tensorflow" / "CMakeLists.txt"
    lines = cmake.read_text().splitlines(keepends=True)
    kept = [line for line in lines if "xla_mpi_ops.cc" not in line]
    if len(kept) != len(lines) - 1:
        raise BuildError(f"Expected one line naming xla_mpi_ops.cc in {cmake}.")
    cmake.write_text("".join(kept))
    gloo = source / "horovod" / "common" / "gloo" / "gloo_context.cc"
    before, definition, body = gloo.read_text().partition("GlooContext::InitializeForProcessSet(")
    ignores, uses = "iface = gloo_iface_;", "iface = global_context.gloo_iface_;"
    if body.count(ignores) != 1:
        raise BuildError(f"Expected one line with '{ignores}' for process sets in {gloo}.")
    gloo.write_text(before + definition + body.replace(ignores, uses))


def relocate(wheel: Path, work: Path, log: Path, env: Mapping[str, str]) -> Path:
    """Return a copy of `wheel` that finds libmpi in whatever environment holds it.

    The compiler wrapper writes the absolute ``lib`` folder of the building
    environment into the library; Open MPI's wheel puts ``libmpi`` there.
    """
    unpacked, packed = work / "unpacked", work / "packed"
    packed.mkdir()
    run([sys.executable, "-m", "wheel", "unpack", "-d", str(unpacked), str(wheel)], log, env, work)
    (root,) = unpacked.iterdir()
    for library in root.rglob("*.so"):
        depth = len(library.parent.relative_to(root).parts)
        # ... up to site-packages, then pythonX.Y, then lib
        rpath = "/".join(["$ORIGIN", *[".."] * (depth + 2)])
        run(["patchelf", "--set-rpath", rpath, str(library)], log, env, work)
    run([sys.executable, "-m", "wheel", "pack", "-d", str(packed), str(root)], log, env, work)
    (result,) = packed.glob("*.whl")
    return result
