"""Questions that are asked in a process of their own.

Loading Horovod or UCX may crash, and starting Spark may hang; neither may
take the doctor with it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from spark_dlobd.processes.interpreter_facts import CODE, Facts, read_facts

_REASONS = (
    re.compile(r"Application has been killed\. Reason: (.+)"),
    re.compile(r"Py4JJavaError: An error occurred while calling .*\n: (.+)"),
)


class ProbeError(Exception):
    """The process failed; the message is the end of what it printed."""


def ask(
    code: str,
    arguments: Sequence[str] = (),
    timeout_s: float = 120.0,
    python: str = sys.executable,
    paths: Sequence[str] = (),
) -> dict[str, Any]:
    """Run `code` in a fresh interpreter and return the JSON of its last line.

    `paths` come after the ones of this process's PYTHONPATH.

    Raises
    ------
    ProbeError
        If it fails, prints something else or takes longer than `timeout_s`.
    """
    output, errors, status = _run([python, "-c", code, *arguments], timeout_s, paths)
    try:
        answer = json.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError):
        answer = None
    if status != 0 or not isinstance(answer, dict):
        reason = last_words(errors.strip() or output)
        raise ProbeError(reason or f"the process exited with {status}")
    return answer


def last_words(text: str) -> str:
    r"""The line that says why a process failed: Spark's reason, else the last one. Pure.

    Examples
    --------
    >>> last_words("Traceback ...\nKeyError: 1\n\tat java.lang.Thread.run(Thread.java:840)")
    'KeyError: 1'
    """
    for pattern in _REASONS:
        if found := pattern.search(text):
            return found[1].strip()
    lines = [line.strip() for line in text.splitlines()]
    said = [line for line in lines if line and not line.startswith(("at ", "... "))]
    return said[-1] if said else ""


def ask_facts(modules: Sequence[str], timeout_s: float = 120.0) -> Facts:
    """What this interpreter has, asked in a fresh process that imports `modules`.

    Raises
    ------
    ProbeError
        If it says nothing.
    """
    limit_s = max(int(timeout_s), 1)
    command = [sys.executable, "-c", CODE, str(limit_s), *modules]
    output, errors, status = _run(command, limit_s + 5)
    try:
        return read_facts(status, output, errors)
    except ValueError as error:
        raise ProbeError(str(error)) from error


def run_program(command: Sequence[str], timeout_s: float = 30.0) -> str:
    """Return what a program prints.

    Raises
    ------
    ProbeError
        If it cannot be started, fails, or takes longer than `timeout_s`.
    """
    output, errors, status = _run(list(command), timeout_s)
    text = (output + errors).strip()
    if status != 0:
        raise ProbeError(f"exit status {status}: {text[-500:]}")
    return text


def _run(command: list[str], timeout_s: float, paths: Sequence[str] = ()) -> tuple[str, str, int]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    if paths:
        before = [own] if (own := os.environ.get("PYTHONPATH")) else []
        environment["PYTHONPATH"] = os.pathsep.join([*before, *paths])
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env=environment,
        )
    except OSError as error:
        raise ProbeError(f"{command[0]} cannot be started: {error}") from error
    with process:
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ProbeError(f"no answer within {timeout_s:g} s") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return output, errors, process.returncode
