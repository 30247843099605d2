"""The wheel into this environment, and whether it works there."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

from spark_dlobd.errors import BuildError

CHECK_TIMEOUT_S = 300


def install(wheel: Path) -> None:
    """Install `wheel` alone; its dependencies are in the extra ``horovod``."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = _run([*command, "--no-deps", "--force-reinstall", str(wheel)], "pip")
    if done.returncode:
        raise BuildError(f"pip could not install {wheel}:\n{done.stderr.strip()[-2000:]}")


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


def verify() -> None:
    """Load Horovod in a fresh process and see that MPI and Gloo are in it."""
    code = (
        "import horovod.tensorflow as hvd, sys;"
        "sys.exit(0 if hvd.mpi_built() and hvd.gloo_built() else 3)"
    )
    done = _run([sys.executable, "-c", code], "loading Horovod")
    if done.returncode == 3:
        raise BuildError("Horovod was built without MPI or without Gloo.")
    if done.returncode:
        raise BuildError(f"Horovod does not load:\n{done.stderr.strip()[-2000:]}")


def _run(command: list[str], what: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{what} took more than {CHECK_TIMEOUT_S} s.") from error
