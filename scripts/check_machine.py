"""Say what this machine lacks, and the command that brings it, before anything is installed.

Needs nothing but the standard library, and also runs on interpreters that are
too old for the package, so that it can say so.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

PYTHON_MIN, PYTHON_END = (3, 10), (3, 13)
JAVA_MIN = 17


def python_problem() -> str | None:
    """Return what is wrong with the running interpreter."""
    if not PYTHON_MIN <= sys.version_info[:2] < PYTHON_END:
        have = ".".join(map(str, sys.version_info[:3]))
        return (
            f"Python 3.10, 3.11 or 3.12 is needed, {sys.executable} is {have}. "
            "Run make with one of them: make PYTHON=/path/to/python3.11 ... "
            "(Debian: apt-get install python3.11 python3.11-venv; pyenv: pyenv install 3.11)"
        )
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            return (
                f"{sys.executable} has no module '{module}' "
                f"(Debian: apt-get install python{version}-venv)."
            )
    return None


def java_problem() -> str | None:
    """Return what is wrong with the Java that Spark would start."""
    hint = (
        f"Spark 4 needs Java {JAVA_MIN} or newer. Put one on PATH or set JAVA_HOME "
        "(Debian: apt-get install openjdk-17-jre-headless)."
    )
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if java is None:
        return f"java was not found. {hint}"
    try:
        done = subprocess.run(
            [java, "-version"], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{java} does not run: {error}. {hint}"
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    if match is None:
        return f"{java} -version printed no version. {hint}"
    if int(match.group(1)) < JAVA_MIN:
        return f"{java} is Java {match.group(1)}. {hint}"
    return None


def compiler_problem() -> str | None:
    """Return what is missing to compile Horovod (cmake and MPI come from PyPI)."""
    missing = [program for program in ("g++", "make") if shutil.which(program) is None]
    if not missing:
        return None
    return (
        f"{' and '.join(missing)} not found, needed to build the Horovod wheel once "
        f"(Debian: apt-get install {' '.join(missing)})."
    )


def main(argv: list[str]) -> int:
    """Print every problem; exit with 1 if there is one."""
    checks: list[Callable[[], str | None]] = [python_problem, java_problem]
    if "--build" in argv:
        checks.append(compiler_problem)
    problems = [problem for check in checks if (problem := check())]
    for problem in problems:
        print(f"missing: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
