"""Questions that are asked in a process of their own.

Loading Horovod or UCX may crash, and starting Spark may hang; neither may
take the doctor with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

HOROVOD = """
import json
import horovod, horovod.tensorflow as hvd
names = ("mpi", "gloo", "nccl", "cuda")
built = {name: bool(getattr(hvd, name + "_built")()) for name in names}
print(json.dumps({"version": horovod.__version__, **built}))
"""

UCX = """
import ctypes, json, sys
uct = ctypes.CDLL(sys.argv[1])
ucp = ctypes.CDLL(sys.argv[2])
ucp.ucp_get_version_string.restype = ctypes.c_char_p
components, count = ctypes.POINTER(ctypes.c_void_p)(), ctypes.c_uint()
status = uct.uct_query_components(ctypes.byref(components), ctypes.byref(count))
names = []
for index in range(count.value if status == 0 else 0):
    # uct_component_attr_t: uint64 field_mask (bit 0: name), char name[16], more that is not asked
    attributes = ctypes.create_string_buffer(1024)
    ctypes.c_uint64.from_buffer(attributes).value = 1
    if uct.uct_component_query(ctypes.c_void_p(components[index]), attributes) == 0:
        names.append(attributes.raw[8:24].split(b"\\0")[0].decode())
version = ucp.ucp_get_version_string().decode()
print(json.dumps({"version": version, "components": names}))
"""

SPARK = """
import dataclasses, json, sys
from pyspark.sql import SparkSession
from spark_dlobd.spark import slots
builder = SparkSession.builder.master(sys.argv[1]).appName("spark-dlobd doctor")
spark = builder.config("spark.ui.enabled", "false").getOrCreate()
try:
    answer = {"version": spark.version, **dataclasses.asdict(slots(spark))}
finally:
    spark.stop()
print(json.dumps(answer))
"""


class ProbeError(Exception):
    """The process failed; the message is the end of what it printed."""


def ask(code: str, arguments: Sequence[str] = (), timeout_s: float = 120.0) -> dict[str, Any]:
    """Run `code` in a fresh interpreter and return the JSON of its last line.

    Raises
    ------
    ProbeError
        If it fails, prints something else or takes longer than `timeout_s`.
    """
    output, errors, status = _run([sys.executable, "-c", code, *arguments], timeout_s)
    try:
        answer = json.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError):
        answer = None
    if status != 0 or not isinstance(answer, dict):
        lines = [line for line in (errors.strip() or output.strip()).splitlines() if line.strip()]
        raise ProbeError(lines[-1].strip() if lines else f"the process exited with {status}")
    return answer


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


def _run(command: list[str], timeout_s: float) -> tuple[str, str, int]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
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
