"""The process of one case: ``python -m spark_dlobd.characterize.run.case_main PARENT REQUEST``."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from spark_dlobd.characterize.run.case_request import CaseRequest, write_answer
from spark_dlobd.processes.linux import die_with_parent

LEAVE_S = 15
"""How long a case may take to stop Spark and emulated hosts when it is asked to leave."""


def main(arguments: list[str]) -> int:
    """Run the case and leave its answer in the request's folder."""
    signal.signal(signal.SIGTERM, _leave)
    die_with_parent(int(arguments[0]), signal.SIGTERM)
    request = CaseRequest.read(Path(arguments[1]))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if request.on_this_machine:
        os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    from spark_dlobd.characterize.run.case_session import case_session
    from spark_dlobd.characterize.run.training_case import train_and_test
    from spark_dlobd.processes.worker_interpreter import known_error

    answer: dict[str, Any]
    try:
        with case_session(request) as spark:
            answer = train_and_test(spark, request)
            # before Spark stops: a result is not lost if stopping takes too long
            write_answer(request.folder, answer)
    except Exception as raised:
        error = known_error(raised) or raised
        trace = traceback.format_exc()
        print(trace, file=sys.stderr, flush=True)
        text = f"{type(error).__name__}: {error}"
        write_answer(request.folder, {"error": f"{text}\n\n{trace}"})
        return 1
    return 0


class _AskedToLeave(SystemExit):
    """SIGTERM came: from the runner, or because it died."""


def _leave(number: int, _: object) -> None:
    """Unwind, so that Spark and emulated hosts are stopped; but not for ever."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.alarm(LEAVE_S + 5)  # for code that lets no thread run
    timer = threading.Timer(LEAVE_S, _end_group)
    timer.daemon = True
    timer.start()
    raise _AskedToLeave(128 + number)


def _end_group() -> None:
    """End this process and the JVM, which does not leave if it was about to start."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except _AskedToLeave:
        _end_group()
        raise
